#include "ops/aten.h"

#include "nn/precision.h"

#include "base/error.h"
#include "nn/linear.h"
#include "ops/tensors.h"

namespace weft::nn {

std::vector<Chosen> choose_precision(Module& model, const PrecisionConfig& config) {
  std::vector<Chosen> all;
  if (config.linear == ops::GemmRecipe::kBf16) return all;
  const bool f8 = config.linear >= ops::GemmRecipe::kF8Tensor;
  for (const std::string& glob : config.layers) {
    bool found = false;
    model.visit(glob, [&](Module& matched) {
      matched.visit("**", [&](Module& below) {
        auto* linear = dynamic_cast<Linear*>(&below);
        if (linear == nullptr) return;
        const at::Tensor& w = linear->weight().value;
        if (f8 && (w.size(0) % 16 != 0 || w.size(1) % 16 != 0))
          throw ConfigError("model.precision: " + below.path() + " in " + names(config.linear)[config.linear] + ": got weights " + ops::describe(w) +
                            ", want both sizes multiples of 16\n  try: globs in model.precision.layers that leave it out");
        found = true;
        if (linear->recipe.kind == config.linear) return;  // named by an earlier glob
        linear->recipe.kind = config.linear;
        all.push_back({below.path(), config.linear});
      });
    });
    if (!found) throw ConfigError("model.precision.layers: got '" + glob + "', which covers no linear layer");
  }
  return all;
}

}  // namespace weft::nn
