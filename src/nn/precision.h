// Which linear layers multiply in which precision (ops/gemm_recipe.h): one kind for the layers that globs over module paths name.
#pragma once
#include <string>
#include <vector>

#include "base/config.h"
#include "ops/gemm_recipe.h"

namespace weft::nn {

class Module;

struct PrecisionConfig {
  ops::GemmRecipe::Kind linear = ops::GemmRecipe::kBf16;
  std::vector<std::string> layers{"layers.*"};
  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("linear", self.linear,
          "How linear layers multiply. bf16: in the dtype of the weights; tf32: fp32 factors rounded to 11 bits; f8_tensor, f8_row, f8_block: FP8 with a scale for "
          "each tensor, row or block of 128.");
    visit("layers", self.layers, "Globs over module paths: the linear layers at and below them. Others, routers and the head stay as they are.");
  }
};

struct Chosen {
  std::string path;
  ops::GemmRecipe::Kind kind;
};
// Sets the recipe of every Linear that a glob covers and returns them in order. ConfigError for a glob that covers none and for a layer
// whose shape FP8 does not take. With bf16, what every layer has, there is nothing to do.
std::vector<Chosen> choose_precision(Module& model, const PrecisionConfig&);

}  // namespace weft::nn
