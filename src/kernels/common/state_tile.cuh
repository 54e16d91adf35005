// A recurrent state [P = 64, N = 128] of one head in the registers of four warps, 16 rows of P each, as mma.sync sums.
#pragma once
#include "kernels/common/mma.cuh"

namespace weft::kernels {

constexpr int kStateP = 64, kStateN = 128;

// S (16 rows of P x 128) = decay S + sum_j w_j x_j B_j^T; xt: four A fragments of X^T (rows P, k = token), w in shared memory.
template <class T>
__device__ __forceinline__ void add_outer(float (&S)[16][4], const uint32_t (&xt)[4][4], const float* w, const T& B, float decay) {
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
    const float2 v = from ? *reinterpret_cast<const float2*>(from + row * kStateN + col) : float2{0, 0};
    S[n][e] = v.x, S[n][e + 1] = v.y;
  });
}
__device__ __forceinline__ void write_state(const float (&S)[16][4], float* to, int row0) {
  each_pair(row0, [&](int n, int e, int row, int col) { *reinterpret_cast<float2*>(to + row * kStateN + col) = {S[n][e], S[n][e + 1]}; });
}
__device__ __forceinline__ void write_state(const float (&S)[16][4], bf16* to, int row0) {
  each_pair(row0, [&](int n, int e, int row, int col) { *reinterpret_cast<uint32_t*>(to + row * kStateN + col) = pack_bf16(S[n][e], S[n][e + 1]); });
}

}  // namespace weft::kernels
