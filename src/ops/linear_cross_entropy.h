// Cross-entropy of a linear head that never holds the logits (nam56r.md 6.2), with z = x w^T, y the targets:
//   lse_i = log sum_v exp z_iv      loss_i = lse_i - z_{i,y_i} + z_loss * lse_i^2, 0 where y_i is ignore_index
// Backward takes any gradient g_i of each loss and h_i of each lse; ignored rows give none:
//   dz_iv = (g_i (1 + 2 z_loss lse_i) + h_i) exp(z_iv - lse_i) - g_i [v = y_i]      dx = dz w      dw += dz^T x into main_grad
// Logits are made again in backward, a tile of the vocabulary at a time, and only lse is kept: four products, 64 MB. Where g is known before the
// forward (LossOptions::weights_are_cotangents), dx and dw are made with the forward's logits, some tokens at a time: three products.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/policy.h"
#include "ops/weight.h"

namespace weft::ops {

struct LossOptions {
  int64_t ignore_index = -1;
  double z_loss = 0;
  int64_t chunk = 0;  // logits held at once, in elements; 0: 2^25, or by ops/loss_chunks.h on a GPU with weights_are_cotangents (under 1 GB)
  // True: backward will be given loss_weights_T as the gradient of loss_T (to 1e-5 of each) and none of lse_T. A factor that comes later, such as
  // that of a loss scale, must be in the weights: dw is added up when backward begins. Where it is given others, backward throws InternalError on
  // the CPU. On a GPU the host does not wait for the comparison: dx and the first element of dw become NaN, which a step's norm of gradients shows.
  bool weights_are_cotangents = false;
  at::Tensor* correct_T = nullptr;  // out: [T] u8, 1 where the highest logit is the target's (ties to the lower index)
};

struct TokenLoss {
  at::Tensor loss_T, lse_T;  // [T] fp32 (fp64 for fp64 x); the log-prob of a target is -loss_T when z_loss is 0
};

// x_TD [T, D], w_VD [V, D], contiguous, one dtype; targets_T [T] int64 in [0, V) or ignore_index; loss_weights_T [T] fp32, read only
// for weights_are_cotangents (else may be undefined). The loss returned is not weighted. ShapeError, UnsupportedError.
TokenLoss linear_cross_entropy(const at::Tensor& x_TD, Weight& w_VD, const at::Tensor& targets_T, const at::Tensor& loss_weights_T,
                               const LossOptions&, const Policy&);

namespace reference {
TokenLoss linear_cross_entropy(const at::Tensor& x_TD, const at::Tensor& w_VD, const at::Tensor& targets_T, const LossOptions&);
// dloss_T or dlse_T may be undefined (zero). Returns (dx in x's dtype, dw in the accumulation dtype).
std::pair<at::Tensor, at::Tensor> linear_cross_entropy_bwd(const at::Tensor& dloss_T, const at::Tensor& dlse_T, const at::Tensor& x_TD,
                                                           const at::Tensor& w_VD, const at::Tensor& targets_T, const LossOptions&);
}  // namespace reference
}  // namespace weft::ops
