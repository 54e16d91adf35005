// Token ids to vectors. Reads ctx.tokens_T, sets flow.x_TD.
#pragma once
#include "nn/module.h"

namespace weft::nn {

// Parameter "word.weight", [V, D].
class Embedding final : public Module {
 public:
  Embedding(int64_t vocab, int64_t dim, double init_std);
  ops::Weight& table() { return table_; }

 protected:
  Flow forward(Flow, const CtxPtr&) override;

 private:
  ops::Weight& table_;
};

}  // namespace weft::nn
