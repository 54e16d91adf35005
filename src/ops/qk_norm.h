// RMSNorm of every head's row (Henry et al. 2020), as attention takes of q and k; without a weight the L2 form of delta nets (Yang et al. 2024):
//   y[t, h, :] = x / sqrt(mean_d(x^2) + eps) * w,  or  y = x / sqrt(sum_d(x^2) + eps).
// For mixers whose heads are normed and nothing else: in grouped-query attention the norm is part of ops/qkv, which splits, norms and
// rotates in one pass.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/policy.h"
#include "ops/weight.h"

namespace weft::ops {

// x [T, H, d], a token's heads contiguous, tokens possibly apart (a part of a projection); w [d] of x's dtype or fp32, or null for the L2
// form. Returns [T, H, d] contiguous. Sums in fp32 (fp64 for fp64). ShapeError.
at::Tensor qk_norm(const at::Tensor& x_THd, Weight* w, double eps, const Policy&);

// The same without a node, for the nodes of mixers.
struct NormedHeads {
  at::Tensor y_THd, rstd_TH;  // rstd: fp32; undefined where the expression ran
};
NormedHeads normed_heads(const at::Tensor& x_THd, const Weight* w, double eps, bool backward_follows, const Policy&);
// Writes dx [T, H, d] (strided as x may be), adds to w's main_grad and calls its done().
void normed_heads_bwd(const at::Tensor& dy_THd, const at::Tensor& x_THd, Weight* w, double eps, const at::Tensor& rstd_TH, const at::Tensor& dx_THd, const Policy&);

}  // namespace weft::ops
