// SSD backward, second pass: one block takes one chunk of one group and goes through the group's heads, so that dB and dC are summed over heads
// in registers. With L_ij = e^{cs_i - cs_j} (j <= i), S the state before the chunk and dS the gradient of the state after it:
//   G_ij = dy_i . x_j    M = (C B^T) L diag(dt)    Q = G L                       [64, 64]
//   dx = M^T dy + diag(w) B dS^T + D dy              w_j = dt_j e^{cs_63 - cs_j}
//   dC = Q diag(dt) B + diag(e^{cs}) dy S            dB = diag(dt) Q^T C + diag(w) x dS
//   dcs_i = sum_{j < i} Q_ij dt_j (C B^T)_ij + e^{cs_i} dy_i . (S C_i) - dt_i u_i    u_j = sum_{i > j} Q_ij (C B^T)_ij + e^{cs_63 - cs_j} x_j . (dS B_j)
//   the chunk's end gets <dS, S_after> = e^{cs_63} <dS, S> + sum_j w_j x_j . (dS B_j)
//   da = reverse cumsum of dcs in the chunk    d_dt = u + G_jj (C B^T)_jj + A da    dA = sum da dt    dD = <dy, x>
// A warpgroup loads and sums what is elementwise; three multiply: dC by tokens i, dB and dx by tokens j, what is triangular in registers
// from sums to operands.
// Floor at b8 s4096 H128: S, dS, x, dy, dx 3.75 GB (0.88 ms at 4.3 TB/s); wgmma 1,920 clocks a head and chunk: 0.55 ms.
#include "kernels/common/state_group.cuh"
#include "kernels/ssd/bwd.cuh"

namespace weft::kernels {
namespace ssd {
namespace {

constexpr int kThreads = 4 * kGroup, kStages = 3, kOutStride = kP + 8;
enum ChunkBarrier { kFull = 1, kFree = 4, kOwn = 7 };  // kFull, kFree: + stage; kOwn: + warpgroup

struct Smem {
  bf16 B[kL * kN], C[kL * kN];  // Panels
  struct Stage {
    bf16 x[kL * kP], dy[kL * kP], S[kP * kN], dS[kP * kN];  // Panels
  } stage[kStages];
  struct Factors {
    float to[kL], dt[kL], grow[kL], fade[kL];  // log2(e) cs; dt; e^{cs}; e^{cs_63 - cs}
    float c[kL], b[kL], inter[kL], diagonal[kL];  // dC . C and u without the diagonal, u through dS, G_jj (C B^T)_jj
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
      group_arrive(kFull + s, kThreads);
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
      dcs[e] = f.c[i] - f.dt[i] * u[e];
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

// What the multiplying warpgroups share: 64 tokens are wgmma's rows, of a lane `row` and row + 8.
struct Multiply {
  const SsdBwd& a;
  const Head& on;
  Smem& sm;
  const int thread = fresh(static_cast<int>(threadIdx.x)), lane = thread & 31, warp = thread >> 5 & 3, q = lane >> 2, r = lane & 3, row = warp * 16 + q;

  // x = A B^T of two tiles with kColumns columns each.
  template <int kColumns>
  static __device__ __forceinline__ void dots(float (&x)[32], const bf16* rows, const bf16* columns) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kColumns / 16; ++k) Wgmma<64>::run<false, false>(x, k_major(rows) + wide_step(k), k_major(columns) + wide_step(k), k > 0);
    wgmma_commit();
  }
  // The same over kN columns, in bf16, to shared memory.
  __device__ __forceinline__ void keep_dots(uint4 (&to)[4][kGroup], const bf16* rows, const bf16* columns) const {
    float x[32];
    dots<kN>(x, rows, columns);
    wgmma_wait<0>();
    wgmma_settle(x);
    uint32_t v[4][4];
    pack(v, x);
#pragma unroll
    for (int k = 0; k < 4; ++k) to[k][thread & (kGroup - 1)] = {v[k][0], v[k][1], v[k][2], v[k][3]};
  }
  __device__ __forceinline__ float2 kept(const uint4 (&from)[4][kGroup], int n, int half) const {  // rows row + 8 half, columns 8 n + 2 r..
    return unpack_bf16(reinterpret_cast<const uint32_t*>(&from[n / 2][thread & (kGroup - 1)])[n % 2 * 2 + half]);
  }
  // 64 rows of 64 columns as the first operand, each row times its factor.
  __device__ __forceinline__ void scaled_rows(uint32_t (&to)[4][4], const bf16* tile, float low, float high) const {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      load_a(to[k], Tile<64>{const_cast<bf16*>(tile)}, warp * 16, k * 16);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float2 v = unpack_bf16(to[k][e]);
        const float f = e & 1 ? high : low;
        to[k][e] = pack_bf16(v.x * f, v.y * f);
      }
    }
  }
  // Sums of x times the tile along rows, of row and row + 8, to all lanes.
  __device__ __forceinline__ float2 row_dots(const float (&x)[32], const bf16* tile) const {
    const Panels<64> t{const_cast<bf16*>(tile)};
    float low = 0, high = 0;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float2 v = unpack_bf16(*reinterpret_cast<const uint32_t*>(t.at(row, n * 8 + r * 2))), g = unpack_bf16(*reinterpret_cast<const uint32_t*>(t.at(row + 8, n * 8 + r * 2)));
      low += x[4 * n] * v.x + x[4 * n + 1] * v.y, high += x[4 * n + 2] * g.x + x[4 * n + 3] * g.y;
    }
    return {warp_sum<4>(low), warp_sum<4>(high)};
  }
  // visit(element of sums [64, 64], row, column)
  template <class Visit>
  __device__ __forceinline__ void each(Visit visit) const {
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) visit(4 * n + e, row + (e >> 1) * 8, n * 8 + r * 2 + (e & 1));
  }
  static __device__ __forceinline__ void pack(uint32_t (&to)[4][4], const float (&x)[32]) {
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int e = 0; e < 4; ++e) to[k][e] = pack_bf16(x[8 * k + 2 * e], x[8 * k + 2 * e + 1]);
  }
  template <int N, bool kTrans = true>
  static __device__ __forceinline__ void add(float (&x)[N / 2], const uint32_t (&operand)[4][4], const bf16* tile) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<N>::template run<kTrans>(x, operand[k], mn_major(tile) + k * kStep16<true>, 1);
    wgmma_commit();
  }
  __device__ __forceinline__ void store(void* to, const float (&x)[64]) const {  // rows of dB or dC
    const int64_t stride = static_cast<int64_t>(a.groups) * kN;
    bf16* out = static_cast<bf16*>(to) + (on.at.first + row) * stride + on.group * kN + r * 2;
#pragma unroll
    for (int n = 0; n < 16; ++n) {
      if (row < on.at.count) *reinterpret_cast<uint32_t*>(out + n * 8) = pack_bf16(x[4 * n], x[4 * n + 1]);
      if (row + 8 < on.at.count) *reinterpret_cast<uint32_t*>(out + 8 * stride + n * 8) = pack_bf16(x[4 * n + 2], x[4 * n + 3]);
    }
  }
};

struct MultiplyC : Multiply {  // rows are tokens i
  __device__ __forceinline__ void run() const {
    float dC[64] = {};
    group_barrier(kFull, kThreads);
    keep_dots(sm.cb[0], sm.C, sm.B);
    for (int h = 0, s = 0; h < on.heads; ++h, s = s == kStages - 1 ? 0 : s + 1) {
      const auto& stage = sm.stage[s];
      auto& f = sm.factors[s];
      const Multiply m{a, on, sm};
      const int row = m.row, r = m.r;
      if (h > 0) group_barrier(kFull + s, kThreads);
      wgmma_wait<0>();
      float z[32], x[32];
      dots<kN>(z, sm.C, stage.S);
      dots<kP>(x, stage.dy, stage.x);
      wgmma_wait<1>();
      wgmma_settle(z);
      const float2 through = m.row_dots(z, stage.dy);
      uint32_t operand[4][4];
      const float to[2] = {f.to[row], f.to[row + 8]};
      float c[2] = {};
      wgmma_wait<0>();
      wgmma_settle(x);
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const float2 from = *reinterpret_cast<const float2*>(&f.to[n * 8 + r * 2]), dt = *reinterpret_cast<const float2*>(&f.dt[n * 8 + r * 2]);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int i = row + half * 8, j = n * 8 + r * 2, at = 4 * n + 2 * half;
          const float2 cb = m.kept(sm.cb[0], n, half);
          x[at] = j <= i ? x[at] * exp2_fast(to[half] - from.x) * dt.x : 0.f, x[at + 1] = j + 1 <= i ? x[at + 1] * exp2_fast(to[half] - from.y) * dt.y : 0.f;
          c[half] += (j < i ? x[at] * cb.x : 0.f) + (j + 1 < i ? x[at + 1] * cb.y : 0.f);
        }
      }
      pack(operand, x);
      wgmma_settle(dC);
      add<128>(dC, operand, sm.B);
      uint32_t grown[4][4];
      m.scaled_rows(grown, stage.dy, f.grow[row], f.grow[row + 8]);
      add<128>(dC, grown, stage.S);
      c[0] = warp_sum<4>(c[0]) + f.grow[row] * through.x, c[1] = warp_sum<4>(c[1]) + f.grow[row + 8] * through.y;
      if (r == 0) f.c[row] = c[0], f.c[row + 8] = c[1];
      wgmma_wait<0>();
      wgmma_settle(dC);
      group_arrive(kFree + s, kThreads);
    }
    store(a.dC, dC);
  }
};

struct MultiplyB : Multiply {  // rows are tokens j
  __device__ __forceinline__ void run() const {
    float dB[64] = {};
    group_barrier(kFull, kThreads);
    keep_dots(sm.cb[1], sm.B, sm.C);
    for (int h = 0, s = 0; h < on.heads; ++h, s = s == kStages - 1 ? 0 : s + 1) {
      const auto& stage = sm.stage[s];
      auto& f = sm.factors[s];
      const Multiply m{a, on, sm};
      const int row = m.row, r = m.r;
      if (h > 0) group_barrier(kFull + s, kThreads);
      wgmma_wait<0>();
      float x[32];
      dots<kP>(x, stage.x, stage.dy);
      const float dt[2] = {f.dt[row], f.dt[row + 8]}, from[2] = {f.to[row], f.to[row + 8]};
      uint32_t operand[4][4];
      float b[2] = {};
      wgmma_wait<0>();
      wgmma_settle(x);
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const float2 to = *reinterpret_cast<const float2*>(&f.to[n * 8 + r * 2]);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int j = row + half * 8, i = n * 8 + r * 2, at = 4 * n + 2 * half;
          const float2 cb = m.kept(sm.cb[1], n, half);
          const float Q0 = j <= i ? x[at] * exp2_fast(to.x - from[half]) : 0.f, Q1 = j <= i + 1 ? x[at + 1] * exp2_fast(to.y - from[half]) : 0.f;
          b[half] += (j < i ? Q0 * cb.x : 0.f) + (j < i + 1 ? Q1 * cb.y : 0.f);
          if (j == i) f.diagonal[j] = Q0 * cb.x;
          if (j == i + 1) f.diagonal[j] = Q1 * cb.y;
          x[at] = Q0 * dt[half], x[at + 1] = Q1 * dt[half];
        }
      }
      pack(operand, x);
      wgmma_settle(dB);
      add<128>(dB, operand, sm.C);
      uint32_t weighted[4][4];
      m.scaled_rows(weighted, stage.x, dt[0] * f.fade[row], dt[1] * f.fade[row + 8]);
      add<128>(dB, weighted, stage.dS);
      b[0] = warp_sum<4>(b[0]), b[1] = warp_sum<4>(b[1]);
      if (r == 0) f.b[row] = b[0], f.b[row + 8] = b[1];
      wgmma_wait<0>();
      wgmma_settle(dB);
      group_arrive(kFree + s, kThreads);
    }
    store(a.dB, dB);
  }
};

struct MultiplyX : Multiply {  // rows are tokens j
  __device__ __forceinline__ void run() const {
    group_barrier(kFull, kThreads);
    {
      float cb[32];
      dots<kN>(cb, sm.B, sm.C);
      wgmma_wait<0>();
      wgmma_settle(cb);
#pragma unroll
      for (int n = 0; n < 8; ++n) sm.exact[n][thread & (kGroup - 1)] = {cb[4 * n], cb[4 * n + 1], cb[4 * n + 2], cb[4 * n + 3]};
    }
    for (int h = 0, s = 0; h < on.heads; ++h, s = s == kStages - 1 ? 0 : s + 1) {
      const auto& stage = sm.stage[s];
      auto& f = sm.factors[s];
      const Multiply m{a, on, sm};
      const int row = m.row, r = m.r;
      if (h > 0) group_barrier(kFull + s, kThreads);
      wgmma_wait<0>();
      float x[32];
      dots<kN>(x, sm.B, stage.dS);
      const float dt[2] = {f.dt[row], f.dt[row + 8]}, from[2] = {f.to[row], f.to[row + 8]}, fade[2] = {f.fade[row], f.fade[row + 8]}, D = a.D ? a.D[on.first + h] : 0.f;
      uint32_t upper[4][4];  // M^T
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const float2 to = *reinterpret_cast<const float2*>(&f.to[n * 8 + r * 2]);
        const float4 cb = sm.exact[n][m.thread & (kGroup - 1)];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int j = row + half * 8, i = n * 8 + r * 2;
          const float m0 = j <= i ? (half ? cb.z : cb.x) * exp2_fast(to.x - from[half]) * dt[half] : 0.f, m1 = j <= i + 1 ? (half ? cb.w : cb.y) * exp2_fast(to.y - from[half]) * dt[half] : 0.f;
          upper[n / 2][n % 2 * 2 + half] = pack_bf16(m0, m1);
        }
      }
      wgmma_wait<0>();
      wgmma_settle(x);
      const float2 inter = m.row_dots(x, stage.x);
      if (r == 0) f.inter[row] = fade[0] * inter.x, f.inter[row + 8] = fade[1] * inter.y;
      const Panels<64> dy{const_cast<bf16*>(stage.dy)};
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float2 g = unpack_bf16(*reinterpret_cast<const uint32_t*>(dy.at(row + half * 8, n * 8 + r * 2)));
          const float w = dt[half] * fade[half];
          x[4 * n + 2 * half] = w * x[4 * n + 2 * half] + D * g.x, x[4 * n + 2 * half + 1] = w * x[4 * n + 2 * half + 1] + D * g.y;
        }
      wgmma_settle(x);
      add<64>(x, upper, stage.dy);
      wgmma_wait<0>();
      wgmma_settle(x);
      group_arrive(kFree + s, kThreads);
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half) *reinterpret_cast<uint32_t*>(sm.dx + (row + half * 8) * kOutStride + n * 8 + r * 2) = pack_bf16(x[4 * n + 2 * half], x[4 * n + 2 * half + 1]);
      group_barrier(kOwn + 1, kGroup);
      const int t = m.thread & (kGroup - 1), token = t >> 3, col = (t & 7) * 8;
      bf16* to = static_cast<bf16*>(a.dx) + ((on.at.first + token) * a.heads + on.first + h) * kP + col;
#pragma unroll
      for (int i = 0; i < kL; i += kGroup / 8)
        if (token + i < on.at.count) *reinterpret_cast<uint4*>(to + static_cast<int64_t>(i) * a.heads * kP) = *reinterpret_cast<const uint4*>(sm.dx + (token + i) * kOutStride + col);
    }
  }
};

__global__ void __launch_bounds__(kThreads, 1) bwd_chunk_kernel(const SsdBwd a, const BwdWorkspace w) {
  static_assert(sizeof(Smem) <= kSmemLimit);
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<Smem*>(raw);
  const int heads = a.heads / a.groups, group = static_cast<int>(blockIdx.x % a.groups);
  const int64_t slot = blockIdx.x / a.groups;
  const Head on{place_of_slot(a.cu_seqlens, a.documents, slot, kL), slot, group, heads, group * heads};
  if (on.at.count == 0) {
    for (int h = threadIdx.x; h < heads; h += kThreads) w.dA[slot * a.heads + on.first + h] = 0.f, w.dD[slot * a.heads + on.first + h] = 0.f;
    return;
  }
  const int role = static_cast<int>(threadIdx.x) >> 7;
  if (role == 0) {
    fewer_registers<56>();
    Feed{a, w, on, sm}.run();
  } else if (role == 1) {
    more_registers<168>();
    MultiplyC{{a, on, sm}}.run();
  } else if (role == 2) {
    more_registers<168>();
    MultiplyB{{a, on, sm}}.run();
  } else {
    fewer_registers<120>();
    MultiplyX{{a, on, sm}}.run();
  }
}

// One block a head: sums its parts over the slots in a fixed order.
__global__ void __launch_bounds__(256) sum_parts_kernel(const float* dA_parts, const float* dD_parts, int64_t slots, int H, float* dA, float* dD) {
  __shared__ float part[2][8];
  float sa = 0, sd = 0;
  for (int64_t i = threadIdx.x; i < slots; i += 256) sa += dA_parts[i * H + blockIdx.x], sd += dD_parts[i * H + blockIdx.x];
  sa = warp_sum(sa), sd = warp_sum(sd);
  if (lane_id() == 0) part[0][warp_id()] = sa, part[1][warp_id()] = sd;
  __syncthreads();
  if (threadIdx.x != 0) return;
  sa = sd = 0;
  for (int i = 0; i < 8; ++i) sa += part[0][i], sd += part[1][i];
  dA[blockIdx.x] += sa;
  if (dD) dD[blockIdx.x] += sd;
}

}  // namespace
}  // namespace ssd

Support supports_ssd_bwd_sm90(const SsdBwd& a, const Device& device) {
  if (a.states == nullptr) return {"the forward's states were not saved"};
  if (reinterpret_cast<uintptr_t>(a.dy) % 16 != 0 || reinterpret_cast<uintptr_t>(a.states) % 16 != 0) return {"dy or states is not 16-byte aligned"};
  return {ssd::refusal(a, device)};
}

size_t workspace_ssd_bwd_sm90(const SsdBwd& a) {
  const size_t slots = static_cast<size_t>(ssd_state_slots(a.tokens, a.documents)) * a.heads;
  return slots * (ssd::kP * ssd::kN * 2 + 2 * sizeof(float));
}

void ssd_bwd_sm90(const SsdBwd& a, const Launch& launch) {
  const int64_t slots = ssd_state_slots(a.tokens, a.documents), rows = slots * a.heads;
  if (a.documents == 0) return;
  auto* base = static_cast<uint8_t*>(launch.workspace);
  float* parts = reinterpret_cast<float*>(base + rows * (ssd::kP * ssd::kN * 2));
  const ssd::BwdWorkspace w{base, parts, parts + rows};
  ssd::bwd_state(a, w.d_states, launch.stream);
  launch_grid(ssd::bwd_chunk_kernel, dim3(static_cast<unsigned>(slots * a.groups)), dim3(ssd::kThreads), sizeof(ssd::Smem), launch.stream, a, w);
  launch_grid(ssd::sum_parts_kernel, dim3(a.heads), dim3(256), 0, launch.stream, static_cast<const float*>(w.dA), static_cast<const float*>(w.dD), slots, a.heads, a.dA, a.dD);
}

}  // namespace weft::kernels
