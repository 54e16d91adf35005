// Products of bf16 factors on AVX512-BF16. Both factors are packed, 256 of k at a time, into pairs of neighbours in k: A in panels of 8
// rows [k / 2][8][2], B in panels of 32 columns [k / 2][32][2]. A task is a block of C that stays in the second cache over all of k: an
// fp32 result in its place, any other in a buffer of fp32 sums that is rounded, with its bias, while it is there. Sums go in the
// order of k, whatever the block, so the bits depend on neither threads nor blocks.
#include <algorithm>
#include <cstring>
#include <memory>

#if defined(__x86_64__)
#include <immintrin.h>
#pragma GCC diagnostic ignored "-Wuninitialized"  // the intrinsics' own "undefined" values
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include "kernels/cpu.h"
#include "kernels/gemm/gemm.h"

namespace weft::kernels {
namespace {

#if defined(__x86_64__)
#define WEFT_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

constexpr int64_t kRows = 8, kCols = 32, kDepth = 256, kMaxM = 256, kMaxN = 384;

// 16 pairs (low[i], high[i]); `high` null: zeros.
WEFT_AVX512_BF16 inline __m512i pairs(const uint16_t* low, const uint16_t* high, __mmask16 valid) {
  const __m512i a = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(valid, low));
  if (high == nullptr) return a;
  return _mm512_or_si512(a, _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(valid, high)), 16));
}

__mmask16 first(int64_t n) { return static_cast<__mmask16>(n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1); }

// Rows of src are k: src[k][i], k < depth, i < width -> panels of W i's, zeros outside.
template <int64_t W>
WEFT_AVX512_BF16 void pack_k_rows(const uint16_t* src, int64_t ld, int64_t depth, int64_t width, uint32_t* dst) {
  const int64_t half = (depth + 1) / 2;
  for (int64_t k = 0; k < depth; k += 2) {
    const uint16_t *low = src + k * ld, *high = k + 1 < depth ? low + ld : nullptr;
    for (int64_t i = 0; i < (W == 8 ? width : (width + W - 1) / W * W); i += 16) {
      const __m512i p = pairs(low + i, high == nullptr ? nullptr : high + i, first(width - i));
      if constexpr (W >= 16) {
        _mm512_storeu_si512(dst + (i / W * half + k / 2) * W + i % W, p);
      } else {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst + (i / W * half + k / 2) * W), _mm512_castsi512_si256(p));
        if (i + W < width) _mm256_storeu_si256(reinterpret_cast<__m256i*>(dst + ((i / W + 1) * half + k / 2) * W), _mm512_extracti64x4_epi64(p, 1));
      }
    }
  }
}

// Rows of src are i: src[i][k]. Pairs lie side by side already; 16 x 16 of them are turned at a time.
WEFT_AVX512_BF16 void turn16(__m512i r[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]), t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; ++j) r[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + 2 + j]), r[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + 2 + j]);
  for (int i = 0; i < 4; ++i)
    for (int h = 0; h < 2; ++h)
      t[4 * h + i] = _mm512_shuffle_i32x4(r[8 * h + i], r[8 * h + 4 + i], 0x88), t[8 + 4 * h + i] = _mm512_shuffle_i32x4(r[8 * h + i], r[8 * h + 4 + i], 0xdd);
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[4 + i], 0x88), r[8 + i] = _mm512_shuffle_i32x4(t[i], t[4 + i], 0xdd);
    r[4 + i] = _mm512_shuffle_i32x4(t[8 + i], t[12 + i], 0x88), r[12 + i] = _mm512_shuffle_i32x4(t[8 + i], t[12 + i], 0xdd);
  }
}

template <int64_t W>
WEFT_AVX512_BF16 void pack_k_cols(const uint16_t* src, int64_t ld, int64_t depth, int64_t width, uint32_t* dst) {
  const int64_t half = (depth + 1) / 2, padded = (width + W - 1) / W * W;
  for (int64_t i0 = 0; i0 < padded; i0 += 16)
    for (int64_t k = 0; k < depth; k += 32) {
      const __mmask32 valid = depth - k >= 32 ? 0xffffffffu : (1u << (depth - k)) - 1;
      __m512i r[16];
      for (int64_t i = 0; i < 16; ++i) r[i] = i0 + i < width ? _mm512_maskz_loadu_epi16(valid, src + (i0 + i) * ld + k) : _mm512_setzero_si512();
      turn16(r);
      for (int64_t p = 0; p < std::min<int64_t>(16, half - k / 2); ++p) {
        uint32_t* to = dst + (i0 / W * half + k / 2 + p) * W + i0 % W;
        if constexpr (W >= 16) {
          _mm512_storeu_si512(to, r[p]);
        } else {
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(r[p]));
          if (i0 + W < padded) _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + half * W), _mm512_extracti64x4_epi64(r[p], 1));
        }
      }
    }
}

// C[8, kCols] += one panel of each. Every accumulator stays in a register.
WEFT_AVX512_BF16 void multiply(const uint32_t* a, const uint32_t* b, int64_t half, float* c, int64_t ldc) {
  constexpr int kVectors = kCols / 16;
  __m512 acc[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) acc[r][v] = _mm512_loadu_ps(c + r * ldc + 16 * v);
  for (int64_t k = 0; k < half; ++k, a += kRows, b += kCols) {
    __m512bh y[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) y[v] = (__m512bh)_mm512_loadu_si512(b + 16 * v);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m512bh x = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[r]));
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], x, y[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) _mm512_storeu_ps(c + r * ldc + 16 * v, acc[r][v]);
}

// A tile that reaches over C's edge goes through a buffer.
void multiply_edge(const uint32_t* a, const uint32_t* b, int64_t half, float* c, int64_t ldc, int64_t rows, int64_t cols) {
  float whole[kRows * kCols] = {};
  const size_t width = static_cast<size_t>(cols) * sizeof(float);
  for (int64_t r = 0; r < rows; ++r) std::memcpy(whole + r * kCols, c + r * ldc, width);
  multiply(a, b, half, whole, kCols);
  for (int64_t r = 0; r < rows; ++r) std::memcpy(c + r * ldc, whole + r * kCols, width);
}

struct Line {  // what is packed starts on a cache line
  alignas(64) uint32_t pairs[16];
};
struct Block {
  int64_t m, n;  // of C, in whole panels
};
// Small enough that there are tasks for many threads, large enough that packing is a small part.
Block block_of(const Gemm& g) {
  Block b{std::min(kMaxM, (g.m + kRows - 1) / kRows * kRows), std::min(kMaxN, (g.n + kCols - 1) / kCols * kCols)};
  while (((g.m + b.m - 1) / b.m) * ((g.n + b.n - 1) / b.n) < 16 && (b.m > 64 || b.n > 64))
    (b.m >= b.n ? b.m : b.n) = b.m >= b.n ? (b.m / 2 + kRows - 1) / kRows * kRows : (b.n / 2 + kCols - 1) / kCols * kCols;
  return b;
}

// The sums of one row of the block, with their bias (null: none), rounded to bf16.
WEFT_AVX512_BF16 void finish_row(const float* sums, const bf16* bias, bf16* c, int64_t n) {
  if (bias != nullptr) {
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) c[j] = from_f32<bf16>(sums[j] + to_f32(bias[j]));
  } else {
#pragma omp simd
    for (int64_t j = 0; j < n; ++j) c[j] = from_f32<bf16>(sums[j]);
  }
}

// bias_grad[m] = sum over k of A[k, m], for `m` columns of A.
WEFT_AVX512_BF16 void sum_rows(const bf16* a, int64_t lda, int64_t k, int64_t m, float* sums) {
  std::fill_n(sums, m, 0.0f);
  for (int64_t i = 0; i < k; ++i, a += lda) {
#pragma omp simd
    for (int64_t j = 0; j < m; ++j) sums[j] += to_f32(a[j]);
  }
}

void run(const Gemm& g, const Launch& launch) {
  const auto *a = static_cast<const uint16_t*>(g.a), *b = static_cast<const uint16_t*>(g.b);
  const Block block = block_of(g);
  const int64_t down = (g.m + block.m - 1) / block.m, across = (g.n + block.n - 1) / block.n;
  const bool in_place = g.out_dtype == DType::kF32;
  parallel_for(launch.parallel, down * across, 1, [&](int64_t begin, int64_t end) {
    const int64_t deepest = (std::min(kDepth, g.k) + 1) / 2, packed = (block.m + block.n) * deepest;
    const auto buffer = std::make_unique_for_overwrite<Line[]>(static_cast<size_t>((packed + (in_place ? 0 : block.m * block.n)) / 16 + 1));
    uint32_t *const b_packed = buffer[0].pairs, *const a_packed = b_packed + block.n * deepest;
    auto* const sums = reinterpret_cast<float*>(a_packed + block.m * deepest);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t m0 = task / across * block.m, n0 = task % across * block.n, m = std::min(block.m, g.m - m0), n = std::min(block.n, g.n - n0);
      float* const c = in_place ? static_cast<float*>(g.c) + m0 * g.ldc + n0 : sums;
      const int64_t ldc = in_place ? g.ldc : block.n;
      if (!in_place) std::fill_n(sums, block.m * block.n, 0.0f);
      else if (!g.accumulate)
        for (int64_t r = 0; r < m; ++r) std::fill_n(c + r * ldc, n, 0.0f);
      for (int64_t k = 0; k < g.k; k += kDepth) {
        const int64_t depth = std::min(kDepth, g.k - k), half = (depth + 1) / 2;
        g.a_transposed ? pack_k_rows<kRows>(a + k * g.lda + m0, g.lda, depth, m, a_packed) : pack_k_cols<kRows>(a + m0 * g.lda + k, g.lda, depth, m, a_packed);
        g.b_transposed ? pack_k_cols<kCols>(b + n0 * g.ldb + k, g.ldb, depth, n, b_packed) : pack_k_rows<kCols>(b + k * g.ldb + n0, g.ldb, depth, n, b_packed);
        for (int64_t j = 0; j < n; j += kCols)
          for (int64_t i = 0; i < m; i += kRows) {
            const uint32_t *ap = a_packed + i * half, *bp = b_packed + j * half;
            if (!in_place || (m - i >= kRows && n - j >= kCols)) multiply(ap, bp, half, c + i * ldc + j, ldc);  // the buffer holds whole tiles
            else multiply_edge(ap, bp, half, c + i * ldc + j, ldc, std::min(kRows, m - i), std::min(kCols, n - j));
          }
      }
      if (!in_place) {
        const bf16* const bias = g.epilogue == GemmEpilogue::kBias ? static_cast<const bf16*>(g.bias) + n0 : nullptr;
        for (int64_t r = 0; r < m; ++r) finish_row(sums + r * ldc, bias, static_cast<bf16*>(g.c) + (m0 + r) * g.ldc + n0, n);
      }
      if (g.epilogue == GemmEpilogue::kBiasGrad && n0 == 0) sum_rows(static_cast<const bf16*>(g.a) + m0, g.lda, g.k, m, static_cast<float*>(g.bias_grad) + m0);
    }
  });
}
#endif

}  // namespace

Support supports_gemm_cpu(const Gemm& g, const Device& device) {
  if (device.kind != Device::kCpu) return {"runs on the CPU only"};
  const bool rounded = g.out_dtype == DType::kBf16;
  if (g.dtype != DType::kBf16 || (g.out_dtype != DType::kF32 && !rounded)) return {"the factors are not bf16, or the result is neither bf16 nor f32"};
  if (rounded && g.accumulate) return {"nothing is added to a bf16 result"};
  if (rounded && g.epilogue != GemmEpilogue::kNone && g.epilogue != GemmEpilogue::kBias) return {"nothing but a bias follows a bf16 result"};
  if (!rounded && g.epilogue != GemmEpilogue::kNone && !(g.epilogue == GemmEpilogue::kBiasGrad && g.a_transposed))
    return {"nothing but the bias gradient of a transposed factor goes with an f32 result"};
  if (rounded && g.m < 8) return {"so few rows do not pay for packing the other factor"};
  // The library is a fifth faster once it has compiled a product's shape, and takes half a millisecond for that.
  if (rounded && g.m * g.n * g.k > (g.varying ? int64_t{1} << 28 : int64_t{1} << 22)) return {"large: the library's product is faster"};
  if ((device.isa & kAvx512Bf16) == 0) return {"no AVX512-BF16"};
  if ((device.isa & kAmxBf16) != 0) return {"the library's AMX product is faster"};
  return {};
}

void gemm_cpu(const Gemm& g, const Launch& launch) {
  if (g.m == 0 || g.n == 0) return;
#if defined(__x86_64__)
  run(g, launch);
#else
  static_cast<void>(g), static_cast<void>(launch);  // refused by supports: no such ISA
#endif
}

}  // namespace weft::kernels
