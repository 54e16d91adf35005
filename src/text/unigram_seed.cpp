#include "text/unigram_seed.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "base/error.h"
#include "text/byte_level.h"

namespace weft::text {
namespace {

// The start of a suffix: symbols of nine bits, the first highest, 0 behind the word's end. Symbols order as the alphabet does.
constexpr size_t kSymbols = 21, kPerWord = 7;
using Key = std::array<uint64_t, kSymbols / kPerWord>;

uint64_t symbol_at(const Key& k, size_t i) { return k[i / kPerWord] >> (9 * (kPerWord - 1 - i % kPerWord)) & 511; }

size_t common_prefix(const Key& a, const Key& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (const uint64_t x = a[i] ^ b[i]; x != 0) return i * kPerWord + static_cast<size_t>(std::countl_zero(x) - 1) / 9;
  }
  return kSymbols;
}

struct Candidate {
  uint64_t score;
  Key key;
  size_t length;
};

// Inner nodes of the suffix tree of the sorted keys, at most `longest` deep: intervals of equal common prefixes.
void inner_nodes(const std::vector<Key>& keys, size_t longest, std::vector<Candidate>& out) {
  struct Open {
    size_t depth, begin;
  };
  std::vector<Open> open;
  const auto close = [&](const Open& node, size_t end) {
    if (node.depth < 2 || node.depth > longest || symbol_at(keys[node.begin], node.depth - 1) == 0) return;
    out.push_back({(end - node.begin) * node.depth, keys[node.begin], node.depth});
  };
  for (size_t i = 1; i <= keys.size(); ++i) {
    const size_t depth = i < keys.size() ? common_prefix(keys[i - 1], keys[i]) : 0;
    size_t begin = i - 1;
    while (!open.empty() && open.back().depth > depth) {
      close(open.back(), i);
      begin = open.back().begin;
      open.pop_back();
    }
    if (depth > 0 && (open.empty() || open.back().depth < depth)) open.push_back({depth, begin});
  }
}

// Larger scores first, then the string that is later in the order of symbols; a string is after its own beginnings.
bool better(const Candidate& a, const Candidate& b) {
  if (a.score != b.score) return a.score > b.score;
  for (size_t i = 0; i < std::min(a.length, b.length); ++i) {
    if (const uint64_t x = symbol_at(a.key, i), y = symbol_at(b.key, i); x != y) return x > y;
  }
  return a.length > b.length;
}

}  // namespace

std::vector<UnigramPiece> unigram_seeds(const WordCount& words, int longest, size_t most) {
  if (longest < 1 || longest >= static_cast<int>(kSymbols) - 1) throw ConfigError("train tokenizer: longest piece: got " + std::to_string(longest) + " bytes, want 1 to 19");
  std::array<int64_t, 256> bytes{};
  std::array<size_t, 256> places{};
  for (const auto& w : words.words()) {
    for (const char c : words.text(w)) bytes[static_cast<uint8_t>(c)] += w.count, ++places[static_cast<uint8_t>(c)];
  }
  std::vector<std::pair<int64_t, uint32_t>> singles;  // count, symbol
  for (unsigned b = 0; b < 256; ++b) {
    if (bytes[b] > 0) singles.emplace_back(bytes[b], byte_to_char(static_cast<uint8_t>(b)));
  }
  std::sort(singles.rbegin(), singles.rend());

  std::vector<Candidate> candidates;
  std::vector<Key> keys;
  for (unsigned first = 0; first < 256; ++first) {  // suffixes by their first byte: a part of them in memory at a time
    keys.clear();
    keys.reserve(places[first]);
    for (const auto& w : words.words()) {
      const std::string_view text = words.text(w);
      for (size_t at = 0; (at = text.find(static_cast<char>(first), at)) != std::string_view::npos; ++at) {
        Key key{};
        for (size_t i = 0; i < kSymbols && at + i < text.size(); ++i) {
          key[i / kPerWord] |= uint64_t{byte_to_char(static_cast<uint8_t>(text[at + i]))} << (9 * (kPerWord - 1 - i % kPerWord));
        }
        keys.push_back(key);
      }
    }
    std::sort(keys.begin(), keys.end());
    inner_nodes(keys, static_cast<size_t>(longest), candidates);
  }
  const size_t wanted = most > singles.size() ? std::min(most - singles.size(), candidates.size()) : std::min<size_t>(1, candidates.size());
  std::partial_sort(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(wanted), candidates.end(), better);
  candidates.resize(wanted);

  std::vector<UnigramPiece> out;
  out.reserve(singles.size() + candidates.size());
  double sum = 0;
  const auto byte_of = [](uint64_t symbol) { return static_cast<char>(char_to_byte(static_cast<uint32_t>(symbol))); };
  for (const auto& [count, symbol] : singles) out.push_back({std::string(1, byte_of(symbol)), static_cast<double>(count)});
  for (const Candidate& c : candidates) {
    std::string piece;
    for (size_t i = 0; i < c.length; ++i) piece += byte_of(symbol_at(c.key, i));
    out.push_back({std::move(piece), static_cast<double>(c.score)});
  }
  for (const UnigramPiece& p : out) sum += p.score;
  for (UnigramPiece& p : out) p.score = std::log(p.score) - std::log(sum);
  return out;
}

}  // namespace weft::text
