#include "ops/aten.h"

#include <filesystem>

#include "app/demo.h"
#include "base/error.h"
#include "base/rng.h"
#include "data/indexed.h"
#include "data/prepare.h"
#include "models/build.h"
#include "text/tokenizer.h"

namespace weft::app {

std::string find_corpus() {
  const std::filesystem::path root = "/usr/include/c++";
  std::error_code ignored;
  int newest = -1;
  for (const auto& entry : std::filesystem::directory_iterator(root, ignored)) {
    const std::string name = entry.path().filename();
    if (entry.is_directory() && !name.empty() && name.find_first_not_of("0123456789") == std::string::npos) newest = std::max(newest, std::stoi(name));
  }
  if (newest < 0) throw UnavailableError("demo: no C++ standard library headers in /usr/include/c++\n  try: --corpus with a folder of text");
  return root / std::to_string(newest);
}

train::RunConfig demo_config(const std::string& data, int vocab_size) {
  train::RunConfig c;
  c.model = models::preset("demo");
  c.model.vocab_size = (vocab_size + 63) / 64 * 64;
  c.data.path = data, c.data.seq_len = 256;
  c.train.steps = 100, c.train.batch = 16, c.train.micro_batch = 16;
  c.schedule.lr = 3e-3, c.schedule.warmup_steps = 10;
  c.checkpoint.every = 0, c.checkpoint.keep_last = 1;
  c.eval.every = 50, c.eval.samples = 64;
  return c;
}

std::vector<std::string> demo_prompts(const std::string& data, int count) {
  const data::PreparedData made = data::open_prepared(data);
  const text::Tokenizer tokenizer = text::Tokenizer::load(made.tokenizer_path);
  const auto tokens = data::IndexedTokens::open(made.val_prefix.empty() ? made.train_prefix : made.val_prefix);
  std::vector<std::string> out;
  for (uint64_t draw = 0; static_cast<int>(out.size()) < count && draw < 1000; ++draw) {
    const auto sequence = static_cast<int64_t>(rng::below(7, draw, static_cast<uint64_t>(tokens.sequences())));
    const auto length = static_cast<uint64_t>(tokens.length(sequence));
    if (length < (draw < 500 ? 400 : 12)) continue;  // long documents first; small corpora have none
    const uint64_t from = length / 3 + rng::below(8, draw, length / 3);
    std::vector<int32_t> ids(std::min<uint64_t>(80, length - from));
    tokens.read(sequence, static_cast<int64_t>(from), static_cast<int64_t>(ids.size()), ids.data());
    const std::string text = tokenizer.decode(ids);
    const size_t line = text.find('\n'), end = text.rfind('\n');
    if (line == std::string::npos || end <= line + 20) continue;
    out.push_back(text.substr(line + 1, end - line));
  }
  if (out.empty()) out.emplace_back();  // one new document
  return out;
}

}  // namespace weft::app
