// Embedding, residual branches, final norm, head: the whole of a decoder-only model, whatever its branches are.
#pragma once
#include "nn/embedding.h"
#include "nn/head.h"
#include "nn/model_config.h"
#include "nn/residual.h"

namespace weft::nn {

class Decoder final : public Module {
 public:
  // `branches` is the pattern spelled out: models/build.h makes it from the config.
  Decoder(const ModelConfig&, const std::vector<BranchConfig>& branches);

 protected:
  Flow forward(Flow, const CtxPtr&) override;  // an empty Flow in; out as nn/head.h says

 private:
  Embedding& embed_;
  std::vector<Module*> layers_;
  Norm* final_norm_ = nullptr;
  Head* head_ = nullptr;
};

}  // namespace weft::nn
