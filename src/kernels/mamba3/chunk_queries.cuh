// The queries' side of the chunk pass: q k^T and dY v^T, from them the weights M, W and their sums, then dq = e^{cs} dY S + W k.
#pragma once
#include "kernels/mamba3/chunk_side.cuh"

namespace weft::kernels::mamba3 {

template <int R>
struct ChunkQueries : ChunkSide<R> {
  using Side = ChunkSide<R>;
  using typename Side::Sm;
  using Side::lane, Side::q, Side::r, Side::row, Side::sm, Side::warp;

  __device__ __forceinline__ void item(int i, const Decay& d, float (&acc)[64]) const {
    const int s = i & 1;
    auto& stage = sm.stage[s];
    group_barrier(kFullQ + s, 2 * kGroup);
    uint32_t W[4][4];
    Sums sums;
    {
      float qk[32], g[32];
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const uint64_t at = (k >> 2) * kPanelStep + (k & 3) * kStep16<false>;
        Wgmma<64>::run<false, false>(qk, k_major(stage.q) + at, k_major(stage.k) + at, k > 0);
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) Wgmma<64>::run<false, false>(g, k_major(stage.dY) + k * kStep16<false>, k_major(stage.v) + k * kStep16<false>, k > 0);
      wgmma_commit();
      if (i > 0) group_barrier(kTaken, 2 * kGroup);
      wgmma_wait<0>();
      wgmma_settle(qk), wgmma_settle(g);
      weigh(d, qk, g, W, sums);
    }
    fence_async_proxy();
    group_arrive(kWeights, 2 * kGroup);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<128>::run<false, true>(acc, k_major(stage.dY) + k * kStep16<false>, mn_major(stage.S) + k * kStep16<true>, k > 0);
    wgmma_commit();
    add_up_sums(sums);
    wgmma_wait<0>();
    wgmma_settle(acc);
    this->scale(acc, d.grow[row], d.grow[row + 8]);
    wgmma_settle(acc);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<128>::run<true>(acc, W[k], mn_major(stage.k) + k * kStep16<true>, 1);
    wgmma_commit();
    if (i > 0) group_barrier(kFreeQ, 2 * kGroup);
    put_sums(sums);
    wgmma_wait<0>();
    wgmma_settle(acc);
    if (lane == 0) barrier_arrive(&sm.used[s]);
  }

 private:
  static constexpr int kOwnSums = R == 1 ? 2 : 1;  // of a lane's two columns
  struct Sums {
    float rows[2] = {}, gamma[2] = {}, trace[2] = {}, cols[8 * kOwnSums] = {};
  };

  // M = f (q k^T), W = f G to shared memory, W kept as an operand too; of L G (q k^T) the sums over rows (times scale) and columns.
  __device__ __forceinline__ void weigh(const Decay& d, const float (&qk)[32], const float (&g)[32], uint32_t (&W)[4][4], Sums& sums) const {
    const float cs[2] = {d.cs[row], d.cs[row + 8]}, same[2] = {d.gamma[row], d.gamma[row + 8]};
    const auto place = this->places();
#pragma unroll
    for (int block = 0; block < 4; ++block) {  // 16 columns
      const bool diagonal = block == warp;
      if (block > warp) {
#pragma unroll
        for (int e = 0; e < 4; ++e) W[block][e] = 0;
        continue;
      }
#pragma unroll
      for (int n = 2 * block; n < 2 * block + 2; ++n) {
        const int j = n * 8 + r * 2;
        const float2 there = *reinterpret_cast<const float2*>(&d.cs[j]), scale = *reinterpret_cast<const float2*>(&d.scale[j]);
        float m[4], ww[4];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float near = exp2_fast(cs[h] - there.x), far = R > 1 ? near : exp2_fast(cs[h] - there.y);
#pragma unroll
          for (int b = 0; b < 2; ++b) {
            const int e = 4 * n + 2 * h + b;
            const float pass = b ? far : near, of = b ? scale.y : scale.x, product = g[e] * qk[e];
            float part = pass * product, factor = pass * of;
            if (diagonal) {  // gamma within a step, 0 on the other side
              const int own_step = (row + 8 * h) >> kShift<R>, step = (j + b) >> kShift<R>;
              if (step == own_step) sums.gamma[h] += product;
              if (j + b == row + 8 * h) sums.trace[h] += g[e];
              if (step >= own_step) part = 0, factor = step == own_step ? same[h] : 0.f;
            }
            sums.rows[h] += part * of, sums.cols[n * kOwnSums + (kOwnSums > 1 ? b : 0)] += part;
            m[2 * h + b] = factor * qk[e], ww[2 * h + b] = factor * g[e];
          }
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          W[block][(n & 1) * 2 + h] = pack_bf16(ww[2 * h], ww[2 * h + 1]);
          *reinterpret_cast<uint32_t*>(sm.M + place[n] + h * Side::kNextRow) = pack_bf16(m[2 * h], m[2 * h + 1]);
          *reinterpret_cast<uint32_t*>(sm.W + place[n] + h * Side::kNextRow) = W[block][(n & 1) * 2 + h];
        }
      }
    }
  }

  // Over the lanes: rows, and of the columns those of the 8 from 8 q stay with lane (q, r).
  __device__ __forceinline__ void add_up_sums(Sums& sums) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) sums.rows[h] = warp_sum<4>(sums.rows[h]), sums.gamma[h] = warp_sum<4>(sums.gamma[h]), sums.trace[h] = warp_sum<4>(sums.trace[h]);
#pragma unroll
    for (int half = 4; half > 0; half >>= 1) {
      const bool high = q & half;
#pragma unroll
      for (int k = 0; k < half * kOwnSums; ++k) {
        const float low_sum = sums.cols[k], high_sum = sums.cols[k + half * kOwnSums];
        sums.cols[k] = (high ? high_sum : low_sum) + __shfl_xor_sync(0xffffffffu, high ? low_sum : high_sum, 4 * half);
      }
    }
  }
  __device__ __forceinline__ void put_sums(const Sums& sums) const {
#pragma unroll
    for (int e = 0; e < kOwnSums; ++e) sm.col_t[warp][(q * 4 + r) * kOwnSums + e] = sums.cols[e];
    if (r == 0)
#pragma unroll
      for (int h = 0; h < 2; ++h) sm.row_w[row + 8 * h] = sums.rows[h], sm.gamma[row + 8 * h] = sums.gamma[h], sm.trace[row + 8 * h] = sums.trace[h];
  }
};

}  // namespace weft::kernels::mamba3
