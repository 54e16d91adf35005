// Walsh-Hadamard transform of each row (Sylvester order): y = x H_cols * scale; H[i, j] = (-1)^popcount(i & j). Its own backward.
// Sums in fp32 in a fixed order (deterministic). Bound: memory.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct Hadamard {
  const void* x;  // [rows, cols] dtype, contiguous; cols is a power of two
  void* y;        // [rows, cols] dtype, may alias x
  int64_t rows;
  int32_t cols;
  float scale;  // 1 / sqrt(cols) for the orthonormal transform
  DType dtype;
};

Support supports_hadamard_sm90(const Hadamard&, const Device&);
void hadamard_sm90(const Hadamard&, const Launch&);
Support supports_hadamard_cpu(const Hadamard&, const Device&);
void hadamard_cpu(const Hadamard&, const Launch&);

}  // namespace weft::kernels
