// Token ids to vectors, with what stands beside them (side_embedding.h) where the config asks for it. Reads ctx.tokens_T and
// ctx.streams_ST, sets flow.x_TD.
#pragma once
#include "nn/side_embedding.h"

namespace weft::nn {

// Parameter "word.weight", [V, D]; children "ngram" and "struct".
class Embedding final : public Module {
 public:
  Embedding(int64_t vocab, int64_t dim, double init_std, const NgramConfig& ngram = {}, const StructureConfig& structure = {});
  ops::Weight& table() { return table_; }

 protected:
  Flow forward(Flow, const CtxPtr&) override;

 private:
  ops::Weight& table_;
  std::vector<Module*> beside_;
};

}  // namespace weft::nn
