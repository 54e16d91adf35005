// What the projections on mma.sync share: the fp32 weights as two bf16 addends in the order of its fragments, and the end of a warp's 16
// tokens.
#pragma once
#include "kernels/common/device.cuh"
#include "kernels/common/mma.cuh"
#include "kernels/mhc/mhc_map.h"

namespace weft::kernels {

constexpr int kPackedOut = 24;    // the weights are padded to it
constexpr int kChunkUnits = 192;  // of 16 bytes, a chunk of 32 columns

// Weights in the order in which lanes need them: [K / 32][tile of 8 outputs][k half][addend][lane] pairs of words. Lane (q, r)
// holds for output q the columns 8 r + 4 half + {0, 1} and {2, 3} of the chunk: the same permutation of K as the 16-byte loads of
// x give.
__global__ static void __launch_bounds__(256) pack_weights(const float* w, int32_t k, int32_t num_out, uint2* packed) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= static_cast<int64_t>(k) / 32 * kChunkUnits) return;
  const int lane = i % 32, half = i / 32 % 2, tile = i / 64 % 3, out = tile * 8 + lane / 4;
  const int64_t chunk = i / 192, col = chunk * 32 + lane % 4 * 8 + half * 4;
  float v[4], rest[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    v[j] = out < num_out ? w[static_cast<int64_t>(out) * k + col + j] : 0.0f;
    rest[j] = v[j] - __bfloat162float(__float2bfloat16_rn(v[j]));
  }
  uint2* to = packed + ((chunk * 3 + tile) * 2 + half) * 64 + lane;
  to[0] = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
  to[32] = make_uint2(pack_bf16(rest[0], rest[1]), pack_bf16(rest[2], rest[3]));
}

inline size_t packed_bytes(int32_t k) { return static_cast<size_t>(k / 32) * 2 * kChunkUnits * sizeof(uint2); }

// Packs them into the workspace.
inline const uint4* packed_weights(const MhcProjectFwd& a, const Launch& launch) {
  launch_grid(pack_weights, dim3(static_cast<unsigned>(ceil_div(static_cast<int64_t>(a.k) / 32 * kChunkUnits, 256))), dim3(256), 0,
              launch.stream, a.w, a.k, a.num_out, static_cast<uint2*>(launch.workspace));
  return static_cast<const uint4*>(launch.workspace);
}

// acc += of 16 tokens' chunk, `low` a lane's 16 bytes of row q and `high` those of row q + 8; the small addends first.
__device__ __forceinline__ void add_chunk(float (&acc)[3][4], const uint4& low, const uint4& high, const uint4* chunk, int lane) {
  const uint2* w = reinterpret_cast<const uint2*>(chunk) + lane;
  const uint32_t first[4] = {low.x, high.x, low.y, high.y}, second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
  for (int tile = 0; tile < 3; ++tile)
#pragma unroll
    for (int addend = 1; addend >= 0; --addend) {
      const uint2 b0 = w[(tile * 2) * 64 + addend * 32], b1 = w[(tile * 2 + 1) * 64 + addend * 32];
      mma_bf16(acc[tile], first, b0.x, b0.y);
      mma_bf16(acc[tile], second, b1.x, b1.y);
    }
}

// Lane (q, r) of a warp: sums of rows `row` and row + 8 in fragment order, and of their squares over the lane's columns.
__device__ __forceinline__ void store_projection(const MhcProjectFwd& a, int64_t row, int r, const float (&acc)[3][4], float (&square)[2]) {
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    square[s] = dev::lanes_reduce(square[s], 4);
    const int64_t t = row + 8 * s;
    if (t >= a.tokens) continue;
    if (r == 0) {
      const float norm = sqrtf(square[s]);
      a.norm[t] = norm, a.r[t] = 1.0f / (norm / sqrtf(static_cast<float>(a.k)) + a.eps);
    }
#pragma unroll
    for (int tile = 0; tile < 3; ++tile)
#pragma unroll
      for (int e = 0; e < 2; ++e)
        if (tile * 8 + 2 * r + e < a.num_out) a.proj[t * a.num_out + tile * 8 + 2 * r + e] = acc[tile][2 * s + e];
  }
}

}  // namespace weft::kernels
