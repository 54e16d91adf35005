// How a tensor lies on a mesh: which part of the whole each rank holds. Shared by initialisation, checkpoints and weight sync.
#pragma once
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "dist/mesh.h"

namespace weft {

struct Place {  // how one axis holds a tensor: a copy, a slice of `dim`, or an addend
  enum Kind : uint8_t { kReplicate, kShard, kPartial } kind = kReplicate;
  int8_t dim = -1;
  int16_t replicas = 1;  // neighbours that hold the same slice (key/value heads fewer than tp)
  bool zigzag = false;   // load-balanced pairs of chunks (causal cp): of 2n chunks, rank r holds r and 2n - 1 - r
};

struct Layout {
  std::vector<std::pair<Axis, Place>> major_to_minor;  // order matters where two axes cut one dim (fsdp over tp)
  // Of a fused dim (gate|up, z|x|B|C|dt), the one dim that is cut: each segment is cut on its own. Empty: the dim is one piece.
  std::vector<int64_t> segments;
};

struct Box {
  std::vector<int64_t> offset, shape;
  bool operator==(const Box&) const = default;
};

// The parts of a tensor of `shape` that a rank holds, in the order in which its local tensor has them (the last dim's
// intervals innermost). A whole scalar is one box without dims. ShapeError when a dim cannot be cut evenly or segments do not
// add up to it.
std::vector<Box> local_boxes(const Layout&, std::span<const int64_t> shape, const Mesh&);
std::vector<int64_t> local_shape(const Layout&, std::span<const int64_t> shape, const Mesh&);

int64_t numel(std::span<const int64_t> shape);

}  // namespace weft
