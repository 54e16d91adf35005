// `address` of tensors.h with a type. Sources only: include after ops/aten.h.
#pragma once
#include "ops/tensors.h"

namespace weft::ops {

template <class T>
T* address_of(const at::Tensor& t) { return static_cast<T*>(address(t)); }

}  // namespace weft::ops
