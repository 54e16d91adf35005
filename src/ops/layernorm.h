// LayerNorm (Ba et al. 2016) over the last dim, alone or with the residual add in front.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/policy.h"
#include "ops/rmsnorm.h"
#include "ops/weight.h"

namespace weft::ops {

// y = (x - mean) * rstd * w + b. x [..., D] contiguous; w, b [D] of x's dtype; b may be null. ShapeError if D differs.
at::Tensor layer_norm(const at::Tensor& x, Weight& w, Weight* b, double eps, const Policy&);
// sum = x + pending rounded to their dtype, normed = layer_norm(sum), in one pass.
AddedNorm add_layer_norm(const at::Tensor& x, const at::Tensor& pending, Weight& w, Weight* b, double eps, const Policy&);

}  // namespace weft::ops
