// An fp32 matrix as bf16 matrices: v = p0 + p1 + p2, each part the rounding of what those before it leave. Three parts hold all 24 bits of
// v (while p2 is above bf16's smallest subnormal), so products with bf16 factors lose nothing on the tensor core. Bound: memory.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct SplitBf16 {
  const float* x;  // [rows, cols], contiguous
  void* out;       // bf16: what stands at place j for element (r, c) is at j * place_stride + r * row_stride + c
  int64_t rows, cols, row_stride, place_stride;
  int8_t part_at[3];  // the part (0, 1 or 2) at each place
};

Support supports_split_bf16(const SplitBf16&, const Device&);
void split_bf16(const SplitBf16&, const Launch&);

}  // namespace weft::kernels
