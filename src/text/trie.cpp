#include "text/trie.h"

namespace weft::text {

void Trie::insert(Edge edge) {
  size_t at = mix(uint64_t{edge.parent} << 8 | edge.byte) & mask_;
  while (edges_[at].node != 0) at = (at + 1) & mask_;
  edges_[at] = edge;
}

void Trie::add(std::string_view key, int32_t value) {
  uint32_t node = 0;
  for (const char c : key) {
    const uint8_t byte = static_cast<uint8_t>(c);
    uint32_t next = child(node, byte);
    if (next == 0) {
      next = static_cast<uint32_t>(values_.size());
      values_.push_back(-1);
      if (node == 0) {
        root_[byte] = next;
      } else {
        if (edges_.size() < 2 * values_.size()) {
          std::vector<Edge> old(edges_.size() * 2);
          old.swap(edges_);
          mask_ = edges_.size() - 1;
          for (const Edge& e : old) {
            if (e.node != 0) insert(e);
          }
        }
        insert({node, next, byte});
      }
    }
    node = next;
  }
  values_[node] = value;
}

}  // namespace weft::text
