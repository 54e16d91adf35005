// Which candidate each operator of a model runs here: part of what a run's bits depend on.
#pragma once
#include "base/json.h"
#include "data/batch.h"
#include "nn/module.h"

namespace weft::train {

// {"rms_norm": "cpu", "linear": "onednn, reference"}: of one forward without a graph.
Json chosen_kernels(nn::Module&, const data::Batch&, at::Device, ops::Policy);

}  // namespace weft::train
