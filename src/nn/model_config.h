// A model is a list of residual branches, one letter of a pattern each.
#pragma once
#include <map>
#include <string>

#include "base/config.h"
#include "nn/branch.h"
#include "nn/precision.h"
#include "nn/side_embedding.h"

namespace weft::nn {

struct ModelConfig {
  std::string pattern = "M-*E";
  int num_layers = 0;  // 0: as many as the pattern has letters; else the pattern is tiled to this many
  int model_dim = 256, vocab_size = 0;
  bool tie_embeddings = true;
  double norm_eps = 1e-5, init_std = 0.02;
  NgramConfig ngram;
  StructureConfig structure;
  PrecisionConfig precision;
  std::map<char, BranchConfig> symbols = default_symbols();
  std::map<std::string, BranchConfig> overrides;

  static std::map<char, BranchConfig> default_symbols();  // Megatron's letters

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("pattern", self.pattern, "One letter a residual branch: * attention, M Mamba-2, - MLP, E mixture of experts.");
    visit("num_layers", self.num_layers, "Branches in all; the pattern is tiled to it. 0: the pattern as it stands.", Range{0, 4096});
    visit("model_dim", self.model_dim, "Width of the residual stream.", Range{8, 1 << 20});
    visit("vocab_size", self.vocab_size, "Rows of the embedding. 0: the tokenizer's size, rounded up to a multiple of 64.", Range{0, 1 << 24});
    visit("tie_embeddings", self.tie_embeddings, "The head uses the embedding's table.");
    visit("norm_eps", self.norm_eps, "Epsilon of every RMSNorm.", Range{0, 1});
    visit("init_std", self.init_std, "Standard deviation of initial weights.", Range{0, 10});
    visit("ngram", self.ngram, "n-gram hash embedding, added to the word embedding.");
    visit("structure", self.structure, "Structure embedding of source code, added to the word embedding.");
    visit("precision", self.precision, "How linear layers multiply.");
    visit("symbols", self.symbols, "Settings of each letter.");
    visit("overrides", self.overrides, "Settings of single layers, by glob over their path: \"layers.0\".");
  }
  void check(std::vector<Problem>& out) const;
};

}  // namespace weft::nn
