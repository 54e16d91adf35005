#include "ops/aten.h"

#include "nn/embedding.h"

#include "ops/embedding.h"

namespace weft::nn {

Embedding::Embedding(int64_t vocab, int64_t dim, double init_std, const NgramConfig& ngram, const StructureConfig& structure)
    : table_(param({"word.weight", {vocab, dim}, Split::kVocab, {}, {Init::kNormal, init_std}, GradUse::kPerToken, true, false, false})) {
  if (ngram.rows > 0) beside_.push_back(&child("ngram", std::make_unique<NgramEmbedding>(ngram, dim)));
  if (structure.dim > 0) beside_.push_back(&child("struct", std::make_unique<StructureEmbedding>(structure, dim)));
}

Flow Embedding::forward(Flow f, const CtxPtr& ctx) {
  f.x_TD = ops::embedding(ctx->tokens_T, table_, ctx->ops);
  for (Module* m : beside_) f = (*m)(std::move(f), ctx);
  return f;
}

}  // namespace weft::nn
