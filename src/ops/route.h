// The router of a mixture of experts in one node: fp32 logits x W^T, choice of k experts, their weights, and the losses that
// balance them (kernels/router/router.h and kernels/aux_loss/aux_loss.h have the formulas; training.md B1-B3).
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/policy.h"
#include "ops/weight.h"

namespace weft::ops {

enum class RouterScore : uint8_t { kSoftmaxPre, kSoftmaxPost, kSigmoid, kSqrtSoftplus };

struct RouteOptions {
  RouterScore score = RouterScore::kSoftmaxPost;
  int64_t k = 2, groups = 1, top_groups = 1;
  double scaling = 1;       // of the weights
  double aux_loss = 0;      // coefficient of the load-balancing loss; 0: none
  double z_loss = 0;        // coefficient of mean(logsumexp(z)^2); 0: none
  at::Tensor bias_E = {};   // fp32, added for the choice only
  at::Tensor valid_T = {};  // bool: false is padding. Undefined: all valid
  at::Tensor cu = {};       // [documents + 1] int32: balance each document on its own. Undefined: the whole batch
};

struct Routing {
  at::Tensor weights_Tk;  // fp32 (fp64 for fp64), with gradient
  at::Tensor indices_Tk;  // int32, best first; -1 for padding
  at::Tensor counts_E;    // int32, tokens that chose each expert
  at::Tensor aux_loss;    // [] with gradient; undefined when no loss is asked for
};

// x [T, D] any float dtype; w [E, D] fp32 (fp64 for fp64). ShapeError when k, groups or shapes do not fit.
Routing route(const at::Tensor& x_TD, Weight& w_ED, const RouteOptions&, const Policy&);

namespace reference {
struct Scores {
  at::Tensor weights, indices, scores, lse;  // scores: normalised, for the balancing loss
};
Scores router(const at::Tensor& logits_TE, const RouteOptions&);
at::Tensor router_bwd(const at::Tensor& logits_TE, const at::Tensor& indices_Tk, const at::Tensor& dweights, const at::Tensor& dscores,
                      const at::Tensor& dlse, const RouteOptions&);
}  // namespace reference
}  // namespace weft::ops
