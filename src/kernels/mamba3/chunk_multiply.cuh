// The multiplying warpgroups of the chunk pass. Both sides do the same with names exchanged; own rows i (16 a warp), other rows j:
//   queries: own q, dY, S; other k, v     M, W as said at the kernel     y = grow q S^T + M v      dq = grow dY S + W k
//   keys:    own k, v, dS; other q, dY    M^T, W^T                       dv = w k dS^T + M^T dY    dk = w v dS + W^T q
#pragma once
#include "kernels/mamba3/chunk.cuh"

namespace weft::kernels::mamba3 {

template <int R, bool kKeys>
struct ChunkMultiply {
  using Sm = ChunkSmem<R>;
  const Mamba3Bwd& args;
  Sm& sm;
  const int thread = thread_number(), lane = thread & 31, warp = thread >> 5 & 3, q = lane >> 2, r = lane & 3, row = warp * 16 + q;  // and row + 8

  __device__ __forceinline__ void run(ChunkWalk it) {
    float sum[64] = {};  // dC or dB over the heads
    for (int i = 0, third = 0; it.more(); ++i, third = third == 2 ? 0 : third + 1) {
      item(it, i, sm.rates[third].decay, sum);
      if (it.last_head()) store(it, sum);
      it.next();
    }
  }

 private:
  __device__ __forceinline__ void store(const ChunkWalk& it, float (&sum)[64]) const {
    const Mamba3Inputs& a = args.in;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int own = row + 8 * half, step = own >> kShift<R>;
      bf16* to = static_cast<bf16*>(kKeys ? args.dB : args.dC) + ((static_cast<int64_t>(it.first) + step) * R * a.groups + static_cast<int64_t>(own & (R - 1)) * a.groups + it.piece.head0 / it.heads + it.group) * kN + r * 2;
#pragma unroll
      for (int n = 0; n < 16; ++n) {
        if (step < it.count) *reinterpret_cast<uint32_t*>(to + n * 8) = pack_bf16(sum[4 * n + 2 * half], sum[4 * n + 2 * half + 1]);
        sum[4 * n + 2 * half] = sum[4 * n + 2 * half + 1] = 0;
      }
    }
  }
  static __device__ __forceinline__ float2 pair(const bf16* tile, int row, int col) {
    return unpack_bf16(*reinterpret_cast<const uint32_t*>(Panels<kN>{const_cast<bf16*>(tile)}.at(row, col)));
  }

  __device__ __forceinline__ void item(const ChunkWalk& it, int i, const Decay& d, float (&sum)[64]) {
    const int s = i & 1;
    auto& stage = sm.stage[s];
    auto& small = sm.small[s];
    const bf16 *own = kKeys ? stage.k : stage.q, *other = kKeys ? stage.q : stage.k, *thin = kKeys ? stage.v : stage.dY, *other_thin = kKeys ? stage.dY : stage.v;
    const bf16* state = kKeys ? stage.dS : stage.S;
    group_barrier(kFull + s, 3 * kGroup);

    uint32_t M[4][4], W[4][4];
    float rows[2] = {}, gamma[2] = {}, trace[2] = {};
    weigh(d, own, other, thin, other_thin, M, W, rows, gamma, trace);
    const float end = d.cs[kRows - 1];
    const float pass_low = kKeys ? exp2_fast(end - d.cs[row]) : d.grow[row], pass_high = kKeys ? exp2_fast(end - d.cs[row + 8]) : d.grow[row + 8];
    {
      float acc[32], dot[2] = {};
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const uint64_t at = (k >> 2) * kPanelStep + (k & 3) * kStep16<false>;
        Wgmma<64>::run<false, false>(acc, k_major(own) + at, k_major(state) + at, k > 0);
      }
      wgmma_commit();
      wgmma_wait<0>();
      wgmma_settle(acc);
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const float2 low = pair(thin, row, n * 8 + r * 2), high = pair(thin, row + 8, n * 8 + r * 2);
        acc[4 * n] *= pass_low, acc[4 * n + 1] *= pass_low, acc[4 * n + 2] *= pass_high, acc[4 * n + 3] *= pass_high;
        dot[0] += acc[4 * n] * low.x + acc[4 * n + 1] * low.y, dot[1] += acc[4 * n + 2] * high.x + acc[4 * n + 3] * high.y;
      }
      if constexpr (kKeys) {
        const float low = d.scale[row], high = d.scale[row + 8];
#pragma unroll
        for (int n = 0; n < 8; ++n) acc[4 * n] *= low, acc[4 * n + 1] *= low, acc[4 * n + 2] *= high, acc[4 * n + 3] *= high;
      }
      wgmma_settle(acc);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; ++k) Wgmma<64>::run<true>(acc, M[k], mn_major(other_thin) + k * kStep16<true>, 1);
      wgmma_commit();
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        rows[h] = warp_sum<4>(rows[h]), dot[h] = warp_sum<4>(dot[h]);
        if constexpr (!kKeys) gamma[h] = warp_sum<4>(gamma[h]), trace[h] = warp_sum<4>(trace[h]);
      }
      wgmma_wait<0>();
      wgmma_settle(acc);
      if (i > 0) group_barrier(kFree, 3 * kGroup);
      const Panels<kP> out{kKeys ? sm.dv : sm.y};
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        *reinterpret_cast<uint32_t*>(out.at(row, n * 8 + r * 2)) = pack_bf16(acc[4 * n], acc[4 * n + 1]);
        *reinterpret_cast<uint32_t*>(out.at(row + 8, n * 8 + r * 2)) = pack_bf16(acc[4 * n + 2], acc[4 * n + 3]);
      }
      if (r == 0) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          (kKeys ? sm.col_t : sm.row_w)[row + 8 * h] = rows[h], (kKeys ? sm.dot_k : sm.dot_q)[row + 8 * h] = dot[h];
          if constexpr (!kKeys) sm.gamma[row + 8 * h] = gamma[h], sm.trace[row + 8 * h] = trace[h];
        }
      }
    }
    float acc[64];
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<128>::run<false, true>(acc, k_major(thin) + k * kStep16<false>, mn_major(state) + k * kStep16<true>, k > 0);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_settle(acc);
    const float low = kKeys ? d.w[row] : pass_low, high = kKeys ? d.w[row + 8] : pass_high;
#pragma unroll
    for (int n = 0; n < 16; ++n) acc[4 * n] *= low, acc[4 * n + 1] *= low, acc[4 * n + 2] *= high, acc[4 * n + 3] *= high;
    wgmma_settle(acc);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<128>::run<true>(acc, W[k], mn_major(other) + k * kStep16<true>, 1);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_settle(acc);
    turn_back(acc, own, small.turn);
    add_bias(acc);
#pragma unroll
    for (int e = 0; e < 64; ++e) sum[e] += acc[e];
    group_arrive(kDone + s, kChunkThreads);
  }

  // The two 64 x 64 products, and from them M, W as operands and the sums over a row of L G (q k^T): for queries times scale.
  __device__ __forceinline__ void weigh(const Decay& d, const bf16* own, const bf16* other, const bf16* thin, const bf16* other_thin, uint32_t (&M)[4][4], uint32_t (&W)[4][4],
                                        float (&rows)[2], float (&gamma)[2], float (&trace)[2]) const {
    float qk[32], g[32];
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const uint64_t at = (k >> 2) * kPanelStep + (k & 3) * kStep16<false>;
      Wgmma<64>::run<false, false>(qk, k_major(own) + at, k_major(other) + at, k > 0);
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<64>::run<false, false>(g, k_major(thin) + k * kStep16<false>, k_major(other_thin) + k * kStep16<false>, k > 0);
    wgmma_commit();
    const float cs[2] = {d.cs[row], d.cs[row + 8]}, scale[2] = {kKeys ? d.scale[row] : 1.f, kKeys ? d.scale[row + 8] : 1.f}, same[2] = {d.gamma[row], d.gamma[row + 8]};
    wgmma_wait<0>();
    wgmma_settle(qk), wgmma_settle(g);
#pragma unroll
    for (int block = 0; block < 4; ++block) {  // 16 columns
      const bool diagonal = block == warp, none = kKeys ? block < warp : block > warp;
      if (none) {
#pragma unroll
        for (int e = 0; e < 4; ++e) M[block][e] = W[block][e] = 0;
        continue;
      }
#pragma unroll
      for (int n = 2 * block; n < 2 * block + 2; ++n) {
        float m[4], ww[4], f[4];
        const int j = n * 8 + r * 2;
        const float2 there = *reinterpret_cast<const float2*>(&(kKeys ? d.cs : d.from)[j]);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          f[2 * h] = exp2_fast(kKeys ? there.x - cs[h] : cs[h] - there.x);
          f[2 * h + 1] = R > 1 ? f[2 * h] : exp2_fast(kKeys ? there.y - cs[h] : cs[h] - there.y);
        }
        if (diagonal) {  // gamma within a step, 0 on the other side
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int h = e >> 1, own_step = (row + 8 * h) >> kShift<R>, step = (j + (e & 1)) >> kShift<R>;
            const float product = g[4 * n + e] * qk[4 * n + e];
            const bool past = kKeys ? step > own_step : step < own_step;
            if (past) rows[h] += f[e] * product;
            if (step == own_step) gamma[h] += product;
            if (!kKeys && j + (e & 1) == row + 8 * h) trace[h] += g[4 * n + e];
            const float factor = past ? f[e] * scale[h] : step == own_step ? same[h] : 0.f;
            m[e] = factor * qk[4 * n + e], ww[e] = factor * g[4 * n + e];
          }
        } else {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float factor = f[e] * scale[e >> 1];
            m[e] = factor * qk[4 * n + e], ww[e] = factor * g[4 * n + e];
            rows[e >> 1] += f[e] * g[4 * n + e] * qk[4 * n + e];
          }
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          M[block][(n & 1) * 2 + h] = pack_bf16(m[2 * h], m[2 * h + 1]);
          W[block][(n & 1) * 2 + h] = pack_bf16(ww[2 * h], ww[2 * h + 1]);
        }
      }
    }
  }

  // d theta = u x du' for each turned pair u of the own rows, summed over ranks; then the pairs of acc turned back.
  __device__ __forceinline__ void turn_back(float (&acc)[64], const bf16* own, const __half2* turn) const {
    const int angles = args.in.angles;
    float* out = sm.d_theta[kKeys];
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const int col = n * 8 + r * 2;
      if constexpr (R > 1) {
        if (8 * n >= angles) break;
        float d[2][2];
        const bool used = col < angles;  // angles is a multiple of 4
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int at = row + 8 * h;
          const float2 u = pair(own, at, col), v = pair(own, at, 64 + col);
          const uint2 raw = *reinterpret_cast<const uint2*>(turn + (at >> kShift<R>) * angles + col);
#pragma unroll
          for (int b = 0; b < 2; ++b) {
            const uint32_t word = b ? raw.y : raw.x;
            const float2 cs = __half22float2(*reinterpret_cast<const __half2*>(&word));
            float &du = acc[4 * n + 2 * h + b], &dw = acc[4 * (n + 8) + 2 * h + b];
            d[h][b] = (b ? u.y : u.x) * dw - (b ? v.y : v.x) * du;
            const float x = du * cs.x + dw * cs.y, y = dw * cs.x - du * cs.y;
            if (used) du = x, dw = y;
          }
        }
        // Lane bit 2 keeps one of the two rows, bit 3 (rank 4) one of the two columns.
        const bool high = lane & 4, odd = lane & 8;
        float keep[2];
#pragma unroll
        for (int b = 0; b < 2; ++b) keep[b] = (high ? d[1][b] : d[0][b]) + __shfl_xor_sync(0xffffffffu, high ? d[0][b] : d[1][b], 4);
        const int step = (row + (high ? 8 : 0)) >> kShift<R>;
        if constexpr (R == 4) {
          const float one = (odd ? keep[1] : keep[0]) + __shfl_xor_sync(0xffffffffu, odd ? keep[0] : keep[1], 8);
          if (used) out[step * Sm::kThetaStride + col + (odd ? 1 : 0)] = one;
        } else {
          if (used) out[step * Sm::kThetaStride + col] = keep[0], out[step * Sm::kThetaStride + col + 1] = keep[1];
        }
      } else {
        const int angle = col / 2;
        if (4 * n >= angles) break;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int at = row + 8 * h;
          const float2 u = pair(own, at, col), cs = __half22float2(turn[at * angles + angle]);
          float &du = acc[4 * n + 2 * h], &dw = acc[4 * n + 2 * h + 1];
          out[at * Sm::kThetaStride + angle] = u.x * dw - u.y * du;
          const float x = du * cs.x + dw * cs.y;
          dw = dw * cs.x - du * cs.y, du = x;
        }
      }
    }
  }

  // Sums over the warp's rows of one rank; lane bit 4 keeps one half of the columns.
  __device__ __forceinline__ void add_bias(const float (&acc)[64]) const {
    const bool right = lane & 16;
    float* out = sm.bias[kKeys ? 0 : 1][warp] + (q & (R - 1)) * kN + (right ? 64 : 0) + r * 2;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      float v[2];
#pragma unroll
      for (int b = 0; b < 2; ++b) {
        const float left_sum = acc[4 * n + b] + acc[4 * n + 2 + b], right_sum = acc[4 * (n + 8) + b] + acc[4 * (n + 8) + 2 + b];
        v[b] = (right ? right_sum : left_sum) + __shfl_xor_sync(0xffffffffu, right ? left_sum : right_sum, 16);
#pragma unroll
        for (int o = 4 * R; o < 16; o <<= 1) v[b] += __shfl_xor_sync(0xffffffffu, v[b], o);
      }
      if ((q & 3) < R) *reinterpret_cast<float2*>(out + n * 8) = {v[0], v[1]};
    }
  }
};

}  // namespace weft::kernels::mamba3
