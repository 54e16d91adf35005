#include "text/unigram_train.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "text/bpe_train.h"
#include "text/build.h"
#include "text/byte_level.h"
#include "text/unigram_model.h"

namespace weft::text {
namespace {

// The bytes first (upstream's rule: those that were pruned get scores just above the lowest), then pieces in the model's order
// until there are `wanted`; sorted by score. A piece that is written like a special token is none.
std::vector<UnigramPiece> chosen(const UnigramModel& model, size_t wanted, const std::vector<std::string>& special) {
  std::unordered_map<std::string_view, double> score;
  for (const UnigramPiece& p : model.pieces()) score.emplace(p.bytes, p.score);
  std::vector<UnigramPiece> out;
  std::unordered_set<std::string> there;
  double above = 0;
  for (uint32_t c = 0; c < 512; ++c) {
    if (char_to_byte(c) < 0) continue;
    const std::string byte(1, static_cast<char>(char_to_byte(c)));
    const auto it = score.find(byte);
    out.push_back({byte, it != score.end() ? it->second : model.lowest_score() + above});
    if (it == score.end()) above += 0.0001;
    there.insert(byte);
  }
  for (const UnigramPiece& p : model.pieces()) {
    if (out.size() >= wanted) break;
    const bool taken = std::find(special.begin(), special.end(), bytes_to_alphabet(p.bytes)) != special.end();
    if (!taken && there.insert(p.bytes).second) out.push_back(p);
  }
  std::stable_sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.score > b.score; });
  return out;
}

}  // namespace

struct UnigramTrainer::State {
  UnigramTrainOptions options;
  CorpusWords words;
  explicit State(UnigramTrainOptions o)
      : options(std::move(o)), words(options.pattern.empty() ? kDefaultPattern : options.pattern, options.memory_bytes, options.threads) {}
};

UnigramTrainer::UnigramTrainer(UnigramTrainOptions o) {
  const auto want = [](bool ok, const std::string& what) {
    if (!ok) throw ConfigError("train tokenizer: " + what);
  };
  const int64_t least = 256 + static_cast<int64_t>(o.special_tokens.size());
  want(o.vocab_size >= least && o.vocab_size <= (1 << 24),
       "vocab_size: got " + std::to_string(o.vocab_size) + ", want " + std::to_string(least) + " (bytes and special tokens) to 16777216");
  want(o.keep > 0 && o.keep < 1, "keep: got " + std::to_string(o.keep) + ", want more than 0 and less than 1");
  want(o.rounds_per_pruning >= 1, "rounds_per_pruning: got " + std::to_string(o.rounds_per_pruning) + ", want at least 1");
  want(o.seeds >= 1, "seeds: got " + std::to_string(o.seeds) + ", want at least 1");
  want(o.max_piece_bytes >= 1 && o.max_piece_bytes <= 19, "max_piece_bytes: got " + std::to_string(o.max_piece_bytes) + ", want 1 to 19");
  std::unordered_set<std::string> names;
  for (const std::string& t : o.special_tokens) {
    std::string byte;
    want(!t.empty() && names.insert(t).second, "special_tokens: '" + t + "' is empty or stands twice");
    want(!alphabet_to_bytes(t, byte) || byte.size() != 1, "special_tokens: '" + t + "' is how a byte is written: want more than one character");
  }
  state_ = std::make_unique<State>(std::move(o));
}
UnigramTrainer::~UnigramTrainer() = default;
const CorpusStats& UnigramTrainer::stats() const { return state_->words.stats(); }
void UnigramTrainer::add(std::span<const std::string_view> texts) { state_->words.add(texts); }

Tokenizer UnigramTrainer::train(const std::function<void(int32_t, int32_t)>& progress) {
  State& s = *state_;
  const UnigramTrainOptions& o = s.options;
  const WordCount& counted = s.words.finish();
  std::vector<CountedWord> words;  // in the order of their bytes, so that no sum depends on the order of the texts
  for (const auto& w : counted.words()) words.push_back({counted.text(w), w.count});
  std::sort(words.begin(), words.end(), [](const auto& a, const auto& b) { return a.bytes < b.bytes; });

  const size_t wanted = static_cast<size_t>(o.vocab_size) - o.special_tokens.size();
  const size_t enough = static_cast<size_t>(o.vocab_size) * 11 / 10;  // what the last pruning may leave over
  UnigramModel model(unigram_seeds(counted, o.max_piece_bytes, static_cast<size_t>(o.seeds)));
  CorpusStats& stats = s.words.stats();
  for (;;) {
    for (int i = 0; i < o.rounds_per_pruning; ++i, ++stats.rounds) model.round(words, o.threads);
    if (progress) progress(static_cast<int32_t>(model.pieces().size()), o.vocab_size);
    if (model.pieces().size() + 1 <= enough) break;
    const size_t before = model.pieces().size();
    model.prune(words, o.keep, enough, o.threads);
    if (model.pieces().size() >= before) break;  // nothing that can go
  }
  int64_t bytes = 0;
  for (const CountedWord& w : words) bytes += w.count * static_cast<int64_t>(w.bytes.size());
  if (bytes > 0) stats.bits_per_byte = -model.expect(words, o.threads).log_likelihood / std::log(2.0) / static_cast<double>(bytes);

  const std::vector<UnigramPiece> pieces = chosen(model, wanted, o.special_tokens);
  Json vocab = Json::array(), added = Json::array();
  for (const UnigramPiece& p : pieces) vocab.push_back({bytes_to_alphabet(p.bytes), p.score});
  for (size_t i = 0; i < o.special_tokens.size(); ++i) added.push_back(trained_special(static_cast<int32_t>(pieces.size() + i), o.special_tokens[i]));
  Json root = trained_byte_level(s.words.pattern(), std::move(added));
  root["model"] = {{"type", "Unigram"}, {"unk_id", nullptr}, {"byte_fallback", false}, {"vocab", std::move(vocab)}};
  return Tokenizer::from_json(root.dump(), "trained tokenizer");
}

}  // namespace weft::text
