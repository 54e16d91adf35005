#include "ops/aten.h"

#include "nn/ffn/mlp.h"

#include <cmath>

#include "base/error.h"

#include "ops/activation.h"

namespace weft::nn {

double LayerInfo::output_std() const { return init_std / std::sqrt(static_cast<double>(depth)); }

int MlpConfig::width(int model_dim) const {
  if (ffn_dim > 0) return ffn_dim;
  return gated(activation) ? (model_dim * 8 / 3 + 63) / 64 * 64 : 4 * model_dim;
}

at::Tensor activate(Activation a, const at::Tensor& x, const CtxPtr& ctx) {
  switch (a) {
    case Activation::kSwiglu: return ops::swiglu(x, {}, ctx->ops);
    case Activation::kGelu: return ops::gelu(x, ctx->ops);
    case Activation::kGeluTanh: return ops::gelu_tanh(x, ctx->ops);
    case Activation::kRelu2: return ops::relu2(x, ctx->ops);
  }
  throw InternalError("activate: unknown activation");
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

Flow Mlp::forward(Flow f, const CtxPtr& ctx) {
  f.x_TD = fc2_(activate(activation_, fc1_(f.x_TD, ctx), ctx), ctx);
  return f;
}

}  // namespace weft::nn
