// RMSNorm over the last dim (Zhang and Sennrich 2019): y = x / sqrt(mean(x^2) + eps) * w.
#pragma once
#include <ATen/core/Tensor.h>

#include <utility>

#include "ops/policy.h"
#include "ops/weight.h"

namespace weft::ops {

// x [..., D] contiguous; w [D] of x's dtype. Returns [..., D]. Sums and rstd in fp32 (fp64 for fp64). ShapeError if D differs.
at::Tensor rms_norm(const at::Tensor& x, Weight& w, double eps, const Policy&);

namespace reference {
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& w, double eps);
// Returns (dx in x's dtype, dw in the accumulation dtype).
std::pair<at::Tensor, at::Tensor> rms_norm_bwd(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& w, double eps);
}  // namespace reference
}  // namespace weft::ops
