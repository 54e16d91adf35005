// Which tensor was the first to hold an inf or nan. Called when a run is about to end: it may take its time.
#pragma once
#include <string>

#include "nn/module.h"

namespace weft::train {

std::string first_bad_value(nn::Module& model);  // "weight layers.0.norm.weight (1 of 64 elements)"; "" when all are finite
// Runs the forward again and looks at what each module gives: "output of layers.3.mlp". "" when all are finite. The model is
// of no use for training afterwards: every module has gained a wrap.
std::string first_bad_output(nn::Module& model, const nn::CtxPtr&);

}  // namespace weft::train
