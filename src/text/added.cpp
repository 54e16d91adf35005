#include "text/added.h"

namespace weft::text {
namespace {
size_t mix(uint64_t key) { return static_cast<size_t>(key * 0x9E3779B97F4A7C15u >> 24); }
}  // namespace

uint32_t AddedMatcher::child(uint32_t node, uint8_t byte) const {
  const uint64_t key = uint64_t{node} * 256 + byte;
  const size_t mask = edges_.size() - 1;
  size_t at = mix(key) & mask;
  while (edges_[at].node != 0 && edges_[at].key != key) at = (at + 1) & mask;
  return edges_[at].node;
}

void AddedMatcher::insert_edge(uint64_t key, uint32_t node) {
  const size_t mask = edges_.size() - 1;
  size_t at = mix(key) & mask;
  while (edges_[at].node != 0) at = (at + 1) & mask;
  edges_[at] = {key, node};
}

void AddedMatcher::add(std::string_view string, int32_t value) {
  if (starts_.empty()) starts_.resize(65536 / 64), edges_.resize(64);
  const uint8_t first = static_cast<uint8_t>(string[0]);
  for (unsigned second = 0; second < 256; ++second) {
    if (string.size() > 1 && static_cast<uint8_t>(string[1]) != second) continue;
    const unsigned pair = first * 256u + second;
    starts_[pair / 64] |= uint64_t{1} << (pair % 64);
  }
  uint32_t node = 0;
  for (const char c : string) {
    const uint8_t byte = static_cast<uint8_t>(c);
    uint32_t next = child(node, byte);
    if (next == 0) {
      next = static_cast<uint32_t>(value_.size());
      value_.push_back(-1);
      if (edges_.size() < 2 * value_.size()) {
        std::vector<Edge> old(edges_.size() * 2);
        old.swap(edges_);
        for (const Edge& e : old) {
          if (e.node != 0) insert_edge(e.key, e.node);
        }
      }
      insert_edge(uint64_t{node} * 256 + byte, next);
    }
    node = next;
  }
  if (value_[node] < 0) ++strings_;
  value_[node] = value;
}

bool AddedMatcher::match_at(std::string_view text, size_t at, size_t& length, int32_t& value) const {
  if (strings_ == 0) return false;
  uint32_t node = 0;
  bool found = false;
  for (size_t i = at; i < text.size(); ++i) {
    node = child(node, static_cast<uint8_t>(text[i]));
    if (node == 0) break;
    if (value_[node] >= 0) found = true, value = value_[node], length = i + 1 - at;
  }
  return found;
}

bool AddedMatcher::find(std::string_view text, size_t from, size_t& begin, size_t& end, int32_t& value) const {
  if (strings_ == 0) return false;
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(text.data());
  for (size_t at = from; at < text.size(); ++at) {
    if (at + 1 < text.size()) {
      const unsigned pair = bytes[at] * 256u + bytes[at + 1];
      if ((starts_[pair / 64] >> (pair % 64) & 1) == 0) continue;
    }
    size_t length = 0;
    if (match_at(text, at, length, value)) {
      begin = at;
      end = at + length;
      return true;
    }
  }
  return false;
}

}  // namespace weft::text
