// y = x + b over the last dim.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/policy.h"
#include "ops/weight.h"

namespace weft::ops {

// x [..., D] contiguous; b [D] of x's dtype. Returns [..., D]. ShapeError if D differs.
at::Tensor add_bias(const at::Tensor& x, Weight& b, const Policy&);

}  // namespace weft::ops
