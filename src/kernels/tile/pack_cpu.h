// Matrices into the shapes that tile/tile_cpu.h multiplies: converted to the tiles' element type, padded with zeros, packed in panels.
#pragma once
#include <algorithm>
#include <cstring>

#include "kernels/tile/tile_cpu.h"

namespace weft::kernels::tile {

typedef uint32_t Pair __attribute__((aligned(2), may_alias));

inline int32_t round_up(int32_t n, int32_t to) { return (n + to - 1) / to * to; }

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

}  // namespace weft::kernels::tile
