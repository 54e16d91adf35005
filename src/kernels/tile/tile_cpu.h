// Small GEMM tiles for CPU kernels: C[M, 32] (+)= A[M, K] B[K, 32], fp32 sums, operands fp32 or bf16 (AVX512-BF16 only).
// A is row-major. B is packed in panels of 32 columns: fp32 [K][32], bf16 [K / 2][32][2] (pairs of k beside each other).
// M is a multiple of 4 for fp32 and 8 for bf16, K is even: callers pad with zeros (tile/pack_cpu.h).
#pragma once
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/cpu.h"
#include "kernels/launch.h"

namespace weft::kernels::tile {

constexpr int32_t kPanel = 32;

typedef float Vec16 __attribute__((vector_size(64), aligned(4), may_alias));

// Every accumulator is a variable of its own: an array indexed in a loop would live in memory.
WEFT_CLONES static void gemm(const float* a, int64_t lda, const float* b, float* c, int64_t ldc, int32_t M, int32_t K, bool accumulate) {
  const auto at = [&](int64_t r, int v) -> Vec16& { return *reinterpret_cast<Vec16*>(c + r * ldc + 16 * v); };
  for (int32_t i = 0; i < M; i += 4) {
    Vec16 c00{}, c01{}, c10{}, c11{}, c20{}, c21{}, c30{}, c31{};
    if (accumulate) c00 = at(i, 0), c01 = at(i, 1), c10 = at(i + 1, 0), c11 = at(i + 1, 1), c20 = at(i + 2, 0), c21 = at(i + 2, 1), c30 = at(i + 3, 0), c31 = at(i + 3, 1);
    const float *a0 = a + i * lda, *a1 = a0 + lda, *a2 = a1 + lda, *a3 = a2 + lda;
    for (int32_t k = 0; k < K; ++k) {
      const Vec16 b0 = *reinterpret_cast<const Vec16*>(b + k * kPanel), b1 = *reinterpret_cast<const Vec16*>(b + k * kPanel + 16);
      c00 += a0[k] * b0, c01 += a0[k] * b1;
      c10 += a1[k] * b0, c11 += a1[k] * b1;
      c20 += a2[k] * b0, c21 += a2[k] * b1;
      c30 += a3[k] * b0, c31 += a3[k] * b1;
    }
    at(i, 0) = c00, at(i, 1) = c01, at(i + 1, 0) = c10, at(i + 1, 1) = c11, at(i + 2, 0) = c20, at(i + 2, 1) = c21, at(i + 3, 0) = c30, at(i + 3, 1) = c31;
  }
}

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))) static void gemm(const bf16* a, int64_t lda, const bf16* b, float* c, int64_t ldc,
                                                                                 int32_t M, int32_t K, bool accumulate) {
  for (int32_t i = 0; i < M; i += 8) {
    __m512 acc[8][2];
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) {
      acc[r][0] = accumulate ? _mm512_loadu_ps(c + (i + r) * ldc) : _mm512_setzero_ps();
      acc[r][1] = accumulate ? _mm512_loadu_ps(c + (i + r) * ldc + 16) : _mm512_setzero_ps();
    }
    const bf16* row = a + i * lda;
    for (int32_t k = 0; k < K; k += 2) {
      const __m512bh b0 = (__m512bh)_mm512_loadu_si512(b + k * kPanel), b1 = (__m512bh)_mm512_loadu_si512(b + k * kPanel + 32);
#pragma GCC unroll 8
      for (int r = 0; r < 8; ++r) {
        int32_t pair;
        std::memcpy(&pair, row + r * lda + k, 4);
        const __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
        acc[r][0] = _mm512_dpbf16_ps(acc[r][0], x, b0);
        acc[r][1] = _mm512_dpbf16_ps(acc[r][1], x, b1);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) {
      _mm512_storeu_ps(c + (i + r) * ldc, acc[r][0]);
      _mm512_storeu_ps(c + (i + r) * ldc + 16, acc[r][1]);
    }
  }
}
#else
void gemm(const bf16*, int64_t, const bf16*, float*, int64_t, int32_t, int32_t, bool);  // never called: no such ISA
#endif

// Whether this machine multiplies bf16 pairs; else bf16 data is widened to fp32 tiles.
inline bool bf16_dot() {
#if defined(__x86_64__)
  static const bool yes = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  return yes;
#else
  return false;
#endif
}

}  // namespace weft::kernels::tile
