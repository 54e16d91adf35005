// The feeding warpgroups of the chunk pass: one brings the operands of an item into its stage as soon as what stood there has been read, one
// takes results to memory. They are apart because the fence that wgmma asks for waits for a thread's stores.
#pragma once
#include "kernels/mamba3/chunk.cuh"

namespace weft::kernels::mamba3 {

template <int R>
struct ChunkFeed {
  using Sm = ChunkSmem<R>;
  static constexpr int kSteps = Sm::kSteps;
  const Mamba3Bwd& args;
  const BwdWorkspace& w;
  Sm& sm;
  const int64_t part;
  const int t = thread_number() & (kGroup - 1), warp = t >> 5, lane = t & 31, sub = lane >> 2;

  __device__ __forceinline__ void bring(ChunkWalk it) {
    for (int i = 0, third = 0; it.more(); ++i, third = third == 2 ? 0 : third + 1) {
      const int s = i & 1;
      if (i >= 2) barrier_wait(&sm.used[s], (i >> 1 & 1) ^ 1);
      load_first(it, s);
      if (i >= 2) barrier_wait(&sm.done[s], (i >> 1 & 1) ^ 1);
      load_rest(it, s);
      prepare(sm.stage[s], sm.small[s], sm.rates[third]);
      it.next();
      cp_async_wait<0>();
      fence_async_proxy();
      group_barrier(kFeed, kGroup);
      barrier_arrive(&sm.done[s]);
      group_arrive(kFullQ + s, 2 * kGroup), group_arrive(kFullK + s, 2 * kGroup);
    }
  }
  __device__ __forceinline__ void store(ChunkWalk it) {
    for (int i = 0, third = 0; it.more(); ++i, third = third == 2 ? 0 : third + 1) {
      barrier_arrive(&sm.done[i & 1]), group_barrier(kDone, 3 * kGroup), barrier_wait(&sm.done[i & 1], i >> 1 & 1);
      if (t == 0) {
        bulk_store(w.y + it.tile() * (kRows * kP), sm.y, kRows * kP * 2), bulk_store(w.dv + it.tile() * (kRows * kP), sm.dv, kRows * kP * 2);
        bulk_commit();
      }
      store_sums(it, sm.rates[third]);
      ChunkWalk next = it;
      next.next();
      if (next.more()) group_arrive(kFreeQ, 2 * kGroup);
      if (t == 0) bulk_wait<0>();
      if (next.more()) group_arrive(kFreeK, 2 * kGroup);
      it.next();
    }
  }

 private:
  // What is used first, and free first: v, dY, S, dS and the rates. Then the rest.
  __device__ __forceinline__ void load_first(const ChunkWalk& it, int s) {
    auto& stage = sm.stage[s];
    auto& small = sm.small[s];
    load_rates(small.dt, small.a, small.lambda, args.in, it.head(), it.first, it.left, kSteps, t);
    const int64_t wide = it.tile() * (kRows * kN), thin = it.tile() * (kRows * kP);
    const bf16* S = (w.S ? w.S + wide : static_cast<const bf16*>(args.states) + it.row() * (kP * kN)) + t * 8;
    const bf16* dS = w.dS + wide + t * 8;
    const int to = static_cast<int>(Panels<kN>{stage.S}.unit(t >> 4, (t & 15) * 8) - stage.S);
#pragma unroll
    for (int i = 0; i < kP * kN / 8 / kGroup; ++i) {  // 8 rows on: the swizzle repeats
      cp_async16(stage.S + to + i * 512, S + i * kGroup * 8, true);
      cp_async16(stage.dS + to + i * 512, dS + i * kGroup * 8, true);
    }
    copy_tile_async<kRows * kP, kGroup>(stage.v, w.v + thin, t), copy_tile_async<kRows * kP, kGroup>(stage.dY, w.dY + thin, t);
    cp_async_commit();
  }
  __device__ __forceinline__ void load_rest(const ChunkWalk& it, int s) {
    auto& stage = sm.stage[s];
    const int64_t wide = it.tile() * (kRows * kN);
    copy_tile_async<kRows * kN, kGroup>(stage.q, w.q + wide, t), copy_tile_async<kRows * kN, kGroup>(stage.k, w.k + wide, t);
    load_turns(sm.small[s].turn, args.in.angles, w.turns, args.in.heads, it.head(), args.in.angles, it.first, kSteps, it.count, t, kGroup);
    cp_async_commit();
  }

  __device__ __forceinline__ void prepare(typename Sm::Stage& stage, typename Sm::Small& small, typename Sm::Rates& rates) {
    cp_async_wait<1>();
    group_barrier(kFeed, kGroup);
    if (warp == 0) chunk_decay<R>(rates.decay, small.a, small.dt, small.lambda, 1);
    float sum = 0;
#pragma unroll 2
    for (int i = 0; i < kP * kN / 8 / kGroup; ++i) {
      float v[8], g[8];
      unpack8(v, stage.S + (i * kGroup + t) * 8), unpack8(g, stage.dS + (i * kGroup + t) * 8);
#pragma unroll
      for (int e = 0; e < 8; ++e) sum += v[e] * g[e];
    }
    sum = warp_sum(sum);
    if (lane == 0) rates.part_end[warp] = sum;
  }

  __device__ __forceinline__ void store_sums(const ChunkWalk& it, const typename Sm::Rates& of) {
    const Mamba3Inputs& a = args.in;
    const int head = it.head();
    const int64_t H = a.heads;
    for (int i = t; i < R * kN; i += kGroup) {
      const int which = i / (R * kN / 2), at = i % (R * kN / 2) * 2;
      const float2 v0 = *reinterpret_cast<const float2*>(&sm.bias[which][0][at]), v1 = *reinterpret_cast<const float2*>(&sm.bias[which][1][at]);
      add_pair(w.bias_parts + ((part * 2 + which) * H + head) * R * kN + at, v0.x + v1.x, v0.y + v1.y);
    }
#pragma unroll 1
    for (int angle = warp * 4 + (lane & 3); angle < a.angles; angle += 16) {
      float all = 0;
#pragma unroll
      for (int i = 0; i < kSteps / 8; ++i) {
        const int step = 8 * i + sub;
        const float v = sm.d_theta[step * Sm::kThetaStride + angle];
        if (step < it.count) w.d_theta[it.place(step) * a.angles + angle] = v;
        all += v;  // rows past the end hold zeros
      }
      all += __shfl_xor_sync(0xffffffffu, all, 4), all += __shfl_xor_sync(0xffffffffu, all, 8), all += __shfl_xor_sync(0xffffffffu, all, 16);
      if (sub == 0) w.d_theta_sums[it.row() * a.angles + angle] = all;
    }
    if (warp == 3) {
      const float trace = warp_sum(sm.trace[lane] + sm.trace[lane + 32]);
      if (lane == 0) add_alone(w.D_parts + part * H + head, trace);
    }
    if (warp == 2) rates(it, of);
  }

  // One warp: d_gamma, d_scale, d_a of the steps.
  __device__ __forceinline__ void rates(const ChunkWalk& it, const typename Sm::Rates& of) const {
    constexpr int kPer = kSteps > 32 ? 2 : 1;
    const Decay& d = of.decay;
    float dcs[kPer], inter = 0, sum = 0;
#pragma unroll
    for (int e = 0; e < kPer; ++e) {
      const int step = lane * kPer + e;
      dcs[e] = 0;
      if (step >= kSteps) continue;
      float d_scale = 0, d_gamma = 0;
#pragma unroll
      for (int k = 0; k < 4; ++k)
#pragma unroll
        for (int j = 0; j < Sm::kSums / kSteps; ++j) d_scale += sm.col_t[k][step * (Sm::kSums / kSteps) + j];
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const int row = step * R + r;
        d_scale += sm.dot_k[row], d_gamma += sm.gamma[row];
        inter += d.scale[row] * sm.dot_k[row], dcs[e] += sm.row_w[row] + sm.dot_q[row];
      }
      dcs[e] -= d.scale[step * R] * d_scale;
      sum += dcs[e];
      if (step < it.count) {
        const int64_t i = it.place(step);
        w.d_scale[i] = d_scale, w.d_gamma[i] = d_gamma + d_scale;
      }
    }
    const float end = d.grow[kRows - 1] * warp_sum(lane < 4 ? of.part_end[lane & 3] : 0.f) + warp_sum(inter);
    const float upto = warp_scan(sum);
    float later = __shfl_sync(0xffffffffu, upto, 31) - upto + end;
#pragma unroll
    for (int e = kPer - 1; e >= 0; --e) {
      const int step = lane * kPer + e;
      later += dcs[e];
      if (step < it.count) args.d_a[it.place(step)] = later;
    }
  }
};

}  // namespace weft::kernels::mamba3
