// Tokens to expert order and back (kernels/permute/permute.h). Rows come expert by expert; no token is dropped.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/policy.h"

namespace weft::ops {

struct ExpertPlan {
  at::Tensor counts_E;        // int32, rows of each expert without padding
  at::Tensor ends_E;          // int32, row after each expert's last (padding included)
  at::Tensor row_of_slot_Tk;  // int32, -1: dropped
  at::Tensor slot_of_row_R;   // int32, -1: padding
  int64_t rows = 0;           // R: tokens * k + experts * (align - 1)
};

// indices [T, k] int32 (-1: dropped). Each expert's rows are padded up to a multiple of `align`.
ExpertPlan plan_experts(const at::Tensor& indices_Tk, int64_t experts, int64_t align, const Policy&);

// x [T, D] -> [R, D]; rows of padding are zero.
at::Tensor permute(const at::Tensor& x_TD, const ExpertPlan&, const Policy&);
struct Permuted { at::Tensor rows_RD, weights_R; };
// The same, and each row's weight (0 in padding rows): an activation that multiplies by it spares `unpermute` the weights, and with them
// the experts' outputs in the backward. weights [T, k] fp32 (fp64 for fp64).
Permuted permute(const at::Tensor& x_TD, const at::Tensor& weights_Tk, const ExpertPlan&, const Policy&);
// y[t] = sum_j x[row of (t, j)].
at::Tensor unpermute(const at::Tensor& x_RD, const ExpertPlan&, const Policy&);
// y[t] = sum_j weights[t, j] * x[row of (t, j)], summed in fp32 in the order of j. weights [T, k] fp32 (fp64 for fp64).
at::Tensor unpermute(const at::Tensor& x_RD, const at::Tensor& weights_Tk, const ExpertPlan&, const Policy&);

namespace reference {
ExpertPlan plan_experts(const at::Tensor& indices_Tk, int64_t experts, int64_t align);
at::Tensor permute(const at::Tensor& x_TD, const ExpertPlan&);
at::Tensor permute_bwd(const at::Tensor& dy_RD, const ExpertPlan&);
at::Tensor row_weights(const at::Tensor& weights_Tk, const ExpertPlan&);
at::Tensor unpermute(const at::Tensor& x_RD, const at::Tensor& weights_Tk, const ExpertPlan&);
std::pair<at::Tensor, at::Tensor> unpermute_bwd(const at::Tensor& dy_TD, const at::Tensor& x_RD, const at::Tensor& weights_Tk, const ExpertPlan&);
}  // namespace reference
}  // namespace weft::ops
