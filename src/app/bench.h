// The parts of `weft bench` beside the operators' case table.
#pragma once
#include <string>

#include "app/verb.h"

namespace weft::app {

struct BenchFlags {
  std::string preset = "gpt2-124m", precision = "bf16";
  int64_t seq_len = 1024, micro_batch = 4;
  int steps = 3;
};
int bench_train_verb(const BenchFlags&, const Common&);
int bench_data_verb(const Common&);

}  // namespace weft::app
