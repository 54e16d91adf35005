// RMSNorm over the last dim (Zhang and Sennrich 2019): y = x / sqrt(mean(x^2) + eps) * w.
#pragma once
#include <ATen/core/Tensor.h>

#include <utility>

#include "ops/policy.h"
#include "ops/weight.h"

namespace weft::ops {

// x [..., D] contiguous; w [D] of x's dtype. Returns [..., D]. Sums and rstd in fp32 (fp64 for fp64). ShapeError if D differs.
at::Tensor rms_norm(const at::Tensor& x, Weight& w, double eps, const Policy&);

struct AddedNorm {
  at::Tensor sum, normed;
};
// sum = x + pending rounded to their dtype, normed = rms_norm(sum), in one pass: what a residual branch does with the output of the
// branch before it. x, pending [..., D] contiguous, one dtype; w [D]. The gradients of x and of pending are one tensor.
AddedNorm add_rms_norm(const at::Tensor& x, const at::Tensor& pending, Weight& w, double eps, const Policy&);

// Mamba-2's norm: u = y * silu(z), normed over each of `groups` equal parts of the last dim, times w.
// y, z [..., D], last dim contiguous, leading dims as of one matrix (a slice of a projection is fine); w [D]. Returns [..., D].
// gate_first false: norm(y) * w * silu(z) (delta nets); w may then be [D / groups], shared by the groups.
at::Tensor gated_rms_norm(const at::Tensor& y, const at::Tensor& z, Weight& w, int64_t groups, double eps, const Policy&,
                          bool gate_first = true);

namespace reference {
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& w, double eps);
// Returns (dx in x's dtype, dw in the accumulation dtype).
std::pair<at::Tensor, at::Tensor> rms_norm_bwd(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& w, double eps);
}  // namespace reference
}  // namespace weft::ops
