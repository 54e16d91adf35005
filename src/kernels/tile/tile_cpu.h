// Small GEMM tiles for CPU kernels: C[M, 32] (+)= A[M, K] B[K, 32], fp32 sums, operands fp32 or bf16 (AVX512-BF16 only).
// A is row-major. B is packed in panels of 32 columns: fp32 [K][32], bf16 [K / 2][32][2] (pairs of k beside each other).
// M is a multiple of 4 for fp32 and 8 for bf16, K is even: callers pad with zeros.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/cpu.h"
#include "kernels/launch.h"

namespace weft::kernels::tile {

constexpr int32_t kPanel = 32;

inline int32_t round_up(int32_t n, int32_t to) { return (n + to - 1) / to * to; }

typedef uint32_t Pair __attribute__((aligned(2), may_alias));
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

// Element (k, n) of a panel.
template <class E>
inline int64_t at(int32_t k, int32_t n) {
  if constexpr (sizeof(E) == 2) return static_cast<int64_t>(k / 2) * 2 * kPanel + 2 * n + (k & 1);
  else return static_cast<int64_t>(k) * kPanel + n;
}

template <class E, class T>
inline E convert(T v) {
  if constexpr (sizeof(E) == sizeof(T)) return v;
  else return from_f32<E>(to_f32(v));
}

// rows x cols of src (row stride ld) -> dst [padded_rows][padded_cols], zeros outside.
template <class E, class T>
WEFT_CLONES void copy_rows(const T* src, int64_t ld, int32_t rows, int32_t cols, E* dst, int32_t padded_rows, int32_t padded_cols) {
  for (int32_t r = 0; r < rows; ++r) {
#pragma omp simd
    for (int32_t c = 0; c < cols; ++c) dst[static_cast<int64_t>(r) * padded_cols + c] = convert<E>(src[r * ld + c]);
    for (int32_t c = cols; c < padded_cols; ++c) dst[static_cast<int64_t>(r) * padded_cols + c] = E{};
  }
  std::fill_n(dst + static_cast<int64_t>(rows) * padded_cols, static_cast<int64_t>(padded_rows - rows) * padded_cols, E{});
}

// dst[r][c] = src[c][r], 16 of c at a time so that rows of both stay in the first cache.
template <class D, class S>
WEFT_CLONES void turn(const S* src, int64_t ld, D* dst, int64_t stride, int32_t rows, int32_t cols) {
  for (int32_t c0 = 0; c0 < cols; c0 += 16)
    for (int32_t r = 0; r < rows; ++r) {
      const int32_t end = c0 + 16 < cols ? c0 + 16 : cols;
      for (int32_t c = c0; c < end; ++c) dst[r * stride + c] = convert<D>(src[c * ld + r]);
    }
}

// As B with k = rows, n = cols: panels [padded_cols / 32][padded_rows][32].
template <class E, class T>
WEFT_CLONES void pack_rows(const T* src, int64_t ld, int32_t rows, int32_t cols, E* dst, int32_t padded_rows, int32_t padded_cols) {
  for (int32_t p = 0; p < padded_cols; p += kPanel, dst += static_cast<int64_t>(padded_rows) * kPanel) {
    const int32_t n = cols - p < kPanel ? (cols - p < 0 ? 0 : cols - p) : kPanel;
    if (n < kPanel || rows < padded_rows) std::fill_n(dst, static_cast<int64_t>(padded_rows) * kPanel, E{});
    int32_t k = 0;
    if constexpr (sizeof(E) == 2)
      for (; k + 1 < rows; k += 2) {  // both of a pair at once
        auto* out = reinterpret_cast<Pair*>(dst + at<E>(k, 0));
        const T *low = src + k * ld + p, *high = low + ld;
#pragma omp simd
        for (int32_t c = 0; c < n; ++c) out[c] = static_cast<uint32_t>(convert<E>(low[c]).bits) | static_cast<uint32_t>(convert<E>(high[c]).bits) << 16;
      }
    for (; k < rows; ++k) {
      E* out = dst + at<E>(k, 0);
      const T* in = src + k * ld + p;
      constexpr int32_t step = sizeof(E) == 2 ? 2 : 1;
#pragma omp simd
      for (int32_t c = 0; c < n; ++c) out[c * step] = convert<E>(in[c]);
    }
  }
}

// As B with k = cols, n = rows: panels [padded_rows / 32][padded_cols][32].
template <class E, class T>
WEFT_CLONES void pack_transposed(const T* src, int64_t ld, int32_t rows, int32_t cols, E* dst, int32_t padded_rows, int32_t padded_cols) {
  for (int32_t p = 0; p < padded_rows; p += kPanel, dst += static_cast<int64_t>(padded_cols) * kPanel) {
    const int32_t n = rows - p < kPanel ? (rows - p < 0 ? 0 : rows - p) : kPanel;
    if (n < kPanel || cols < padded_cols) std::fill_n(dst, static_cast<int64_t>(padded_cols) * kPanel, E{});
    for (int32_t r = 0; r < n; ++r) {
      const T* in = src + (p + r) * ld;
      if constexpr (sizeof(E) == 2 && sizeof(T) == 2) {
        const int32_t even = cols & ~1;
        for (int32_t c = 0; c < even; c += 2) std::memcpy(static_cast<void*>(dst + at<E>(c, r)), in + c, 4);
        if (even < cols) dst[at<E>(even, r)] = convert<E>(in[even]);
      } else if constexpr (sizeof(E) == 2) {
        for (int32_t c0 = 0; c0 < cols; c0 += 64) {
          E some[64] = {};
          const int32_t m = cols - c0 < 64 ? cols - c0 : 64;
#pragma omp simd
          for (int32_t c = 0; c < m; ++c) some[c] = convert<E>(in[c0 + c]);
          for (int32_t c = 0; c < m; c += 2) std::memcpy(static_cast<void*>(dst + at<E>(c0 + c, r)), some + c, 4);
        }
      } else {
        for (int32_t c = 0; c < cols; ++c) dst[at<E>(c, r)] = convert<E>(in[c]);
      }
    }
  }
}

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
