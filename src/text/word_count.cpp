#include "text/word_count.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <map>

namespace weft::text {

void WordCount::add(std::string_view word, int64_t count) {
  if (table_.size() < 2 * (words_.size() + 1)) grow(table_.empty() ? 4096 : table_.size() * 2);
  const uint64_t hash = XXH3_64bits(word.data(), word.size());
  const size_t mask = table_.size() - 1;
  size_t slot = hash & mask;
  const uint32_t tag = static_cast<uint32_t>(hash >> 32);
  for (; table_[slot] != 0; slot = (slot + 1) & mask) {
    Word& w = words_[table_[slot] - 1];
    if (w.hash == tag && w.length == word.size() && text(w) == word) {
      w.count += count;
      return;
    }
  }
  words_.push_back({bytes_.size(), static_cast<uint32_t>(word.size()), tag, count});
  bytes_.insert(bytes_.end(), word.begin(), word.end());
  table_[slot] = static_cast<uint32_t>(words_.size());
}

void WordCount::grow(size_t slots) {
  table_.assign(slots, 0);
  for (size_t i = 0; i < words_.size(); ++i) {
    const std::string_view t = text(words_[i]);
    size_t slot = XXH3_64bits(t.data(), t.size()) & (slots - 1);
    while (table_[slot] != 0) slot = (slot + 1) & (slots - 1);
    table_[slot] = static_cast<uint32_t>(i + 1);
  }
}

void WordCount::clear() { *this = WordCount(); }

std::pair<int64_t, int64_t> WordCount::drop_rarest(size_t keep_bytes) {
  std::map<int64_t, size_t> by_count;  // memory of the words seen so often
  const auto cost = [](const Word& w) { return w.length + sizeof(Word) + 4 * sizeof(uint32_t); };
  size_t total = 0;
  for (const Word& w : words_) by_count[w.count] += cost(w), total += cost(w);
  int64_t least = 0;
  for (auto it = by_count.begin(); it != by_count.end() && total > keep_bytes; ++it) total -= it->second, least = it->first;
  WordCount kept;
  std::pair<int64_t, int64_t> dropped{0, 0};
  for (const Word& w : words_) {
    if (w.count > least) kept.add(text(w), w.count);
    else ++dropped.first, dropped.second += w.count * w.length;
  }
  *this = std::move(kept);
  return dropped;
}

}  // namespace weft::text
