#include "text/bpe_train.h"

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "text/build.h"
#include "text/byte_level.h"
#include "text/unicode.h"
#include "text/vocab.h"

namespace weft::text {

const char* const kDefaultPattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

Json trained_special(int32_t id, const std::string& content) {
  return {{"id", id}, {"content", content}, {"single_word", false}, {"lstrip", false}, {"rstrip", false}, {"normalized", false}, {"special", true}};
}

Json trained_byte_level(const std::string& pattern, Json added) {
  const Json split = {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
  const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  return {{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}, {"added_tokens", std::move(added)}, {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, bytes}}}}, {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}}};
}

namespace {

// Counts of pairs of symbols. A pair waits in `words` for the queue after the step that made it.
class PairTable {
 public:
  struct Pair {
    uint64_t key;
    int64_t count;
    std::vector<uint32_t> words;
  };
  Pair& at(uint64_t key) {
    if (table_.size() < 2 * (pairs_.size() + 1)) grow();
    const size_t mask = table_.size() - 1;
    size_t slot = mix(key) & mask;
    for (; table_[slot] != 0; slot = (slot + 1) & mask) {
      if (pairs_[table_[slot] - 1].key == key) return pairs_[table_[slot] - 1];
    }
    pairs_.push_back({key, 0, {}});
    table_[slot] = static_cast<uint32_t>(pairs_.size());
    return pairs_.back();
  }
  std::vector<Pair>& all() { return pairs_; }

 private:
  static size_t mix(uint64_t key) { return static_cast<size_t>(key * 0x9E3779B97F4A7C15u >> 28); }
  void grow() {
    table_.assign(table_.empty() ? 1 << 16 : table_.size() * 2, 0);
    for (size_t i = 0; i < pairs_.size(); ++i) {
      size_t slot = mix(pairs_[i].key) & (table_.size() - 1);
      while (table_[slot] != 0) slot = (slot + 1) & (table_.size() - 1);
      table_[slot] = static_cast<uint32_t>(i + 1);
    }
  }
  std::vector<Pair> pairs_;
  std::vector<uint32_t> table_;
};

uint64_t pair_key(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

struct QueueEntry {
  int64_t count;
  uint64_t key;
  uint64_t order;  // of entries for one pair the older comes first
  uint32_t words;  // index of its list
};
bool later(const QueueEntry& a, const QueueEntry& b) {
  if (a.count != b.count) return a.count < b.count;
  return a.key != b.key ? a.key > b.key : a.order > b.order;
}

// The words as symbols, the words in which each pair of symbols stands, and the pairs by count.
class Merges {
 public:
  Merges(const WordCount& counted, const int32_t (&byte_id)[256]) : words_(counted.words()) {
    // Words in the order of their bytes, so that nothing depends on the order of the texts.
    std::sort(words_.begin(), words_.end(), [&](const auto& a, const auto& b) { return counted.text(a) < counted.text(b); });
    for (const WordCount::Word& word : words_) {
      starts_.push_back(symbols_.size()), lengths_.push_back(word.length);
      for (const char c : counted.text(word)) symbols_.push_back(byte_id[static_cast<uint8_t>(c)]);
    }
    for (uint32_t w = 0; w < words_.size(); ++w) {
      const int32_t* sym = symbols_.data() + starts_[w];
      for (uint32_t i = 0; i + 1 < lengths_[w]; ++i) change(sym[i], sym[i + 1], words_[w].count, w);
    }
    touched_.clear();
    for (auto& p : table_.all()) enqueue(p);
  }

  // The pair that stands most often; empty when none stands `least` times, or once.
  std::optional<QueueEntry> next(int64_t least) {
    while (!queue_.empty()) {
      std::pop_heap(queue_.begin(), queue_.end(), later);
      const QueueEntry top = queue_.back();
      queue_.pop_back();
      const int64_t count = table_.at(top.key).count;
      if (count == top.count) return count < 1 || least > count ? std::nullopt : std::optional(top);
      push({count, top.key, top.order, top.words});
    }
    return std::nullopt;
  }

  // Makes left right into id in the pair's words. may_join(symbol): whether a pair of it and id may be joined later.
  template <class F>
  void join(const QueueEntry& pair, int32_t left, int32_t right, int32_t id, const F& may_join) {
    touched_.clear();
    for (const uint32_t w : lists_[pair.words]) {
      int32_t* sym = symbols_.data() + starts_[w];
      const uint32_t n = lengths_[w];
      const int64_t times = words_[w].count;
      uint32_t out = 0;
      for (uint32_t i = 0; i < n; ++out) {
        if (sym[i] != left || i + 1 >= n || sym[i + 1] != right) {
          sym[out] = sym[i++];
          continue;
        }
        if (out > 0) {
          const int32_t before = sym[out - 1];
          change(before, left, -times, w);
          if (may_join(before)) change(before, id, times, w);
        }
        sym[out] = id;
        i += 2;
        if (i < n) {
          const int32_t after = sym[i];
          change(right, after, -times, w);
          if (may_join(after)) change(id, after, times, w);
        }
      }
      lengths_[w] = out;
    }
    lists_[pair.words] = {};
    free_lists_.push_back(pair.words);
    for (const uint64_t key : touched_) enqueue(table_.at(key));
  }

 private:
  void change(int32_t a, int32_t b, int64_t by, uint32_t word) {
    PairTable::Pair& p = table_.at(pair_key(a, b));
    p.count += by;
    if (by < 0) return;
    if (p.words.empty()) touched_.push_back(p.key);
    if (p.words.empty() || p.words.back() != word) p.words.push_back(word);
  }
  void enqueue(PairTable::Pair& p) {
    if (p.count <= 0) return void(p.words.clear());
    if (free_lists_.empty()) free_lists_.push_back(static_cast<uint32_t>(lists_.size())), lists_.emplace_back();
    const uint32_t list = free_lists_.back();
    free_lists_.pop_back();
    lists_[list] = std::move(p.words);
    p.words = {};
    push({p.count, p.key, order_++, list});
  }
  void push(const QueueEntry& e) {
    queue_.push_back(e);
    std::push_heap(queue_.begin(), queue_.end(), later);
  }

  std::vector<WordCount::Word> words_;
  std::vector<int32_t> symbols_;
  std::vector<uint64_t> starts_;
  std::vector<uint32_t> lengths_;
  PairTable table_;
  std::vector<QueueEntry> queue_;
  std::vector<std::vector<uint32_t>> lists_;  // of words, for the entries of the queue
  std::vector<uint32_t> free_lists_;
  std::vector<uint64_t> touched_;  // pairs that came up while one was joined
  uint64_t order_ = 0;
};

}  // namespace

struct BpeTrainer::State {
  BpeTrainOptions options;
  CorpusWords words;
  explicit State(BpeTrainOptions o)
      : options(std::move(o)), words(options.pattern.empty() ? kDefaultPattern : options.pattern, options.memory_bytes, options.threads) {}
};

BpeTrainer::BpeTrainer(BpeTrainOptions options) {
  const int64_t least = 256 + static_cast<int64_t>(options.special_tokens.size());
  if (options.vocab_size < least || options.vocab_size > (1 << 24)) {
    throw ConfigError("train tokenizer: vocab_size: got " + std::to_string(options.vocab_size) + ", want " + std::to_string(least) +
                      " (bytes and special tokens) to 16777216");
  }
  state_ = std::make_unique<State>(std::move(options));
}
BpeTrainer::~BpeTrainer() = default;
const CorpusStats& BpeTrainer::stats() const { return state_->words.stats(); }
void BpeTrainer::add(std::span<const std::string_view> texts) { state_->words.add(texts); }

Tokenizer BpeTrainer::train(const std::function<void(int32_t, int32_t)>& progress) {
  State& s = *state_;
  const BpeTrainOptions& o = s.options;
  const WordCount& counted = s.words.finish();

  // Ids: special tokens, then the byte alphabet in the order of its characters, then merges.
  Vocab vocab;
  for (const std::string& token : o.special_tokens) {
    if (token.empty()) throw ConfigError("train tokenizer: special_tokens: got an empty string");
    if (vocab.id_of(token) < 0) vocab.add(token, vocab.size());
  }
  const int32_t num_special = vocab.size();
  int32_t byte_id[256];
  for (uint32_t c = 0; c < 512; ++c) {
    if (char_to_byte(c) < 0) continue;
    std::string symbol;
    append_utf8(symbol, c);
    if (vocab.id_of(symbol) < 0) vocab.add(symbol, vocab.size());
    byte_id[char_to_byte(c)] = vocab.id_of(symbol);
  }
  std::vector<uint32_t> symbols_of_id(static_cast<size_t>(vocab.size()), 1);  // length in symbols

  Merges merges(counted, byte_id);
  const int32_t wanted = o.vocab_size - vocab.size();
  std::vector<std::pair<int32_t, int32_t>> found;
  const uint32_t longest = o.max_token_bytes > 0 ? static_cast<uint32_t>(o.max_token_bytes) : UINT32_MAX;
  while (vocab.size() < o.vocab_size) {
    const std::optional<QueueEntry> top = merges.next(o.min_frequency);
    if (!top) break;
    const int32_t left = static_cast<int32_t>(top->key >> 32), right = static_cast<int32_t>(top->key & 0xFFFFFFFF);
    const uint64_t length = uint64_t{symbols_of_id[static_cast<size_t>(left)]} + symbols_of_id[static_cast<size_t>(right)];
    const std::string joined = std::string(vocab.token(left)) + std::string(vocab.token(right));
    int32_t id = vocab.id_of(joined);
    if (id < 0) {
      id = vocab.size();
      vocab.add(joined, id);
      symbols_of_id.push_back(static_cast<uint32_t>(length));
    }
    found.emplace_back(left, right);
    merges.join(*top, left, right, id, [&](int32_t other) { return symbols_of_id[static_cast<size_t>(other)] + length < longest; });
    if (progress && found.size() % 256 == 0) progress(static_cast<int32_t>(found.size()), wanted);
  }
  s.words.stats().merges = static_cast<int32_t>(found.size());
  if (progress) progress(s.words.stats().merges, wanted);

  Json added = Json::array();
  for (int32_t id = 0; id < num_special; ++id) added.push_back(trained_special(id, std::string(vocab.token(id))));
  Json root = trained_byte_level(s.words.pattern(), std::move(added));
  Json& model = root["model"] = {{"type", "BPE"}, {"dropout", nullptr}, {"unk_token", nullptr}, {"continuing_subword_prefix", nullptr},
                                 {"end_of_word_suffix", nullptr}, {"fuse_unk", false}, {"byte_fallback", false}, {"ignore_merges", false}};
  Json& ids = model["vocab"] = Json::object();
  for (int32_t id = 0; id < vocab.size(); ++id) ids[std::string(vocab.token(id))] = id;
  Json& pairs = model["merges"] = Json::array();
  for (const auto& [left, right] : found) pairs.push_back({std::string(vocab.token(left)), std::string(vocab.token(right))});
  return Tokenizer::from_json(root.dump(), "trained tokenizer");
}

}  // namespace weft::text
