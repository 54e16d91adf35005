// FP8 quantisers. For each block of elements: amax = max |x|, mult = fmax / amax (fp32 division, at most FLT_MAX; 1 where amax is 0, inf or NaN;
// with pow2 the mantissa of mult is masked off), q = fp8(x * mult) to nearest even, saturating, and scale = 1 / mult, so x ~ q * scale.
// fmax: 448 for f8e4m3, 57344 for f8e5m2. Bit-exact and deterministic. Bound: memory, x once.
//   kTensor: one block, amax given;  kRow: a block is a row;  k1x128: 128 neighbours of a row;  k128x128: a square
// q_t is the transposed copy [cols, rows]. For kTensor and k128x128 it has the same scales (transposed for k128x128); for kRow and
// k1x128 its blocks run along the tokens: kRow -> one per column, k1x128 -> 128 rows of one column (the wgrad operand).
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

enum class QuantBlock : uint8_t { kTensor, kRow, k1x128, k128x128 };

struct Amax {  // *amax = max(*amax if add, max |x|); NaN gives NaN
  const void* x;  // [count] dtype
  float* amax;    // [1]
  int64_t count;
  bool add;
  DType dtype;
};

struct Quantize {
  const void* x;      // [rows, cols] dtype, contiguous
  const float* amax;  // [1] on the device, kTensor only
  void* q;            // [rows, cols] to, or null
  float* scale;       // kTensor [1]; kRow [rows]; k1x128 [rows, ceil(cols/128)]; k128x128 [ceil(rows/128), ceil(cols/128)]
  void* q_t;          // [cols, rows] to, or null
  float* scale_t;     // kTensor null; kRow [cols]; k1x128 [cols, ceil(rows/128)]; k128x128 [ceil(cols/128), ceil(rows/128)]
  int64_t rows;
  int32_t cols;
  QuantBlock block;
  bool pow2;
  DType dtype, to;
};

Support supports_amax_sm90(const Amax&, const Device&);
void amax_sm90(const Amax&, const Launch&);
Support supports_quantize_sm90(const Quantize&, const Device&);
size_t workspace_quantize_sm90(const Quantize&);
void quantize_sm90(const Quantize&, const Launch&);

}  // namespace weft::kernels
