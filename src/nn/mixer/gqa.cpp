#include "ops/aten.h"

#include "nn/mixer/gqa.h"

#include "ops/attention.h"
#include "ops/qkv.h"

namespace weft::nn {
namespace {

struct Heads {
  int64_t q, kv, dim;
  Heads(const GqaConfig& c, const LayerInfo& layer)
      : q(c.num_heads), kv(c.num_kv_heads > 0 ? c.num_kv_heads : c.num_heads), dim(c.head_dim > 0 ? c.head_dim : layer.model_dim / c.num_heads) {}
};

LinearSpec qkv_spec(const Heads& h, const LayerInfo& layer) {
  return {layer.model_dim, (h.q + 2 * h.kv) * h.dim, Split::kColumn, {h.q * h.dim, h.kv * h.dim, h.kv * h.dim}, layer.init_std};
}

}  // namespace

Gqa::Gqa(const GqaConfig& c, const LayerInfo& layer)
    : head_dim_(static_cast<int>(Heads(c, layer).dim)),
      q_per_kv_(static_cast<int>(Heads(c, layer).q / Heads(c, layer).kv)),
      window_(c.window),
      norm_eps_(layer.norm_eps),
      rope_base_(c.rope ? c.rope_base : 0),
      qkv_(child("qkv", std::make_unique<Linear>(qkv_spec(Heads(c, layer), layer)))),
      out_(child("out", std::make_unique<Linear>(
                            LinearSpec{Heads(c, layer).q * Heads(c, layer).dim, layer.model_dim, Split::kRow, {}, layer.output_std()}))) {
  if (!c.qk_norm) return;
  const auto norm = [&](const char* name) {
    return &param({name, {head_dim_}, Split::kNone, {}, {Init::kOne, 0}, GradUse::kPerHead, false, false, false});
  };
  q_norm_ = norm("q_norm"), k_norm_ = norm("k_norm");
}

std::vector<StateSpec> Gqa::states() const {
  const int64_t kv = qkv_.out_features() / head_dim_ / (q_per_kv_ + 2);
  const auto grows = window_ > 0 ? StateSpec::kPerWindow : StateSpec::kPerToken;
  const DType dtype = qkv_.dtype();
  return {{path() + ".k", grows, window_, {kv, head_dim_}, dtype, true}, {path() + ".v", grows, window_, {kv, head_dim_}, dtype, true}};
}

Flow Gqa::forward(Flow f, const CtxPtr& ctx) {
  const at::Tensor projected = qkv_(f.x_TD, ctx);
  const int64_t kv = projected.size(1) / head_dim_ / (q_per_kv_ + 2);
  ops::QkvOptions o{kv * q_per_kv_, kv, q_norm_, k_norm_, norm_eps_};
  if (rope_base_ > 0) o.rope = rope_.covering(ctx->packing.max_kv, head_dim_, rope_base_, projected.device());
  auto [q_THd, k_TGd, v_TGd] = ops::qkv(projected, ctx->positions_T, o, ctx->ops);
  if (ctx->state != nullptr) {
    k_TGd = ctx->state->append(path() + ".k", k_TGd);
    v_TGd = ctx->state->append(path() + ".v", v_TGd);
  }
  ops::AttentionOptions a;
  if (window_ > 0) a.window_left = window_ - 1;
  const at::Tensor y_THd = ops::attention(q_THd, k_TGd, v_TGd, ctx->packing, a, ctx->ops).o_THV;
  f.x_TD = out_(y_THd.view({y_THd.size(0), -1}), ctx);
  return f;
}

}  // namespace weft::nn
