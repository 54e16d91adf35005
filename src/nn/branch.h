// The closed set of branch kinds: one struct of settings a kind. A new kind is added here, and the compiler names every
// std::visit that must learn it.
#pragma once
#include <memory>
#include <variant>

#include "nn/ffn/mlp.h"
#include "nn/ffn/moe.h"
#include "nn/layer_info.h"
#include "nn/mixer/gqa.h"
#include "nn/mixer/mamba2.h"

namespace weft::nn {

using BranchConfig = std::variant<GqaConfig, Mamba2Config, MlpConfig, MoeConfig>;

std::unique_ptr<Module> make_branch(const GqaConfig&, const LayerInfo&);
std::unique_ptr<Module> make_branch(const Mamba2Config&, const LayerInfo&);
std::unique_ptr<Module> make_branch(const MlpConfig&, const LayerInfo&);
std::unique_ptr<Module> make_branch(const MoeConfig&, const LayerInfo&);

}  // namespace weft::nn
