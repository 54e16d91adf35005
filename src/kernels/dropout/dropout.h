// Dropout by a counter: y = residual + keep(i) * x / (1 - p), keep(i) from (seed, offset + i) only, so the backward (the same call on
// dy without residual) and a recomputed forward draw the same mask, and any cut of the tensor draws the bits of the whole.
// keep(i) = word (i mod 4) of Philox4x32-10 with key = seed, counter = {(offset + i) / 4, stream} >= p * 2^32. Bound: memory.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct Dropout {
  const void* x;         // [count] dtype, contiguous
  const void* residual;  // [count] dtype, or null for zeros
  void* y;               // [count] dtype, may alias x or residual
  int64_t count;
  uint64_t seed, stream;
  int64_t offset;  // global index of element 0, a multiple of 4
  float p;         // in [0, 1)
  DType dtype;
};

Support supports_dropout_sm90(const Dropout&, const Device&);
void dropout_sm90(const Dropout&, const Launch&);
Support supports_dropout_cpu(const Dropout&, const Device&);
void dropout_cpu(const Dropout&, const Launch&);

}  // namespace weft::kernels
