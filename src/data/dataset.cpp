#include "data/dataset.h"

#include <algorithm>

#include "base/error.h"

namespace weft::data {

TokenWindows::TokenWindows(std::shared_ptr<const IndexedTokens> tokens, int64_t seq_len, bool keep_last)
    : tokens_(std::move(tokens)), streams_(SideStreams::open(tokens_->prefix(), tokens_->tokens(), IndexCheck::kStamped)),
      weights_(TokenWeights::open(tokens_->prefix(), tokens_->tokens())), seq_len_(seq_len) {
  if (seq_len < 1) throw ConfigError("data: seq_len: got " + std::to_string(seq_len) + ", want at least 1");
  const int64_t targets = std::max<int64_t>(tokens_->tokens() - 1, 0);
  size_ = keep_last ? (targets + seq_len - 1) / seq_len : targets / seq_len;
  if (size_ == 0) {
    throw InputError("data: '" + tokens_->prefix() + "' is too short: got " + std::to_string(tokens_->tokens()) + " tokens, want at least " + std::to_string(keep_last ? 2 : seq_len + 1));
  }
}

int64_t TokenWindows::document_at(int64_t token) const {
  int64_t low = 0, high = tokens_->documents();  // the last document that begins at or before the token
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (tokens_->begin(tokens_->boundary(middle)) <= token ? low : high) = middle;
  }
  return low;
}

int64_t TokenWindows::check(int64_t index) const {
  if (index < 0 || index >= size_) throw InputError("data: sample outside the set: got " + std::to_string(index) + ", want below " + std::to_string(size_));
  return index * seq_len_;
}

template <class F>
DocumentStarts TokenWindows::starts_from(int64_t begin, const F& found) const {
  const int64_t there = std::min(seq_len_ + 1, tokens_->tokens() - begin);
  DocumentStarts out{{0}, seq_len_};
  for (int64_t d = document_at(begin) + 1; d < tokens_->documents(); ++d) {
    const int64_t start = tokens_->begin(tokens_->boundary(d)) - begin;
    if (start >= there) break;
    if (start <= 0) continue;
    found(start);
    if (start < seq_len_ && start != out.starts.back()) out.starts.push_back(static_cast<int32_t>(start));
  }
  if (there < seq_len_) out.starts.push_back(static_cast<int32_t>(there));  // what fills the window up
  return out;
}

DocumentStarts TokenWindows::starts(int64_t index) const { return starts_from(check(index), [](int64_t) {}); }

void TokenWindows::read(int64_t index, Sample& out) const {
  const int64_t begin = check(index);
  const int64_t there = std::min(seq_len_ + 1, tokens_->tokens() - begin);
  out.tokens.resize(static_cast<size_t>(seq_len_ + 1));
  tokens_->read_flat(begin, there, out.tokens.data());
  std::fill(out.tokens.begin() + there, out.tokens.end(), 0);
  out.loss_weights.resize(static_cast<size_t>(seq_len_));
  if (weights_) weights_->read(begin + 1, there - 1, out.loss_weights.data());
  else std::fill(out.loss_weights.begin(), out.loss_weights.end(), 1.0f);
  read_streams(streams_.get(), begin, std::min(there, seq_len_), seq_len_, out.streams);
  out.document_starts = starts_from(begin, [&](int64_t start) { out.loss_weights[static_cast<size_t>(start - 1)] = 0; }).starts;  // nothing before it belongs to this document
  if (there <= seq_len_) std::fill(out.loss_weights.begin() + there - 1, out.loss_weights.end(), 0.0f);
}

void check_vocabulary(const IndexedTokens& set, int64_t vocab_size) {
  const int64_t highest = set.max_token();
  if (highest < vocab_size) return;
  int32_t id = 0;
  for (int64_t i = 0; i < set.tokens(); ++i) {
    set.read_flat(i, 1, &id);
    if (id >= vocab_size) {
      throw InputError("data: '" + set.prefix() + ".bin': token id above the vocabulary at token " + std::to_string(i) + ": got " + std::to_string(id) + ", want below " + std::to_string(vocab_size));
    }
  }
}

}  // namespace weft::data
