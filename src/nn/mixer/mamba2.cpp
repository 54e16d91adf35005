#include "ops/aten.h"

#include "nn/mixer/mamba2.h"

#include <cmath>

#include "base/error.h"
#include "ops/mamba2.h"
#include "ops/rmsnorm.h"

namespace weft::nn {
namespace {

struct Sizes {
  int64_t heads, inner, bc, channels;  // H, HP, GN, conv channels
  Sizes(const Mamba2Config& c, const LayerInfo& layer)
      : heads(c.heads(layer.model_dim)), inner(heads * c.head_dim), bc(int64_t{c.num_groups} * c.state_dim), channels(inner + 2 * bc) {
    if (heads < 1 || heads % c.num_groups != 0)
      throw ConfigError("mamba2.num_groups: got " + std::to_string(c.num_groups) + ", want a divisor of the " + std::to_string(heads) +
                        " heads\n  try: mamba2.head_dim or mamba2.num_heads for more heads");
  }
  std::vector<int64_t> projected() const { return {inner, inner, bc, bc, heads}; }
};

LinearSpec in_spec(const Sizes& s, const LayerInfo& layer) {
  return {layer.model_dim, s.inner + s.channels + s.heads, Split::kColumn, s.projected(), layer.init_std};
}

// A in (1, 16), and steps dt log-uniform in (1e-3, 1e-1): softplus(dt_bias) = dt.
double init_A_log(double u) { return std::log(1 + 15 * u); }
double init_dt_bias(double u) {
  const double dt = std::max(1e-4, std::exp(std::log(1e-3) + u * (std::log(1e-1) - std::log(1e-3))));
  return dt + std::log(-std::expm1(-dt));
}

ParamSpec per_head(const char* name, const Sizes& s, Init init) {
  return {name, {s.heads}, Split::kColumn, {}, init, GradUse::kPerToken, false, true, false};
}

}  // namespace

Mamba2::Mamba2(const Mamba2Config& c, const LayerInfo& layer)
    : head_dim_(c.head_dim),
      state_dim_(c.state_dim),
      inner_per_group_(static_cast<int>(Sizes(c, layer).inner / c.num_groups)),
      norm_eps_(c.norm_eps),
      in_proj_(child("in_proj", std::make_unique<Linear>(in_spec(Sizes(c, layer), layer)))),
      conv_weight_(param({"conv.weight", {Sizes(c, layer).channels, c.conv_width}, Split::kColumn,
                          {Sizes(c, layer).inner, Sizes(c, layer).bc, Sizes(c, layer).bc},
                          {Init::kUniform, 1 / std::sqrt(static_cast<double>(c.conv_width))}, GradUse::kPerToken, true, false, false})),
      conv_bias_(param({"conv.bias", {Sizes(c, layer).channels}, Split::kColumn, {Sizes(c, layer).inner, Sizes(c, layer).bc, Sizes(c, layer).bc},
                        {Init::kUniform, 1 / std::sqrt(static_cast<double>(c.conv_width))}, GradUse::kPerToken, false, false, false})),
      A_log_(param(per_head("A_log", Sizes(c, layer), {Init::kCustom, 0, init_A_log}))),
      dt_bias_(param(per_head("dt_bias", Sizes(c, layer), {Init::kCustom, 0, init_dt_bias}))),
      D_(param(per_head("D", Sizes(c, layer), {Init::kOne, 0}))),
      norm_weight_(param({"norm.weight", {Sizes(c, layer).inner}, Split::kColumn, {}, {Init::kOne, 0}, GradUse::kPerToken, false, false, false})),
      out_proj_(child("out_proj", std::make_unique<Linear>(LinearSpec{Sizes(c, layer).inner, layer.model_dim, Split::kRow, {}, layer.output_std()}))) {}

std::vector<StateSpec> Mamba2::states() const {
  const int64_t channels = conv_weight_.value.size(0), width = conv_weight_.value.size(1), heads = A_log_.value.size(0);
  return {{path() + ".conv", StateSpec::kPerSequence, 0, {channels, width - 1}, in_proj_.dtype(), false},
          {path() + ".ssm", StateSpec::kPerSequence, 0, {heads, head_dim_, state_dim_}, DType::kF32, false}};
}

Flow Mamba2::forward(Flow f, const CtxPtr& ctx) {
  const int64_t heads = A_log_.value.size(0), groups = heads * head_dim_ / inner_per_group_;
  const ops::Mamba2Shape shape{heads, groups, head_dim_, state_dim_};
  const ops::Mamba2Weights weights{conv_weight_, &conv_bias_, A_log_, dt_bias_, &D_};
  const at::Tensor projected = in_proj_(f.x_TD, ctx);
  ops::Mamba2State state;
  if (ctx->state != nullptr) state = {ctx->state->load(path() + ".conv"), ctx->state->load(path() + ".ssm")};
  const ops::Mamba2Out y = ops::mamba2(projected, shape, weights, ctx->packing, ctx->state != nullptr ? &state : nullptr, ctx->ops);
  if (ctx->state != nullptr) {
    ctx->state->store(path() + ".conv", state.conv_nCW);
    ctx->state->store(path() + ".ssm", state.ssm_nHPN);
  }
  f.x_TD = out_proj_(ops::gated_rms_norm(y.y_TI, y.z_TI, norm_weight_, groups, norm_eps_, ctx->ops), ctx);
  return f;
}

}  // namespace weft::nn
