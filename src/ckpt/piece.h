// Pieces of named tensors, and who copies what to whom: one pure function for loading under a new mesh, for sending weights
// from a trainer to an engine, and for import.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "dist/layout.h"

namespace weft::ckpt {

struct Piece {  // one rank's part of a named tensor, and where its bytes are
  std::string name;  // "layers.17.mla.q_down", "optim.exp_avg.layers.17.mla.q_down"
  DType dtype;
  std::vector<int64_t> global;
  Box box;
  int owner = 0;  // rank, or file number
  int64_t byte_offset = 0, bytes = 0;
  std::string xxh3;  // 128-bit hash of the bytes; lives in the manifest, so shards stay plain safetensors
};

struct Copy {
  int src, dst;  // indices into `have` and `want`
  Box box;       // in coordinates of the whole tensor
};

// Copies that write each wanted element exactly once, from the first piece that has it. InputError when a wanted tensor is not
// there, has another global shape or dtype, or lacks elements. What is there but not wanted is left alone.
std::vector<Copy> plan_copies(std::span<const Piece> have, std::span<const Piece> want);

// InputError unless every element of every named tensor lies in exactly one piece.
void check_cover(std::span<const Piece> pieces);

// Copies the box between two pieces' memory (row-major over each piece's own box).
void copy_box(const std::byte* src, const Box& src_box, std::byte* dst, const Box& dst_box, const Box& box, DType);

}  // namespace weft::ckpt
