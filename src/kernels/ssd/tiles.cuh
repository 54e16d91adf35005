// What the SSD kernels share: sizes, the decay of one chunk, the fragments of a state held in registers.
#pragma once
#include "kernels/common/mma.cuh"
#include "kernels/ssd/ssd.h"

namespace weft::kernels::ssd {

constexpr int kL = kSsdChunk, kP = 64, kN = 128;

// One warp: cs = inclusive sum of A dt over the chunk's 64 tokens (dt = 0 past its end, so cs[63] is the chunk's total).
// Lane l holds tokens 2l and 2l + 1 in dt0, dt1.
__device__ __forceinline__ void chunk_decay(float dt0, float dt1, float A, float* cs) {
  const float a0 = dt0 * A, a1 = dt1 * A, end = warp_scan(a0 + a1);
  cs[2 * lane_id()] = end - a1;
  cs[2 * lane_id() + 1] = end;
}

// S (16 rows of P x 128) = decay S + sum_j w_j x_j B_j^T; xt: four A fragments of X^T (rows P, k = token), w in shared memory.
__device__ __forceinline__ void add_outer(float (&S)[16][4], const uint32_t (&xt)[4][4], const float* w, const Tile<kN>& B, float decay) {
#pragma unroll
  for (int n = 0; n < 16; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) S[n][e] *= decay;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int j = k * 16 + (lane_id() & 3) * 2;
    const float2 lo = {w[j], w[j + 1]}, hi = {w[j + 8], w[j + 9]};
    uint32_t a[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float2 x = unpack_bf16(xt[k][e]), s = e < 2 ? lo : hi;
      a[e] = pack_bf16(x.x * s.x, x.y * s.y);
    }
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      uint32_t b[4];
      load_b_trans(b, B, k * 16, n * 16);
      mma_bf16(S[2 * n], a, b[0], b[1]);
      mma_bf16(S[2 * n + 1], a, b[2], b[3]);
    }
  }
}

// Lane's elements of S: (row, col) and (row, col + 1) for e = 0, 1; row + 8 for e = 2, 3.
template <class Visit>
__device__ __forceinline__ void each_pair(int row0, Visit visit) {
  const int row = row0 + (lane_id() >> 2), col = (lane_id() & 3) * 2;
#pragma unroll
  for (int n = 0; n < 16; ++n) {
    visit(n, 0, row, n * 8 + col);
    visit(n, 2, row + 8, n * 8 + col);
  }
}
__device__ __forceinline__ void read_state(float (&S)[16][4], const float* from, int row0) {
  each_pair(row0, [&](int n, int e, int row, int col) {
    const float2 v = from ? *reinterpret_cast<const float2*>(from + row * kN + col) : float2{0, 0};
    S[n][e] = v.x, S[n][e + 1] = v.y;
  });
}
__device__ __forceinline__ void write_state(const float (&S)[16][4], float* to, int row0) {
  each_pair(row0, [&](int n, int e, int row, int col) { *reinterpret_cast<float2*>(to + row * kN + col) = {S[n][e], S[n][e + 1]}; });
}
__device__ __forceinline__ void write_state(const float (&S)[16][4], bf16* to, int row0) {
  each_pair(row0, [&](int n, int e, int row, int col) { *reinterpret_cast<uint32_t*>(to + row * kN + col) = pack_bf16(S[n][e], S[n][e + 1]); });
}

template <class Args>
const char* refusal(const Args& a, const Device& device) {
  if (device.kind != Device::kCuda || device.sm / 10 != 9) return "needs a GPU of compute capability 9.x";
  if (a.dtype != DType::kBf16) return "dtype is not bf16";
  if (a.head_dim != kP || a.state_dim != kN) return "built for head_dim 64, state_dim 128";
  if (a.groups < 1 || a.heads % a.groups != 0) return "heads is not a multiple of groups";
  if (a.x_stride % 8 != 0 || a.B_stride % 8 != 0 || a.C_stride % 8 != 0) return "a token stride is not a multiple of 8 elements";
  auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (!aligned(a.x) || !aligned(a.B) || !aligned(a.C)) return "x, B or C is not 16-byte aligned";
  return nullptr;
}

}  // namespace weft::kernels::ssd
