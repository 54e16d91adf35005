// Rotary positions: y = x with its pairs turned by the angles of each token's position (kernels/rope/rope.h has the formula).
#pragma once
#include <ATen/core/Tensor.h>

#include "kernels/rope/rope.h"
#include "ops/policy.h"
#include "ops/rope_table.h"

namespace weft::ops {

struct RopeOptions {
  kernels::Rope::Pairing pairing = kernels::Rope::kHalf;
  int64_t first = 0;     // first dim of a head that turns; the table's width says how many do
  bool inverse = false;  // turns back: the backward, and outputs whose values were rotated
};

// x_THR [T, heads, dim], heads and dims contiguous (a slice of a wider row is fine); positions_T [T] int32 below the table's rows.
// Returns a contiguous [T, heads, dim]. ShapeError for a table wider than the head, or a position outside it (checked on the CPU).
at::Tensor rope(const at::Tensor& x_THR, const at::Tensor& positions_T, const RopeTable&, const RopeOptions&, const Policy&);

namespace reference {
at::Tensor rope(const at::Tensor& x_THR, const at::Tensor& positions_T, const RopeTable&, const RopeOptions&);  // its backward: `inverse` flipped
}

}  // namespace weft::ops
