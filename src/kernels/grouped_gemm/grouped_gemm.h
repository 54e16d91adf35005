// Grouped GEMM over rows sorted by group, sizes known only on the device: no host sync, groups of zero rows allowed.
// Group e holds rows [ends[e-1], ends[e]) (ends[-1] = 0); rows from ends[E-1] on belong to none:
// they are not read, and are zero in out.
//   kForward: out[r, n]    = sum_k a[r, k] w[e, n, k]          a [M, K], w [E, N, K], out [M, N]
//   kDgrad  : out[r, k]    = sum_n a[r, n] w[e, n, k]          a [M, N], w [E, N, K], out [M, K]
//   kWgrad  : out[e, n, k] (+)= sum_r a[r, n] w[r, k]          a [M, N], w [M, K], out [E, N, K]; a group of no rows gives zero
// fp32 sums; out in bf16, or fp32 where asked. Deterministic.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct GroupedGemm {
  enum Kind : uint8_t { kForward, kDgrad, kWgrad } kind;
  const void* a;        // contiguous
  const void* w;        // contiguous
  const int32_t* ends;  // [groups] on the device, non-decreasing, the last at most `rows`
  void* out;            // contiguous
  int64_t rows;         // M
  int32_t groups, n, k; // E, N, K
  DType dtype;          // of a and w
  DType out_dtype;      // the same, or kF32 for kWgrad
  bool accumulate;      // kWgrad into fp32: out += the sum, a group of no rows is left as it is
};

// Tensor cores: bf16, n and k multiples of 8, all three pointers aligned to 16 bytes.
Support supports_grouped_gemm_sm90(const GroupedGemm&, const Device&);
size_t workspace_grouped_gemm_sm90(const GroupedGemm&);
void grouped_gemm_sm90(const GroupedGemm&, const Launch&);

// fp32 units: f32 and bf16 of any size and alignment.
Support supports_grouped_gemm_general_sm90(const GroupedGemm&, const Device&);
void grouped_gemm_general_sm90(const GroupedGemm&, const Launch&);

}  // namespace weft::kernels
