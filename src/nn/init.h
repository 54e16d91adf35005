// Parameters come to life: from the meta device to real memory, with numbers from a counter-based generator keyed by
// (seed, name, index in the whole tensor). Any cut of a tensor draws the same numbers: a mesh changes nothing.
#pragma once
#include "nn/module.h"

namespace weft::nn {

struct Materialize {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;  // compute dtype; parameters with keep_f32 stay fp32 (fp64 when this is fp64)
  uint64_t seed = 0;
  bool fill = true;  // false: memory only, for a model that is about to be loaded
};

void materialize(Module& root, const Materialize&);

// Parameters in all, and those a token meets (experts count top_k of num_experts). Works on the meta device.
int64_t count_params(Module& root);

}  // namespace weft::nn
