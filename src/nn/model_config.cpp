#include "ops/aten.h"

#include "nn/model_config.h"

namespace weft::nn {

std::map<char, BranchConfig> ModelConfig::default_symbols() {
  return {{'*', GqaConfig{}}, {'M', Mamba2Config{}}, {'-', MlpConfig{}}, {'E', MoeConfig{}}};
}

namespace {

struct Fit {  // what a branch asks of the model's width
  const ModelConfig& model;
  std::string path;
  std::vector<Problem>& out;

  void operator()(const GqaConfig& c) const {
    if (c.head_dim == 0 && model.model_dim % c.num_heads != 0)
      out.push_back({path + ".num_heads", "is " + std::to_string(c.num_heads) + ", which does not divide model_dim " + std::to_string(model.model_dim) +
                                              ": set head_dim or another count"});
  }
  void operator()(const Mamba2Config& c) const {
    const int heads = c.heads(model.model_dim);
    if (heads < 1) out.push_back({path + ".head_dim", "is above 2 x model_dim " + std::to_string(model.model_dim)});
    else if (heads % c.num_groups != 0)
      out.push_back({path + ".num_groups", "is " + std::to_string(c.num_groups) + ", which does not divide the " + std::to_string(heads) + " heads"});
  }
  void operator()(const MlpConfig&) const {}
  void operator()(const MoeConfig&) const {}
};

}  // namespace

void ModelConfig::check(std::vector<Problem>& out) const {
  for (const auto& [letter, branch] : symbols)
    if (pattern.find(letter) != std::string::npos) std::visit(Fit{*this, std::string("symbols.") + letter, out}, branch);
  for (const auto& [glob, branch] : overrides) std::visit(Fit{*this, "overrides." + glob, out}, branch);
}

}  // namespace weft::nn
