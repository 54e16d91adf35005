// C[m, n] (+)= op(A) op(B), all row-major; sums in fp32. Bound: flops.
//   y = x w^T:    m tokens, n out, k in,      b_transposed        dx = dy w: m tokens, n in, k out
//   dw += dy^T x: m out, n in, k tokens,      a_transposed, accumulate, fp32 out
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct Gemm {
  const void* a;  // [m, k], or [k, m] when a_transposed; rows lda elements apart; dtype
  const void* b;  // [k, n], or [n, k] when b_transposed; rows ldb apart; dtype
  void* c;        // [m, n], rows ldc apart; out_dtype
  int64_t m, n, k, lda, ldb, ldc;
  bool a_transposed, b_transposed;
  bool accumulate;  // true: added to c
  DType dtype, out_dtype;
};

// sum[r, c] += x[r, c]: what follows a library's product that has no fp32 result. Bound: memory.
struct Accumulate {
  const void* x;  // [rows, cols] dtype, contiguous
  float* sum;     // [rows, cols] fp32, rows `stride` elements apart
  int64_t rows, cols, stride;
  DType dtype;
};

Support supports_accumulate_cpu(const Accumulate&, const Device&);
void accumulate_cpu(const Accumulate&, const Launch&);

}  // namespace weft::kernels
