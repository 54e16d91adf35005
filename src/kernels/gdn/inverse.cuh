// T = (I + A)^{-1} of one chunk, A [64, 64] strictly lower, by a warpgroup in 16 x 16 blocks, fp32 in and out. The diagonal blocks come from
// substitution, warp I one of them; then warp J goes down column J,
//   T_IJ = -T_II sum_{J <= K < I} A_IK T_KJ
// transposed, so that the sums of one mma.sync are the first operand of the next as they lie. Products split both operands into two bf16
// parts: error 2^-16.
#pragma once
#include "kernels/common/wgmma.cuh"

namespace weft::kernels::gdn {

// A 16 x 16 matrix X held as two C fragments, in two bf16 parts: words that are X as the first operand of mma.sync, or X^T as the second
// (column tile n: words n and n + 2).
struct Split {
  uint32_t high[4], low[4];
  Split() = default;
  __device__ __forceinline__ explicit Split(const float (&c)[2][4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float v0 = c[i >> 1][(i & 1) * 2], v1 = c[i >> 1][(i & 1) * 2 + 1];
      high[i] = pack_bf16(v0, v1);
      const float2 h = unpack_bf16(high[i]);
      low[i] = pack_bf16(v0 - h.x, v1 - h.y);
    }
  }
};
// big + small += X Y^T
__device__ __forceinline__ void add_product(float (&big)[2][4], float (&small)[2][4], const Split& x, const Split& y) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    mma_bf16(small[n], x.low, y.high[n], y.high[n + 2]);
    mma_bf16(big[n], x.high, y.high[n], y.high[n + 2]);
    mma_bf16(small[n], x.high, y.low[n], y.low[n + 2]);
  }
}

struct Inverse {
  static constexpr int kPitch = 20;
  uint4 below[6][2][32], diagonal[4][2][32];  // A_IK at I (I - 1) / 2 + K, and T_II: the words of Split by lane
  float block[4][16 * kPitch];                // A_II transposed, then T_II

  static __device__ __forceinline__ void put(uint4 (&to)[2][32], const Split& s, int lane) {
    to[0][lane] = {s.high[0], s.high[1], s.high[2], s.high[3]}, to[1][lane] = {s.low[0], s.low[1], s.low[2], s.low[3]};
  }
  static __device__ __forceinline__ Split get(const uint4 (&from)[2][32], int lane) {
    const uint4 h = from[0][lane], l = from[1][lane];
    Split s;
    s.high[0] = h.x, s.high[1] = h.y, s.high[2] = h.z, s.high[3] = h.w, s.low[0] = l.x, s.low[1] = l.y, s.low[2] = l.z, s.low[3] = l.w;
    return s;
  }
  // Block (warp, K) of A; the barrier between the last chunk's reads and these stores is the caller's.
  __device__ __forceinline__ void put_block(const float (&A)[2][4], int K, int warp, int lane) {
    if (K < warp) return put(below[warp * (warp - 1) / 2 + K], Split(A), lane);
    const int q = lane >> 2, r = lane & 3;
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) block[warp][(n * 8 + r * 2 + (e & 1)) * kPitch + q + (e >> 1) * 8] = A[n][e];
  }
  // After put_block. Writes T on and below the diagonal blocks, bf16; `barrier` is the warpgroup's.
  __device__ __forceinline__ void invert(const Panels<64>& T, int warp, int lane, int barrier) {
    const int q = lane >> 2, r = lane & 3, c = lane & 15;
    float* own = block[warp];
    __syncwarp();
    float x[16];  // column c of T_II
#pragma unroll
    for (int i = 0; i < 16; ++i) x[i] = i == c ? 1.f : 0.f;
#pragma unroll
    for (int k = 0; k < 15; ++k)
#pragma unroll
      for (int m = (k + 1) / 4; m < 4; ++m) {
        const float4 f = *reinterpret_cast<const float4*>(own + k * kPitch + m * 4);
        const float v[4] = {f.x, f.y, f.z, f.w};
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if (m * 4 + e > k) x[m * 4 + e] -= v[e] * x[k];
      }
    __syncwarp();
    if (lane < 16)
#pragma unroll
      for (int i = 0; i < 16; ++i) own[i * kPitch + c] = x[i];
    __syncwarp();
    float t[2][4];
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float2 v = *reinterpret_cast<const float2*>(own + (q + 8 * h) * kPitch + n * 8 + r * 2);
        t[n][2 * h] = v.x, t[n][2 * h + 1] = v.y;
      }
    const Split whole(t);
    put(diagonal[warp], whole, lane);
#pragma unroll
    for (int i = 0; i < 4; ++i) *reinterpret_cast<uint32_t*>(T.at(warp * 16 + q + (i & 1) * 8, warp * 16 + (i >> 1) * 8 + r * 2)) = whole.high[i];
    Split column[3];  // of T_KJ^T, K from J = warp
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) t[n][e] = own[(n * 8 + r * 2 + (e & 1)) * kPitch + q + (e >> 1) * 8];
    column[0] = Split(t);
    group_barrier(barrier, 128);
#pragma unroll
    for (int d = 1; d < 4; ++d) {
      const int I = warp + d;
      if (I > 3) break;
      float big[2][4] = {}, small[2][4] = {};
#pragma unroll
      for (int k = 0; k < d; ++k) add_product(big, small, column[k], get(below[I * (I - 1) / 2 + warp + k], lane));
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) t[n][e] = -(big[n][e] + small[n][e]), big[n][e] = small[n][e] = 0;
      add_product(big, small, Split(t), get(diagonal[I], lane));
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) t[n][e] = big[n][e] + small[n][e];
      const Split s(t);
      if (d < 3) column[d] = s;
      stmatrix_x4_trans(T.unit(I * 16 + (lane >> 4) * 8 + (lane & 7), warp * 16 + (lane >> 3 & 1) * 8), s.high[0], s.high[1], s.high[2], s.high[3]);
    }
  }
};

}  // namespace weft::kernels::gdn
