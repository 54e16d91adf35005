#include "ops/aten.h"

#include "nn/linear.h"

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
  ops::GemmRecipe own = recipe;
  own.copies = &copies_;
  f.x_TD = ops::linear(f.x_TD, weight_, own, ctx->wgrad, ctx->ops, bias_);
  return f;
}

}  // namespace weft::nn
