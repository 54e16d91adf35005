#include "ops/aten.h"

#include "nn/head.h"

#include "ops/linear.h"
#include "ops/linear_cross_entropy.h"

namespace weft::nn {

Head::Head(int64_t vocab, int64_t dim, double init_std)
    : weight_(param({"weight", {vocab, dim}, Split::kVocab, {}, {Init::kNormal, init_std}, GradUse::kPerToken, true, false, false})) {}

Head::Head(ops::Weight& tied) : weight_(tied) {}

namespace {

at::Tensor last_of_each_document(const ops::Packing& packing, at::Device device) {
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < packing.documents(); ++i) rows.push_back(packing.host_cu_q[static_cast<size_t>(i) + 1] - 1);
  return at::tensor(rows, at::kLong).to(device);
}

}  // namespace

Flow Head::forward(Flow f, const CtxPtr& ctx) {
  if (ctx->mode == Ctx::kPrefill || ctx->mode == Ctx::kDecode) {
    const at::Tensor last = f.x_TD.index_select(0, last_of_each_document(ctx->packing, f.x_TD.device()));
    f.x_TD = ops::linear(last, weight_, {}, nullptr, ctx->ops).to(at::kFloat);
    return f;
  }
  if (ctx->mode == Ctx::kLogprob) {
    f.x_TD = -ops::linear_cross_entropy(f.x_TD, weight_, ctx->targets_T, {}, {}, ctx->ops).loss_T;
    return f;
  }
  // d loss / d nll is known before the backward: the weights times the scale. So the gradients may come with the forward's logits.
  const at::Tensor g_T = ctx->loss_weights_T * ctx->loss_scale.lm;
  ops::LossOptions options;
  options.weights_are_cotangents = !ctx->logits_again;
  const at::Tensor nll_T = ops::linear_cross_entropy(f.x_TD, weight_, ctx->targets_T, g_T, options, ctx->ops).loss_T;
  f.loss = at::dot(nll_T, g_T.to(nll_T.scalar_type()));
  if (StepStats* s = ctx->figures()) s->add("loss", at::dot(nll_T.detach(), ctx->loss_weights_T.to(nll_T.scalar_type())), ctx->loss_weight_sum);
  if (f.aux_loss.defined()) f.loss = f.loss + f.aux_loss * ctx->loss_scale.aux;
  return f;
}

}  // namespace weft::nn
