// SSD backward, second pass: its shared memory, and the warpgroup that loads the heads of a group in turn, sums what is elementwise and turns
// the sums of the others into d_dt and the parts of dA and dD. The formulas are in bwd_sm90.cu.
#pragma once
#include "kernels/common/state_group.cuh"
#include "kernels/ssd/bwd.cuh"

namespace weft::kernels::ssd::chunk {

constexpr int kThreads = 4 * kGroup, kStages = 3, kOutStride = kP + 8;
enum ChunkBarrier { kFull = 1, kFree = kFull + 3 * kStages, kOwn = kFree + kStages };  // kFull: + stage + kStages * role; kFree: + stage; kOwn: + warpgroup

struct Smem {
  bf16 B[kL * kN], C[kL * kN];  // Panels
  struct Stage {
    bf16 x[kL * kP], dy[kL * kP], S[kP * kN], dS[kP * kN];  // Panels
  } stage[kStages];
  struct Factors {
    float to[kL], dt[kL], grow[kL], fade[kL];  // log2(e) cs; dt; e^{cs}; e^{cs_63 - cs}
    float c[kL], b[kL], through[kL], inter[kL], diagonal[kL];  // dC . C and u without the diagonal; what they have through S and dS; G_jj (C B^T)_jj
    float ends[4], d[4];                          // <dS, S>, <dy, x>, by warp
  } factors[kStages];
  alignas(16) bf16 dx[kL * kOutStride];
  uint4 cb[2][4][kGroup];   // a thread's own of C B^T and B C^T, in bf16: dC . C and u take these alike, so that what cancels in dcs does
  float4 exact[8][kGroup];  // of B C^T, for M
};

struct Head {  // what one block works on: a chunk of a group
  ChunkPlace at;
  int64_t slot;
  int group, heads, first;  // heads of the group, the first one
};

__device__ constexpr uint64_t wide_step(int k) { return (k >> 2) * kPanelStep + (k & 3) * kStep16<false>; }

struct Feed {
  const SsdBwd& a;
  const BwdWorkspace& w;
  const Head& on;
  Smem& sm;

  __device__ __forceinline__ void run() const {
    const int thread = static_cast<int>(threadIdx.x), warp = thread >> 5, left = on.at.count;
    load_panels<kN, kGroup>(sm.B, static_cast<const bf16*>(a.B) + on.at.first * a.B_stride + on.group * kN, a.B_stride, left, thread);
    load_panels<kN, kGroup>(sm.C, static_cast<const bf16*>(a.C) + on.at.first * a.C_stride + on.group * kN, a.C_stride, left, thread);
    float dt[2];  // of tokens 2 lane and 2 lane + 1, in warp 0
    fetch(dt, 0);
    load(0);
    for (int h = 0, s = 0; h < on.heads; ++h) {
      const int after = s == kStages - 1 ? 0 : s + 1;
      if (h + 1 < on.heads) {
        if (h + 1 >= kStages) {
          group_barrier(kFree + after, kThreads);
          if (warp == 0) finish(h + 1 - kStages, sm.factors[after]);
        }
        load(h + 1);
      }
      cp_async_commit();
      if (warp == 0) set(sm.factors[s], dt, a.A[on.first + h]);
      fetch(dt, h + 1);
      cp_async_wait<1>();
      fence_async_proxy();
      group_barrier(kOwn, kGroup);
      sums(sm.stage[s], sm.factors[s]);
#pragma unroll
      for (int role = 0; role < 3; ++role) group_arrive(kFull + kStages * role + s, 2 * kGroup);
      s = after;
    }
    for (int h = on.heads < kStages ? 0 : on.heads - kStages; h < on.heads; ++h) {
      const int s = h % kStages;
      group_barrier(kFree + s, kThreads);
      if (warp == 0) finish(h, sm.factors[s]);
    }
  }

 private:
  __device__ __forceinline__ void load(int h) const {
    const int head = on.first + h, t = fresh(static_cast<int>(threadIdx.x));
    auto& stage = sm.stage[h % kStages];
    const int64_t state = (on.slot * a.heads + head) * (kP * kN);
    load_panels<kP, kGroup>(stage.x, static_cast<const bf16*>(a.x) + on.at.first * a.x_stride + head * kP, a.x_stride, on.at.count, t);
    load_panels<kP, kGroup>(stage.dy, static_cast<const bf16*>(a.dy) + (on.at.first * a.heads + head) * kP, static_cast<int64_t>(a.heads) * kP, on.at.count, t);
    load_panels<kN, kGroup>(stage.S, static_cast<const bf16*>(a.states) + state, kN, kP, t);
    load_panels<kN, kGroup>(stage.dS, static_cast<const bf16*>(w.d_states) + state, kN, kP, t);
    if (h == 0) cp_async_commit();
  }
  __device__ __forceinline__ void fetch(float (&dt)[2], int h) const {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int i = 2 * lane_id() + e;
      dt[e] = threadIdx.x < 32 && h < on.heads && i < on.at.count ? a.dt[(on.at.first + i) * a.heads + on.first + h] : 0.f;
    }
  }
  static __device__ __forceinline__ void set(Smem::Factors& f, const float (&dt)[2], float A) {
    const int i = 2 * lane_id();
    const float a0 = dt[0] * A, a1 = dt[1] * A, cs1 = warp_scan(a0 + a1) * kLog2E, cs0 = cs1 - a1 * kLog2E, end = __shfl_sync(0xffffffffu, cs1, 31);
    *reinterpret_cast<float2*>(&f.to[i]) = {cs0, cs1};
    *reinterpret_cast<float2*>(&f.dt[i]) = {dt[0], dt[1]};
    *reinterpret_cast<float2*>(&f.grow[i]) = {exp2_fast(cs0), exp2_fast(cs1)};
    *reinterpret_cast<float2*>(&f.fade[i]) = {exp2_fast(end - cs0), exp2_fast(end - cs1)};
  }
  template <int kBytes>
  static __device__ __forceinline__ float dot(const bf16* x, const bf16* y) {
    float sum = 0;
#pragma unroll 2
    for (int u = static_cast<int>(threadIdx.x); u < kBytes / 16; u += kGroup) {
      const uint4 v = reinterpret_cast<const uint4*>(x)[u], g = reinterpret_cast<const uint4*>(y)[u];
      const uint32_t vs[4] = {v.x, v.y, v.z, v.w}, gs[4] = {g.x, g.y, g.z, g.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 p = unpack_bf16(vs[i]), r = unpack_bf16(gs[i]);
        sum += p.x * r.x + p.y * r.y;
      }
    }
    return warp_sum(sum);
  }
  static __device__ __forceinline__ void sums(const Smem::Stage& stage, Smem::Factors& f) {
    const float end = dot<kP * kN * 2>(stage.S, stage.dS), d = dot<kL * kP * 2>(stage.x, stage.dy);
    if (lane_id() == 0) f.ends[warp_id()] = end, f.d[warp_id()] = d;
  }
  // By warp 0, when all have worked on the head.
  __device__ __forceinline__ void finish(int h, const Smem::Factors& f) const {
    const int lane = lane_id(), head = on.first + h;
    const float A = a.A[head];
    float u[2], dcs[2], inter = 0;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int i = 2 * lane + e;
      u[e] = f.inter[i] + f.b[i];
      dcs[e] = f.c[i] + f.through[i] - f.dt[i] * u[e];
      inter += f.dt[i] * f.inter[i];
    }
    const float end = f.grow[kL - 1] * ((f.ends[0] + f.ends[1]) + (f.ends[2] + f.ends[3])) + warp_sum(inter);
    const float before = warp_scan(dcs[0] + dcs[1]), all = __shfl_sync(0xffffffffu, before, 31) + end;
    const float da1 = all - before + dcs[1], da0 = da1 + dcs[0];
    float* d_dt = a.d_dt + (on.at.first + 2 * lane) * a.heads + head;
    if (2 * lane < on.at.count) d_dt[0] = u[0] + f.diagonal[2 * lane] + A * da0;
    if (2 * lane + 1 < on.at.count) d_dt[a.heads] = u[1] + f.diagonal[2 * lane + 1] + A * da1;
    const float dA = warp_sum(da0 * f.dt[2 * lane] + da1 * f.dt[2 * lane + 1]);
    if (lane == 0) w.dA[on.slot * a.heads + head] = dA, w.dD[on.slot * a.heads + head] = (f.d[0] + f.d[1]) + (f.d[2] + f.d[3]);
  }
};

}  // namespace weft::kernels::ssd::chunk
