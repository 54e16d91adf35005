#include "ops/aten.h"

#include "nn/embedding.h"

#include "ops/embedding.h"

namespace weft::nn {

Embedding::Embedding(int64_t vocab, int64_t dim, double init_std)
    : table_(param({"word.weight", {vocab, dim}, Split::kVocab, {}, {Init::kNormal, init_std}, GradUse::kPerToken, true, false, false})) {}

Flow Embedding::forward(Flow f, const CtxPtr& ctx) {
  f.x_TD = ops::embedding(ctx->tokens_T, table_, ctx->ops);
  return f;
}

}  // namespace weft::nn
