// Magnitudes of a tensor's elements as integers, and the maxima of rows and columns that the quantisers take of them.
#pragma once
#include <cstring>

#include "kernels/common/convert.cuh"
#include "kernels/common/device.cuh"

namespace weft::kernels::dev {

constexpr int kEdge = 128;  // of a tile

// |x| of eight neighbours as integers, two of bf16 in a word: larger integers are larger magnitudes, and NaN is above all.
template <class T>
struct Magnitudes {
  static constexpr int kWords = 2 * sizeof(T);
  uint32_t word[kWords];
  __device__ __forceinline__ explicit Magnitudes(const Vec8<T>& v) {
    memcpy(word, &v, sizeof(word));
#pragma unroll
    for (int i = 0; i < kWords; ++i) word[i] &= sizeof(T) == 2 ? 0x7fff7fffu : 0x7fffffffu;
  }
  static __device__ __forceinline__ uint32_t larger(uint32_t a, uint32_t b) {
    if constexpr (sizeof(T) == 4) {
      return a > b ? a : b;
    } else {
#if defined(__CUDA_ARCH__)
      return __vmaxu2(a, b);
#else
      return ((a & 0xffffu) > (b & 0xffffu) ? a & 0xffffu : b & 0xffffu) | ((a >> 16) > (b >> 16) ? a >> 16 << 16 : b >> 16 << 16);
#endif
    }
  }
  __device__ __forceinline__ void join(const Magnitudes& m) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) word[i] = larger(word[i], m.word[i]);
  }
  __device__ __forceinline__ uint32_t at(int j) const {  // the bits of one as fp32
    if constexpr (sizeof(T) == 4) return word[j];
    return j % 2 == 0 ? word[j / 2] << 16 : word[j / 2] & 0xffff0000u;
  }
  __device__ __forceinline__ uint32_t largest() const {  // the same
    uint32_t m[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) m[i] = sizeof(T) == 4 ? larger(word[i], word[kWords - 4 + i]) : word[i];
    const uint32_t both = larger(larger(m[0], m[1]), larger(m[2], m[3]));
    if constexpr (sizeof(T) == 4) return both;
    const uint32_t low = both << 16, high = both & 0xffff0000u;
    return low > high ? low : high;
  }
};

// Over `width` neighbouring lanes.
__device__ __forceinline__ uint32_t lanes_largest(uint32_t v, int width) {
  for (int o = width / 2; o > 0; o /= 2) {
    const uint32_t other = __shfl_xor_sync(0xffffffffu, v, o);
    v = other > v ? other : v;
  }
  return v;
}
// Over the block; `scratch` holds 16 words.
__device__ __forceinline__ uint32_t block_largest(uint32_t v, uint32_t* scratch) {
  v = __reduce_max_sync(0xffffffffu, v);
  if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = v;
  __syncthreads();
  for (int w = 0; w < static_cast<int>(blockDim.x >> 5); ++w) v = scratch[w] > v ? scratch[w] : v;
  return v;
}
// Maxima of a thread's eight rows over its sixteen lanes, at rows[0 .. 7]. bf16: two rows a word, and lanes share the words out on the way.
template <class T>
__device__ __forceinline__ void row_maxima(const Vec8<T> (&raw)[8], float* rows) {
  const int lane = threadIdx.x % 16;
  if constexpr (sizeof(T) == 2) {
    uint32_t two[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      uint32_t of[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const Magnitudes<T> m(raw[2 * k + h]);
        of[h] = m.larger(m.larger(m.word[0], m.word[1]), m.larger(m.word[2], m.word[3]));
      }
      two[k] = Magnitudes<T>::larger((of[0] & 0xffffu) | of[1] << 16, of[0] >> 16 | (of[1] & 0xffff0000u));
    }
    const auto meet = [](uint32_t keep, uint32_t give, int o) { return Magnitudes<T>::larger(keep, __shfl_xor_sync(~0u, give, o)); };
    const bool upper = lane & 8, odd = lane & 4;
    const uint32_t first = meet(upper ? two[2] : two[0], upper ? two[0] : two[2], 8), second = meet(upper ? two[3] : two[1], upper ? two[1] : two[3], 8);
    uint32_t mine = meet(odd ? second : first, odd ? first : second, 4);
    mine = meet(mine, mine, 2), mine = meet(mine, mine, 1);
    if (lane % 4 == 0) rows[lane / 4 * 2] = __uint_as_float(mine << 16), rows[lane / 4 * 2 + 1] = __uint_as_float(mine & 0xffff0000u);
  } else {
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const uint32_t most = lanes_largest(Magnitudes<T>(raw[k]).largest(), 16);
      if (lane == 0) rows[k] = __uint_as_float(most);
    }
  }
}

// Maxima of the columns of a tile of 128: each warp's in shared memory, and, after a barrier, those of column i of all warps.
template <class T>
struct ColumnMaxima {
  uint32_t word[8][kEdge * sizeof(T) / 4];  // of a warp's sixteen rows
  __device__ __forceinline__ void put(const Vec8<T> (&raw)[8]) {
    Magnitudes<T> down(raw[0]);
#pragma unroll
    for (int k = 1; k < 8; ++k) down.join(Magnitudes<T>(raw[k]));
#pragma unroll
    for (int i = 0; i < Magnitudes<T>::kWords; ++i) down.word[i] = down.larger(down.word[i], __shfl_xor_sync(~0u, down.word[i], 16));
    if ((threadIdx.x & 16) == 0) memcpy(&word[threadIdx.x / 32][threadIdx.x % 16 * Magnitudes<T>::kWords], down.word, sizeof(down.word));
  }
  __device__ __forceinline__ float get(int i) const {
    uint32_t most = 0;
#pragma unroll
    for (int w = 0; w < 8; ++w) most = Magnitudes<T>::larger(most, word[w][i * static_cast<int>(sizeof(T)) / 4]);
    if (sizeof(T) == 2) most = i % 2 == 0 ? most << 16 : most & 0xffff0000u;
    return __uint_as_float(most);
  }
};

template <class T>
__device__ __forceinline__ float element(const Vec8<T>& v, int j) {
  uint32_t word[2 * sizeof(T)];
  memcpy(word, &v, sizeof(word));
  if (sizeof(T) == 4) return __uint_as_float(word[j]);
  return __uint_as_float(j % 2 == 0 ? word[j / 2] << 16 : word[j / 2] & 0xffff0000u);
}

}  // namespace weft::kernels::dev
