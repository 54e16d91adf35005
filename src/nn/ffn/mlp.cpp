#include "ops/aten.h"

#include "nn/ffn/mlp.h"

#include <cmath>

#include "base/error.h"

#include "ops/activation.h"
#include "ops/mlp.h"

namespace weft::nn {

double LayerInfo::output_std() const { return init_std / std::sqrt(static_cast<double>(depth)); }

int MlpConfig::width(int model_dim) const {
  if (ffn_dim > 0) return ffn_dim;
  return gated(activation) ? (model_dim * 8 / 3 + 63) / 64 * 64 : 4 * model_dim;
}

namespace {

ops::Act kernel_of(Activation a) {
  switch (a) {
    case Activation::kGelu: return ops::Act::kGeluExact;
    case Activation::kGeluTanh: return ops::Act::kGeluTanh;
    case Activation::kRelu2: return ops::Act::kReluSquared;
    case Activation::kSwiglu: break;
  }
  throw InternalError("activate: no such ungated activation");
}

}  // namespace

at::Tensor activate(Activation a, const at::Tensor& x, const CtxPtr& ctx, const at::Tensor& w) {
  if (gated(a)) return ops::glu(x, ops::Glu::kSwiglu, {}, ctx->ops, w);
  return ops::activation(x, kernel_of(a), ctx->ops, w);
}

Mlp::Mlp(const MlpConfig& c, const LayerInfo& layer)
    : activation_(c.activation),
      fc1_(child("fc1", std::make_unique<Linear>([&] {
             const int64_t f = c.width(layer.model_dim);
             LinearSpec s{layer.model_dim, gated(c.activation) ? 2 * f : f, Split::kColumn};
             if (gated(c.activation)) s.segments = {f, f};
             s.init_std = layer.init_std, s.bias = c.bias;
             return s;
           }()))),
      fc2_(child("fc2", std::make_unique<Linear>(
                            LinearSpec{c.width(layer.model_dim), layer.model_dim, Split::kRow, {}, layer.output_std(), c.bias}))) {}

// The two projections and what is between them as one operator, where nothing is wrapped around a projection.
Flow Mlp::forward(Flow f, const CtxPtr& ctx) {
  const auto plain = [](Linear& l) { return l.recipe.kind == ops::GemmRecipe::kBf16 && !l.wrapped(); };
  if (!gated(activation_) && plain(fc1_) && plain(fc2_)) {
    f.x_TD = ops::mlp(f.x_TD, fc1_.weight(), fc1_.bias(), fc2_.weight(), fc2_.bias(), kernel_of(activation_), ctx->wgrad, ctx->ops);
    return f;
  }
  f.x_TD = fc2_(activate(activation_, fc1_(f.x_TD, ctx), ctx), ctx);
  return f;
}

}  // namespace weft::nn
