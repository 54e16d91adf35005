#include "ops/aten.h"

#include "nn/branch.h"

namespace weft::nn {

std::unique_ptr<Module> make_branch(const GqaConfig& c, const LayerInfo& layer) { return std::make_unique<Gqa>(c, layer); }
std::unique_ptr<Module> make_branch(const Mamba2Config& c, const LayerInfo& layer) { return std::make_unique<Mamba2>(c, layer); }
std::unique_ptr<Module> make_branch(const MlpConfig& c, const LayerInfo& layer) { return std::make_unique<Mlp>(c, layer); }
std::unique_ptr<Module> make_branch(const MoeConfig& c, const LayerInfo& layer) { return std::make_unique<Moe>(c, layer); }

}  // namespace weft::nn
