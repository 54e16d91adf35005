#include "ops/aten.h"

#include "nn/norm.h"

#include "ops/rmsnorm.h"

namespace weft::nn {

Norm::Norm(int64_t dim, double eps)
    : weight_(param({"weight", {dim}, Split::kNone, {}, {Init::kOne, 0}, GradUse::kPerToken, false, false, false})), eps_(eps) {}

Norm::Added Norm::add_and_norm(const at::Tensor& x_TD, const at::Tensor& pending_TD, const CtxPtr& ctx) {
  if (!pending_TD.defined()) return {x_TD, ops::rms_norm(x_TD, weight_, eps_, ctx->ops)};
  auto [sum, normed] = ops::add_rms_norm(x_TD, pending_TD, weight_, eps_, ctx->ops);
  return {sum, normed};
}

Flow Norm::forward(Flow f, const CtxPtr& ctx) {
  f.x_TD = add_and_norm(f.x_TD, f.pending_TD, ctx).normed_TD;
  f.pending_TD = at::Tensor();
  return f;
}

}  // namespace weft::nn
