// What the multiplying warpgroups of the chunk pass share: a warpgroup has rows 16 warp + lane / 4 and 8 on.
#pragma once
#include "kernels/mamba3/chunk.cuh"

namespace weft::kernels::mamba3 {

template <int R>
struct ChunkSide {
  using Sm = ChunkSmem<R>;
  const Mamba3Bwd& args;
  Sm& sm;
  const int thread = thread_number(), lane = thread & 31, warp = thread >> 5 & 3, q = lane >> 2, r = lane & 3, row = warp * 16 + q;  // and row + 8

  // Where columns 8 n + 2 r.. of the own row lie in a tile of panels; of the row 8 on, kNextRow elements further. Made anew where it is used:
  // kept ahead of the loop over items, the places of all n would push sums out of registers.
  static constexpr int kNextRow = 8 * 64;
  struct Places {
    int row, swizzle;
    __device__ __forceinline__ int operator[](int n) const { return row + (swizzle ^ ((n & 7) << 3)) + (n >> 3) * 4096; }
  };
  __device__ __forceinline__ Places places() const {
    int swizzle = q << 3;
#if !defined(WEFT_EMULATE)
    asm volatile("" : "+r"(swizzle));
#endif
    return {row * 64 + r * 2, swizzle};
  }
  static __device__ __forceinline__ float2 pair(const bf16* tile, int place) { return unpack_bf16(*reinterpret_cast<const uint32_t*>(tile + place)); }

  // acc times one factor for each of the two rows.
  template <int n>
  static __device__ __forceinline__ void scale(float (&acc)[n], float low, float high) {
#pragma unroll
    for (int e = 0; e < n; e += 4) acc[e] *= low, acc[e + 1] *= low, acc[e + 2] *= high, acc[e + 3] *= high;
  }
};

}  // namespace weft::kernels::mamba3
