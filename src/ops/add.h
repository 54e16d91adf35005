// Sum of two to four tensors: residual adds, and the gradient of a value used several times. Each gradient is the output's own.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "ops/policy.h"

namespace weft::ops {

// Addends of one shape and dtype, contiguous. Summed left to right in fp32 (fp64 for fp64) and rounded once. ShapeError.
at::Tensor add(const std::vector<at::Tensor>& addends, const Policy&);

}  // namespace weft::ops
