// Rotary position embedding (Su et al. 2021). Pair i of head row x[t, h, :], 0 <= i < rot_dim / 2, angle of row p of the tables:
//   (u, v) -> (u cos - v sin, u sin + v cos), inverse: (u cos + v sin, v cos - u sin), which is also the backward.
// Pairs inside [rot_begin, rot_begin + rot_dim); all other columns are copied (nothing to do in place).
//   kHalf: (i, i + rot_dim/2);  kAdjacent: (2i, 2i + 1);
//   kAdjacentToHalf: reads (2i, 2i + 1), writes (i, i + rot_dim/2) (MLA checkpoints); inverse reads halves, writes adjacent.
// Math in fp32, rounded once. Bound: memory; every element read and written once (in place: the rotated ones only).
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct Rope {
  const void* x;             // [tokens, heads, head_dim] dtype; (t, h, d) at t * x_token_stride + h * x_head_stride + d
  void* y;                   // same shape, own strides; may alias x when the strides agree
  const float* cos;          // [table_rows, rot_dim / 2] fp32 (a concentration factor is multiplied into both tables)
  const float* sin;          // [table_rows, rot_dim / 2] fp32
  const int32_t* positions;  // [tokens] row of the tables, or null: row t
  int64_t tokens, x_token_stride, x_head_stride, y_token_stride, y_head_stride;
  int32_t heads, head_dim, rot_begin, rot_dim, table_rows;
  enum Pairing : uint8_t { kHalf, kAdjacent, kAdjacentToHalf } pairing;
  bool inverse;
  DType dtype;
};

Support supports_rope_sm90(const Rope&, const Device&);
Support supports_rope_cpu(const Rope&, const Device&);
void rope_sm90(const Rope&, const Launch&);
void rope_cpu(const Rope&, const Launch&);

}  // namespace weft::kernels
