// The end of the stack: hidden states to a loss, log-probabilities or logits, by ctx.mode:
//   kTrain    x_TD keeps the hidden states; flow.loss = scale.lm * sum_t weight_t nll_t + scale.aux * aux_loss. The full logits
//             never exist (nam56r.md 6.2). Figures: "loss" (sum and tokens), "aux_loss".
//   kLogprob  x_TD becomes [T] fp32: log p(target_t); 0 where there is no target.
//   kPrefill, kDecode  x_TD becomes [n, V] fp32: logits after the last token of each document.
#pragma once
#include "nn/module.h"

namespace weft::nn {

// Parameter "weight", [V, D], unless tied to another table.
class Head final : public Module {
 public:
  Head(int64_t vocab, int64_t dim, double init_std);
  explicit Head(ops::Weight& tied);

 protected:
  Flow forward(Flow, const CtxPtr&) override;

 private:
  ops::Weight& weight_;
};

}  // namespace weft::nn
