// The loss on text that the model does not learn from.
#pragma once
#include <memory>

#include "data/dataset.h"
#include "nn/module.h"
#include "train/report.h"

namespace weft::train {

struct EvalOptions {
  int64_t samples = 0;       // the first of the set; 0: all
  int64_t micro_batch = 8;
  double bytes_per_token = 0;
  at::Device device = at::kCPU;
  ops::Policy policy;
};

// Sums over tokens in fp64; the same set gives the same bits for the same micro_batch. InputError for an empty set.
EvalReport evaluate(nn::Module&, std::shared_ptr<const data::Dataset>, const EvalOptions&, int64_t step);

}  // namespace weft::train
