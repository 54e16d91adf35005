#include "ops/aten.h"

#include "nn/ffn/moe.h"

#include "base/error.h"
#include "ops/grouped_linear.h"
#include "ops/permute.h"
#include "ops/route.h"

namespace weft::nn {
namespace {

ops::RouterScore router_score(RouterScore s) {
  switch (s) {
    case RouterScore::kSoftmaxPost: return ops::RouterScore::kSoftmaxPost;
    case RouterScore::kSoftmaxPre: return ops::RouterScore::kSoftmaxPre;
    case RouterScore::kSigmoid: return ops::RouterScore::kSigmoid;
    case RouterScore::kSqrtSoftplus: return ops::RouterScore::kSqrtSoftplus;
  }
  throw InternalError("moe: unknown score");
}

ParamSpec experts_spec(const char* name, int64_t experts, int64_t out, int64_t in, double std) {
  return {name, {experts, out, in}, Split::kExpert, {}, {Init::kNormal, std}, GradUse::kPerToken, true, false, true};
}

}  // namespace

int MoeConfig::width(int model_dim) const {
  if (ffn_dim > 0) return ffn_dim;
  const int dense = MlpConfig{0, activation, false}.width(model_dim);
  return (dense / top_k + 31) / 32 * 32;
}

void MoeConfig::check(std::vector<Problem>& out) const {
  if (top_k > num_experts) out.push_back({"top_k", "is above num_experts: got " + std::to_string(top_k) + " of " + std::to_string(num_experts)});
  else if (num_experts % num_groups != 0) out.push_back({"num_groups", "does not divide num_experts: got " + std::to_string(num_groups) + " and " + std::to_string(num_experts)});
  else if (top_groups > num_groups) out.push_back({"top_groups", "is above num_groups: got " + std::to_string(top_groups) + " of " + std::to_string(num_groups)});
  else if (top_k > top_groups * (num_experts / num_groups)) out.push_back({"top_k", "is above the experts of top_groups groups"});
  const bool softmax = score == RouterScore::kSoftmaxPost || score == RouterScore::kSoftmaxPre;
  if (bias_rate > 0 && softmax) out.push_back({"bias_rate", "needs score sigmoid or sqrtsoftplus"});
}

Moe::Moe(const MoeConfig& c, const LayerInfo& layer)
    : config_(c),
      router_(param({"router", {c.num_experts, layer.model_dim}, Split::kNone, {}, {Init::kNormal, layer.init_std}, GradUse::kPerToken, true, true, false})),
      fc1_(param(experts_spec("experts.fc1", c.num_experts, (gated(c.activation) ? 2 : 1) * c.width(layer.model_dim), layer.model_dim, layer.init_std))),
      fc2_(param(experts_spec("experts.fc2", c.num_experts, layer.model_dim, c.width(layer.model_dim), layer.output_std()))) {
  if (gated(c.activation)) {
    // gate | up of every expert are cut each on its own.
    visit_params([&](Param& p) {
      if (&p.weight == &fc1_) p.spec.segments = {c.width(layer.model_dim), c.width(layer.model_dim)};
    });
  }
  if (c.bias_rate > 0) bias_ = &buffer("expert_bias", {c.num_experts}, DType::kF32);
  if (c.shared_ffn_dim > 0) shared_ = &child("shared", std::make_unique<Mlp>(MlpConfig{c.shared_ffn_dim, c.activation, false}, layer));
}

Flow Moe::forward(Flow f, const CtxPtr& ctx) {
  ops::RouteOptions o;
  o.score = router_score(config_.score), o.k = config_.top_k, o.groups = config_.num_groups, o.top_groups = config_.top_groups;
  o.scaling = config_.scaling, o.aux_loss = config_.aux_loss, o.z_loss = config_.z_loss;
  if (bias_ != nullptr) o.bias_E = *bias_;
  const ops::Routing r = ops::route(f.x_TD, router_, o, ctx->ops);
  if (StepStats* s = ctx->figures()) {
    s->add(path() + ".load", r.counts_E, 1);
    if (r.aux_loss.defined()) s->add("aux_loss", r.aux_loss, 1);
  }
  if (r.aux_loss.defined()) f.aux_loss = f.aux_loss.defined() ? f.aux_loss + r.aux_loss : r.aux_loss;

  const ops::ExpertPlan plan = ops::plan_experts(r.indices_Tk, router_.value.size(0), 1, ctx->ops);
  // fc2 is linear and has no bias, so a token's weight may stand before it: no pass of its own, and out_RD is not kept for the backward.
  const auto [rows_RD, weights_R] = ops::permute(f.x_TD, r.weights_Tk, plan, ctx->ops);
  const at::Tensor hidden_RF = activate(config_.activation, ops::grouped_linear(rows_RD, fc1_, plan.ends_E, {}, ctx->wgrad, ctx->ops), ctx, weights_R);
  const at::Tensor out_RD = ops::grouped_linear(hidden_RF, fc2_, plan.ends_E, {}, ctx->wgrad, ctx->ops);
  at::Tensor y_TD = ops::unpermute(out_RD, plan, ctx->ops);
  if (shared_ != nullptr) y_TD = y_TD + (*shared_)(f.x_TD, ctx);
  f.x_TD = y_TD;
  return f;
}

// Aux-loss-free balancing (Wang et al. 2024): experts that got more than the mean step down, the others up.
void Moe::after_step(const StepStats& stats) {
  if (bias_ == nullptr) return;
  const auto load = stats.find(path() + ".load");
  if (!load.defined()) return;
  const at::NoGradGuard no_grad;
  bias_->add_((load.mean() - load).sign(), config_.bias_rate);
}

}  // namespace weft::nn
