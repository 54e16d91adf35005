#include "text/bpe.h"

#include <algorithm>

#include "text/unicode.h"

namespace weft::text {
namespace {

constexpr size_t kShortWord = 48;  // symbols; above it a heap keeps the work at n log n

uint64_t pair_key(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}
size_t mix(uint64_t key) {
  key *= 0x9E3779B97F4A7C15u;
  return static_cast<size_t>(key >> 20 ^ key >> 44);
}
const char* fallback_name(unsigned b, char (&out)[8]) {
  constexpr const char* digits = "0123456789ABCDEF";
  const char text[] = {'<', '0', 'x', digits[b >> 4], digits[b & 15], '>', 0, 0};
  std::copy(text, text + 8, out);
  return out;
}

}  // namespace

Bpe::Bpe(const Vocab& vocab, std::vector<Merge> merges, BpeOptions options)
    : vocab_(vocab), merges_(std::move(merges)), options_(std::move(options)) {
  size_t slots = 16;
  while (slots < merges_.size() * 2 + 2) slots *= 2;
  table_.resize(slots);
  for (size_t rank = 0; rank < merges_.size(); ++rank) {
    const Merge& m = merges_[rank];
    const uint64_t key = pair_key(m.left, m.right);
    size_t at = mix(key) & (slots - 1);
    while (table_[at].rank != kNone && table_[at].pair != key) at = (at + 1) & (slots - 1);
    table_[at] = {key, options_.rank_by_result ? static_cast<uint32_t>(m.result) : static_cast<uint32_t>(rank), m.result};
  }
  for (unsigned b = 0; b < 256; ++b) {
    const char c = static_cast<char>(b);
    char name[8];
    byte_id_[b] = options_.raw_bytes || b < 0x80 ? vocab_.id_of(std::string_view(&c, 1)) : -1;
    fallback_id_[b] = vocab_.id_of(fallback_name(b, name));
  }
}

const Bpe::Slot& Bpe::find(int32_t left, int32_t right) const {
  const uint64_t key = pair_key(left, right);
  const size_t mask = table_.size() - 1;
  size_t at = mix(key) & mask;
  while (table_[at].rank != kNone && table_[at].pair != key) at = (at + 1) & mask;
  return table_[at];
}

void Bpe::first_symbols(std::string_view word, Scratch& s) const {
  s.symbols.clear();
  const auto add = [&](int32_t id, size_t length) {
    s.symbols.push_back({id, static_cast<uint32_t>(length), 0, 0, kNone});
  };
  if (options_.raw_bytes && options_.unknown < 0 && !options_.byte_fallback && options_.prefix.empty() && options_.suffix.empty()) {
    for (const char c : word) {
      const int32_t id = byte_id_[static_cast<uint8_t>(c)];
      if (id >= 0) add(id, 1);
    }
    return;
  }
  size_t unknown_length = 0;
  const auto flush = [&] {
    if (unknown_length > 0) add(options_.unknown, unknown_length);
    unknown_length = 0;
  };
  for (size_t at = 0; at < word.size();) {
    const size_t length = options_.raw_bytes ? 1 : decode_utf8(word, at).length;
    std::string_view symbol = word.substr(at, length);
    const bool first = at == 0;
    at += length;
    if ((!first && !options_.prefix.empty()) || (at == word.size() && !options_.suffix.empty())) {
      s.buffer.assign(first ? "" : options_.prefix);
      s.buffer += symbol;
      if (at == word.size()) s.buffer += options_.suffix;
      symbol = s.buffer;
    }
    const int32_t id = symbol.size() == 1 ? byte_id_[static_cast<uint8_t>(symbol[0])] : vocab_.id_of(symbol);
    if (id >= 0) {
      flush();
      add(id, length);
      continue;
    }
    if (options_.byte_fallback &&
        std::all_of(symbol.begin(), symbol.end(), [&](char c) { return fallback_id_[static_cast<uint8_t>(c)] >= 0; })) {
      for (const char c : symbol) add(fallback_id_[static_cast<uint8_t>(c)], 1);
      continue;  // an unknown run that waits is put behind these, as upstream does
    }
    if (options_.unknown < 0) continue;
    if (!options_.fuse_unknown) flush();
    unknown_length += length;
  }
  flush();
}

void Bpe::merge_short(Scratch& s) const {
  auto* sym = s.symbols.data();
  size_t n = s.symbols.size();
  for (size_t i = 0; i + 1 < n; ++i) sym[i].rank = find(sym[i].id, sym[i + 1].id).rank;
  for (;;) {
    size_t best = 0;
    uint32_t rank = kNone;
    for (size_t i = 0; i + 1 < n; ++i) {
      if (sym[i].rank < rank) rank = sym[i].rank, best = i;
    }
    if (rank == kNone) break;
    sym[best].id = options_.rank_by_result ? static_cast<int32_t>(rank) : merges_[rank].result;
    sym[best].length += sym[best + 1].length;
    --n;
    std::copy(sym + best + 2, sym + n + 1, sym + best + 1);
    sym[best].rank = best + 1 < n ? find(sym[best].id, sym[best + 1].id).rank : kNone;
    if (best > 0) sym[best - 1].rank = find(sym[best - 1].id, sym[best].id).rank;
  }
  s.symbols.resize(n);
}

void Bpe::merge_long(Scratch& s) const {
  auto& sym = s.symbols;
  const int32_t n = static_cast<int32_t>(sym.size());
  const auto later = [](const Scratch::Entry& a, const Scratch::Entry& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
  };
  s.heap.clear();
  for (int32_t i = 0; i < n; ++i) {
    sym[static_cast<size_t>(i)].before = i - 1;
    sym[static_cast<size_t>(i)].after = i + 1 < n ? i + 1 : -1;
    if (i + 1 >= n) break;
    const Slot& m = find(sym[static_cast<size_t>(i)].id, sym[static_cast<size_t>(i) + 1].id);
    if (m.rank != kNone) s.heap.push_back({m.rank, i, m.result});
  }
  std::make_heap(s.heap.begin(), s.heap.end(), later);
  const auto push = [&](int32_t left, int32_t right) {
    const Slot& m = find(sym[static_cast<size_t>(left)].id, sym[static_cast<size_t>(right)].id);
    if (m.rank == kNone) return;
    s.heap.push_back({m.rank, left, m.result});
    std::push_heap(s.heap.begin(), s.heap.end(), later);
  };
  while (!s.heap.empty()) {
    const Scratch::Entry top = s.heap.front();
    std::pop_heap(s.heap.begin(), s.heap.end(), later);
    s.heap.pop_back();
    auto& left = sym[static_cast<size_t>(top.at)];
    if (left.length == 0 || left.after < 0) continue;
    auto& right = sym[static_cast<size_t>(left.after)];
    const Slot& m = find(left.id, right.id);
    if (m.rank == kNone || m.result != top.result) continue;
    left.id = top.result;
    left.length += right.length;
    right.length = 0;
    left.after = right.after;
    if (left.after >= 0) sym[static_cast<size_t>(left.after)].before = top.at;
    if (left.before >= 0) push(left.before, top.at);
    if (left.after >= 0) push(top.at, left.after);
  }
  size_t kept = 0;
  for (int32_t i = 0; i >= 0 && n > 0; i = sym[static_cast<size_t>(i)].after) sym[kept++] = sym[static_cast<size_t>(i)];
  sym.resize(kept);
}

void Bpe::encode(std::string_view word, Scratch& s, std::vector<int32_t>& ids, std::vector<uint32_t>* ends) const {
  if (word.empty()) return;
  if (options_.ignore_merges) {
    const int32_t id = vocab_.id_of(word);
    if (id >= 0) {
      ids.push_back(id);
      if (ends != nullptr) ends->push_back(static_cast<uint32_t>(word.size()));
      return;
    }
  }
  first_symbols(word, s);
  if (s.symbols.size() <= kShortWord) merge_short(s);
  else merge_long(s);
  uint32_t end = 0;
  for (const auto& symbol : s.symbols) {
    ids.push_back(symbol.id);
    end += symbol.length;
    if (ends != nullptr) ends->push_back(end);
  }
}

}  // namespace weft::text
