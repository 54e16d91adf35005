// The parts of `weft bench` beside the operators' case table.
#pragma once
#include <string>

#include "app/verb.h"

namespace weft::app {

struct BenchFlags {
  std::string preset = "gpt2-124m", precision = "bf16", loss_logits = "once";
  std::string peer;
  int64_t seq_len = 1024, micro_batch = 4;
  int rounds = 3;
  bool profile = false;
};
struct TokenizerBench {
  std::string text;  // a file or folder; bench_data_verb takes what weft demo trains on for ""
  int megabytes = 8;
  int32_t vocab_size = 32000;
};
int bench_train_verb(const BenchFlags&, const Common&);
int bench_data_verb(TokenizerBench, const Common&);
// Keys: tokenizer_*: MB/s of encoding on one thread and CPU seconds of training, of ours and, where $WEFT_ORACLES is a Python that
// has them, of Hugging Face's tokenizers. `folder` is for temporary files. InternalError when the two give other ids.
Json bench_tokenizer(const TokenizerBench&, const std::string& folder);

}  // namespace weft::app
