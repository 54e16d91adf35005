// Byte strings to numbers, walked byte by byte: all the keys that a text starts with.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

namespace weft::text {

class Trie {
 public:
  void add(std::string_view key, int32_t value);  // value >= 0; of equal keys the last counts
  uint32_t child(uint32_t node, uint8_t byte) const {  // 0 when there is none; the root is 0
    if (node == 0) return root_[byte];
    const uint64_t key = uint64_t{node} << 8 | byte;
    size_t at = mix(key) & mask_;
    while (edges_[at].node != 0) {
      if (edges_[at].parent == node && edges_[at].byte == byte) return edges_[at].node;
      at = (at + 1) & mask_;
    }
    return 0;
  }
  int32_t value(uint32_t node) const { return values_[node]; }  // -1 when no key ends there

 private:
  struct Edge {
    uint32_t parent = 0, node = 0;
    uint8_t byte = 0;
  };
  static size_t mix(uint64_t key) { return static_cast<size_t>(key * 0x9E3779B97F4A7C15u >> 30); }
  void insert(Edge);
  std::vector<Edge> edges_ = std::vector<Edge>(64);
  std::vector<int32_t> values_ = {-1};
  size_t mask_ = 63;
  uint32_t root_[256] = {};
};

}  // namespace weft::text
