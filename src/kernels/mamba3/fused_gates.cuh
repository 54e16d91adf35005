// The gates in the chunk pass at rank 4, where y^T and dv^T are sums of wgmma; both hold the skip by the diagonal of M. With u = z mimo_z,
// sg = sigmoid(u):
//   dx = sum_r dv mimo_x    du = d_o mimo_o y sg (1 + u (1 - sg))    dz = sum_r du mimo_z
//   d_mimo_x = sum_t dv x   d_mimo_z = sum_t du z   d_mimo_o = sum_t d_o y u sg
#pragma once
#include "kernels/mamba3/fused.cuh"

namespace weft::kernels::mamba3 {

struct FusedGates : Fused {
  // state own^T, [P, rows]: begun, not waited for.
  static __device__ __forceinline__ void through_state(float (&acc)[32], const bf16* state, const bf16* own) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const uint64_t at = (k >> 2) * kPanelStep + (k & 3) * kStep16<false>;
      Wgmma<64>::run<false, false>(acc, k_major(state) + at, k_major(own) + at, k > 0);
    }
    wgmma_commit();
  }
  // Waits for it: <acc, thin^T> by step, then acc times a factor a step.
  __device__ __forceinline__ void through_done(float (&acc)[32], const bf16* thin, float (&dots)[4][kFusedSteps], const float* factors) const {
    wgmma_wait<0>();
    wgmma_settle(acc);
    float dot[4];
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      uint32_t words[4];
      turned_words(words, thin, b);
      dot[b] = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 v = unpack_bf16(words[i]);
        dot[b] += acc[8 * b + 2 * i] * v.x + acc[8 * b + 2 * i + 1] * v.y;
      }
      const float factor = factors[4 * b + r];
#pragma unroll
      for (int e = 0; e < 8; ++e) acc[8 * b + e] *= factor;
    }
    const float sum = sum_blocks(dot, lane);
    if (!(lane & 4)) dots[warp][4 * block_of(lane) + r] = sum;
    wgmma_settle(acc);
  }

  // acc += v^T M^T; dz and the gradients of mimo_z, mimo_o.
  template <bool gated>
  __device__ __forceinline__ void out(float (&acc)[32], int s) const {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<64>::run<true, false>(acc, mn_major(sm.stage[s].v) + k * kStep16<true>, k_major(sm.M) + k * kStep16<false>, 1);
    wgmma_commit();
    // With v = u / 2, t = tanh(v): silu = v (1 + t), its derivative (1 + t) (1 + v (1 - t)) / 2. What is the same for all ranks is multiplied last.
    float mz[4][2], both[4][2], dmz[4][2] = {}, dmo[4][2] = {};
    if constexpr (gated) {
      weights(mz, sm.mimo[s][1]), weights(both, sm.mimo[s][2]);
#pragma unroll
      for (int rank = 0; rank < 4; ++rank)
#pragma unroll
        for (int h = 0; h < 2; ++h) mz[rank][h] *= 0.5f, both[rank][h] *= mz[rank][h];
    }
    wgmma_wait<0>();
    wgmma_settle(acc);
    bf16 *d_os = sm.raw[s].d_o, *zs = sm.raw[s].z;
    float ys[16];
    take<0>(ys, acc);
#pragma unroll 1  // half of the code
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int b = 0; b < 2; ++b)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int at = place(b, h);
          const float g = __bfloat162float(d_os[at]), z = gated ? __bfloat162float(zs[at]) : 0.f, gz = g * z;
          float dz = 0;
#pragma unroll
          for (int rank = 0; rank < 4; ++rank) {
            const float y = ys[8 * b + 4 * (rank >> 1) + 2 * h + (rank & 1)];
            if constexpr (gated) {
              const float v = z * mz[rank][h], t = tanh_fast(v), yt = y * t + y, yv = yt * v, dy = yv * (1 - t) + yt;  // dy: twice
              dmo[rank][h] += g * yv, dmz[rank][h] += gz * dy, dz += dy * both[rank][h];
            } else {
              dmo[rank][h] += g * y;
            }
          }
          if constexpr (gated) zs[at] = __float2bfloat16(g * dz);
        }
      take<1>(ys, acc), d_os += kNextHalf, zs += kNextHalf;
    }
    if constexpr (gated) {
      weights(both, sm.mimo[s][2]);
#pragma unroll
      for (int rank = 0; rank < 4; ++rank)
#pragma unroll
        for (int h = 0; h < 2; ++h) dmz[rank][h] *= 0.5f * both[rank][h];
    }
    // Over the quad: a lane is left with one column of one of the two.
    const bool odd = r & 1, high = r & 2;
#pragma unroll
    for (int rank = 0; rank < 4; ++rank) {
      const float a = (odd ? dmz[rank][1] : dmz[rank][0]) + __shfl_xor_sync(0xffffffffu, odd ? dmz[rank][0] : dmz[rank][1], 1);
      const float b = (odd ? dmo[rank][1] : dmo[rank][0]) + __shfl_xor_sync(0xffffffffu, odd ? dmo[rank][0] : dmo[rank][1], 1);
      const float all = (high ? b : a) + __shfl_xor_sync(0xffffffffu, high ? a : b, 2);
      sm.mimo[s][high ? 2 : 1][rank * kP + 16 * warp + q + (odd ? 8 : 0)] = all;  // the warp alone has read what stood there
    }
  }
  // acc += dY^T M; dx and the gradient of mimo_x.
  __device__ __forceinline__ void in(float (&acc)[32], int s) const {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<64>::run<true, true>(acc, mn_major(sm.stage[s].dY) + k * kStep16<true>, mn_major(sm.M) + k * kStep16<true>, 1);
    wgmma_commit();
    float mx[4][2], dmx[4][2] = {};
    weights(mx, sm.mimo[s][0]);
    wgmma_wait<0>();
    wgmma_settle(acc);
    bf16* xs = sm.raw[s].x;
    float dvs[16];
    take<0>(dvs, acc);
#pragma unroll 1  // half of the code
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int b = 0; b < 2; ++b)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int at = place(b, h);
          const float x = __bfloat162float(xs[at]);
          float dx = 0;
#pragma unroll
          for (int rank = 0; rank < 4; ++rank) {
            const float dv = dvs[8 * b + 4 * (rank >> 1) + 2 * h + (rank & 1)];
            dmx[rank][h] += dv * x, dx += dv * mx[rank][h];
          }
          xs[at] = __float2bfloat16(dx);
        }
      take<1>(dvs, acc), xs += kNextHalf;
    }
    const bool odd = r & 1, high = r & 2;
    float one[4];
#pragma unroll
    for (int rank = 0; rank < 4; ++rank) one[rank] = (odd ? dmx[rank][1] : dmx[rank][0]) + __shfl_xor_sync(0xffffffffu, odd ? dmx[rank][0] : dmx[rank][1], 1);
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const float all = (high ? one[2 + k] : one[k]) + __shfl_xor_sync(0xffffffffu, high ? one[k] : one[2 + k], 2);
      sm.mimo[s][0][((high ? 2 : 0) + k) * kP + 16 * warp + q + (odd ? 8 : 0)] = all;
    }
  }

 private:
  // The sums of 32 rows, the first or the last; of raw inputs those are kNextHalf on, in the same places of the swizzle.
  static constexpr int kNextHalf = 8 * kP;
  template <int half>
  static __device__ __forceinline__ void take(float (&to)[16], const float (&acc)[32]) {
#pragma unroll
    for (int e = 0; e < 16; ++e) to[e] = acc[16 * half + e];
  }
  __device__ __forceinline__ int place(int b, int h) const { return raw_unit(4 * b + r, 2 * warp + h) + q; }
  __device__ __forceinline__ void weights(float (&to)[4][2], const float* from) const {
#pragma unroll
    for (int rank = 0; rank < 4; ++rank)
#pragma unroll
      for (int h = 0; h < 2; ++h) to[rank][h] = from[rank * kP + 16 * warp + q + 8 * h];
    __syncwarp();
  }
};

}  // namespace weft::kernels::mamba3
