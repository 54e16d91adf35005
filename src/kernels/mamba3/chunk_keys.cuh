// The keys' side of the chunk pass, with the queries' weights: y = e^{cs} q S^T + M v, dv = w k dS^T + M^T dY, dk = w v dS + W^T q.
#pragma once
#include "kernels/mamba3/chunk_side.cuh"

namespace weft::kernels::mamba3 {

template <int R>
struct ChunkKeys : ChunkSide<R> {
  using Side = ChunkSide<R>;
  using typename Side::Sm;
  using Side::r, Side::row, Side::sm;

  __device__ __forceinline__ void item(int i, const Decay& d, float (&wide)[64]) const {
    const int s = i & 1;
    auto& stage = sm.stage[s];
    group_barrier(kFullK + s, 2 * kGroup);
    float acc[32], dot[2];
    through_state(acc, stage.q, stage.S);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<128>::run<false, true>(wide, k_major(stage.v) + k * kStep16<false>, mn_major(stage.dS) + k * kStep16<true>, k > 0);
    wgmma_commit();
    wgmma_wait<1>();
    wgmma_settle(acc);
    dot_rows(dot, acc, stage.dY, d.grow[row], d.grow[row + 8]);
    this->scale(acc, d.grow[row], d.grow[row + 8]);
    group_barrier(kWeights, 2 * kGroup);
    wgmma_settle(acc);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<64>::run<false, true>(acc, k_major(sm.M) + k * kStep16<false>, mn_major(stage.v) + k * kStep16<true>, 1);
    wgmma_commit();
    wgmma_wait<1>();
    wgmma_settle(wide);
    this->scale(wide, d.w[row], d.w[row + 8]);
    wgmma_settle(wide);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<128>::run<true, true>(wide, mn_major(sm.W) + k * kStep16<true>, mn_major(stage.q) + k * kStep16<true>, 1);
    wgmma_commit();
    if (i > 0) group_barrier(kFreeK, 2 * kGroup);
    if (r == 0) sm.dot_q[row] = dot[0], sm.dot_q[row + 8] = dot[1];
    wgmma_wait<1>();
    wgmma_settle(acc);
    put(sm.y, acc);
    through_state(acc, stage.k, stage.dS);
    const float end = d.cs[kRows - 1], low = exp2_fast(end - d.cs[row]), high = exp2_fast(end - d.cs[row + 8]);
    wgmma_wait<0>();
    wgmma_settle(acc), wgmma_settle(wide);
    dot_rows(dot, acc, stage.v, low, high);
    this->scale(acc, low * d.scale[row], high * d.scale[row + 8]);
    wgmma_settle(acc);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<64>::run<true, true>(acc, mn_major(sm.M) + k * kStep16<true>, mn_major(stage.dY) + k * kStep16<true>, 1);
    wgmma_commit();
    if (r == 0) sm.dot_k[row] = dot[0], sm.dot_k[row + 8] = dot[1];
    wgmma_wait<0>();
    wgmma_settle(acc);
    group_arrive(kTaken, 2 * kGroup), barrier_arrive(&sm.used[s]);
    put(sm.dv, acc);
    group_barrier(kTurned, 2 * kGroup);
  }

 private:
  // own state^T, [rows, P].
  static __device__ __forceinline__ void through_state(float (&acc)[32], const bf16* own, const bf16* state) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const uint64_t at = (k >> 2) * kPanelStep + (k & 3) * kStep16<false>;
      Wgmma<64>::run<false, false>(acc, k_major(own) + at, k_major(state) + at, k > 0);
    }
    wgmma_commit();
  }
  // <acc, tile> of the two rows, times a factor each.
  __device__ __forceinline__ void dot_rows(float (&dot)[2], const float (&acc)[32], const bf16* tile, float low_factor, float high_factor) const {
    const auto place = this->places();
    dot[0] = dot[1] = 0;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float2 low = this->pair(tile, place[n]), high = this->pair(tile, place[n] + Side::kNextRow);
      dot[0] += acc[4 * n] * low.x + acc[4 * n + 1] * low.y, dot[1] += acc[4 * n + 2] * high.x + acc[4 * n + 3] * high.y;
    }
    dot[0] = low_factor * warp_sum<4>(dot[0]), dot[1] = high_factor * warp_sum<4>(dot[1]);
  }
  __device__ __forceinline__ void put(bf16* tile, const float (&acc)[32]) const {
    const auto place = this->places();
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      *reinterpret_cast<uint32_t*>(tile + place[n]) = pack_bf16(acc[4 * n], acc[4 * n + 1]);
      *reinterpret_cast<uint32_t*>(tile + place[n] + Side::kNextRow) = pack_bf16(acc[4 * n + 2], acc[4 * n + 3]);
    }
  }
};

}  // namespace weft::kernels::mamba3
