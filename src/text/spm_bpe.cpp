#include "text/spm_bpe.h"

#include <algorithm>

#include "base/error.h"
#include "text/unicode.h"

namespace weft::text {

SpmBpe::SpmBpe(const Vocab& vocab, std::vector<double> scores, SpmBpeOptions options)
    : vocab_(vocab), scores_(std::move(scores)), options_(std::move(options)) {
  for (unsigned b = 0; b < 256; ++b) {
    constexpr const char* digits = "0123456789ABCDEF";
    const char name[] = {'<', '0', 'x', digits[b >> 4], digits[b & 15], '>', 0};
    byte_id_[b] = vocab_.id_of(name);
  }
}

void SpmBpe::encode(std::string_view text, Scratch& s, std::vector<int32_t>& ids, std::vector<uint32_t>* ends) const {
  if (text.size() > INT32_MAX) throw InputError("encode: got " + std::to_string(text.size()) + " bytes in one piece, want less than 2 GiB");
  auto& symbols = s.symbols;
  auto& heap = s.heap;
  symbols.clear(), heap.clear();
  for (size_t at = 0; at < text.size();) {
    size_t length = 0;
    int32_t which = 0;
    const bool frozen = options_.user_symbols && options_.user_symbols->match_at(text, at, length, which);
    if (!frozen) length = decode_utf8(text, at).length;
    const int32_t i = static_cast<int32_t>(symbols.size());
    symbols.push_back({static_cast<uint32_t>(at), static_cast<uint32_t>(length), i - 1, i + 1, frozen});
    at += length;
  }
  if (symbols.empty()) return;
  symbols.back().after = -1;
  const auto worse = [](const Scratch::Entry& a, const Scratch::Entry& b) {
    return a.score != b.score ? a.score < b.score : a.left > b.left;
  };
  const auto push = [&](int32_t left, int32_t right) {
    if (left < 0 || right < 0) return;
    const auto &l = symbols[static_cast<size_t>(left)], &r = symbols[static_cast<size_t>(right)];
    if (l.frozen || r.frozen) return;
    const int32_t id = vocab_.id_of(text.substr(l.begin, l.length + r.length));
    if (id < 0 || !options_.usable[static_cast<size_t>(id)]) return;
    heap.push_back({static_cast<float>(scores_[static_cast<size_t>(id)]), left, right, l.length + r.length});
    std::push_heap(heap.begin(), heap.end(), worse);
  };
  for (int32_t i = 1; i < static_cast<int32_t>(symbols.size()); ++i) push(i - 1, i);
  while (!heap.empty()) {
    const Scratch::Entry top = heap.front();
    std::pop_heap(heap.begin(), heap.end(), worse);
    heap.pop_back();
    auto &l = symbols[static_cast<size_t>(top.left)], &r = symbols[static_cast<size_t>(top.right)];
    if (l.length == 0 || r.length == 0 || l.length + r.length != top.length) continue;
    l.length += r.length;
    r.length = 0;
    l.after = r.after;
    if (r.after >= 0) symbols[static_cast<size_t>(r.after)].before = top.left;
    push(l.before, top.left);
    push(top.left, l.after);
  }
  bool in_unknown = false;
  for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].after) {
    const auto& symbol = symbols[static_cast<size_t>(i)];
    const std::string_view piece = text.substr(symbol.begin, symbol.length);
    const uint32_t end = symbol.begin + symbol.length;
    int32_t id = vocab_.id_of(piece);
    const bool unknown = id < 0 || !options_.usable[static_cast<size_t>(id)];
    if (unknown && options_.byte_fallback &&
        std::all_of(piece.begin(), piece.end(), [&](char c) { return byte_id_[static_cast<uint8_t>(c)] >= 0; })) {
      for (const char c : piece) {
        ids.push_back(byte_id_[static_cast<uint8_t>(c)]);
        if (ends != nullptr) ends->push_back(end);
      }
    } else if (unknown && in_unknown) {
      if (ends != nullptr) ends->back() = end;
    } else {
      ids.push_back(unknown ? options_.unknown : id);
      if (ends != nullptr) ends->push_back(end);
    }
    in_unknown = unknown && !options_.byte_fallback;
  }
}

}  // namespace weft::text
