#include "ops/aten.h"

#include "nn/decoder.h"

namespace weft::nn {

Decoder::Decoder(const ModelConfig& c, const std::vector<BranchConfig>& branches)
    : embed_(child("embed", std::make_unique<Embedding>(c.vocab_size, c.model_dim, c.init_std, c.ngram, c.structure))) {
  const int depth = static_cast<int>(branches.size());
  for (int i = 0; i < depth; ++i) {
    const LayerInfo info{i, depth, c.model_dim, c.norm_eps, c.init_std};
    layers_.push_back(&child("layers." + std::to_string(i), std::make_unique<Residual>(branches[static_cast<size_t>(i)], info)));
  }
  final_norm_ = &child("final_norm", std::make_unique<Norm>(c.model_dim, c.norm_eps));
  head_ = &child("head", c.tie_embeddings ? std::make_unique<Head>(embed_.table())
                                          : std::make_unique<Head>(c.vocab_size, c.model_dim, c.init_std));
}

Flow Decoder::forward(Flow f, const CtxPtr& ctx) {
  f = embed_(std::move(f), ctx);
  for (Module* layer : layers_) f = (*layer)(std::move(f), ctx);
  f = (*final_norm_)(std::move(f), ctx);
  return (*head_)(std::move(f), ctx);
}

}  // namespace weft::nn
