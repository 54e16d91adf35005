#include "ops/aten.h"

#include "nn/linear.h"

#include "ops/bias.h"
#include "ops/tensors.h"

namespace weft::nn {

Linear::Linear(const LinearSpec& s)
    : weight_(param({"", {s.out, s.in}, s.split, s.segments, {Init::kNormal, s.init_std}, GradUse::kPerToken, true, false, true})) {
  if (s.bias)
    bias_ = &param({"bias", {s.out}, s.split == Split::kColumn ? Split::kColumn : Split::kNone, s.segments, {Init::kZero, 0},
                    GradUse::kPerToken, false, false, false});
}

DType Linear::dtype() const { return ops::dtype_of(weight_.value); }

Flow Linear::forward(Flow f, const CtxPtr& ctx) {
  f.x_TD = ops::linear(f.x_TD, weight_, recipe, ctx->wgrad, ctx->ops);
  if (bias_ != nullptr) f.x_TD = ops::add_bias(f.x_TD, *bias_, ctx->ops);
  return f;
}

}  // namespace weft::nn
