// From settings to samples: what `weft train` and `weft eval` read.
#pragma once
#include <memory>
#include <string>

#include "data/config.h"
#include "data/order.h"

namespace weft::data {

struct RunShape {  // what the number and the order of samples depend on
  int64_t steps = 1, batch = 1, micro_batch = 1, ranks = 1;
  int64_t eval_every = 0, eval_samples = 0;  // 0: never; all
  uint64_t seed = 1;
};

struct OpenedData {
  std::shared_ptr<const Dataset> train, val;  // val: null when there is none
  std::shared_ptr<const SampleOrder> order;   // of train
  std::string hash;            // of the data's identity: a resumed run wants the same
  std::string description;     // one line for the log; mock data says that it is mock
  std::string tokenizer_path;  // "" when there is none
  int64_t vocab_size = 0;      // 0: unknown, since there is no tokenizer
  double train_bytes_per_token = 0, val_bytes_per_token = 0;  // 0: unknown
};
// ConfigError for settings that do not fit together, InputError for files.
OpenedData open_data(const DataConfig& config, const RunShape& shape);
// The order in which ranks read `train` from `consumed` samples on: `order`, balanced over ranks when the config says so. Steps
// begin at `consumed`; the position is still one integer.
std::shared_ptr<const SampleOrder> train_order(const DataConfig& config, const OpenedData&, const RunShape& shape, int64_t consumed);
struct TokenizerFile { std::string name, bytes; };
TokenizerFile tokenizer_file(const OpenedData&);  // to keep beside a model; no name when there is no tokenizer
// The set of one split alone: "train", "val", or "test" of a megatron source. InputError when there is none.
std::shared_ptr<const Dataset> open_split(const DataConfig& config, const RunShape& shape, const std::string& split);

}  // namespace weft::data
