// SSD backward, second pass: the warpgroups that multiply. The formulas are in bwd_sm90.cu.
#pragma once
#include "kernels/ssd/bwd_feed.cuh"

namespace weft::kernels::ssd::chunk {

// What the multiplying warpgroups share: 64 tokens are wgmma's rows, of a lane `row` and row + 8.
struct Multiply {
  const SsdBwd& a;
  const Head& on;
  Smem& sm;
  const int thread = fresh(static_cast<int>(threadIdx.x)), lane = thread & 31, warp = thread >> 5 & 3, q = lane >> 2, r = lane & 3, row = warp * 16 + q;

  // The feeding warpgroup meets each of the three at barriers of its own: all warps that wait at one do so in the same instruction.
  template <int kRole>
  static __device__ __forceinline__ void wait(int stage) { group_barrier(kFull + kStages * kRole + stage, 2 * kGroup); }
  // visit(head of the group, stage's number, the thread's place made anew, stage, factors) for each head when its operands have come; those of
  // the first have been waited for.
  template <int kRole, class Visit>
  __device__ __forceinline__ void each_head(Visit visit) const {
    for (int h = 0, s = 0; h < on.heads; ++h, s = s == kStages - 1 ? 0 : s + 1) {
      const Multiply m{a, on, sm};
      if (h > 0) wait<kRole>(s);
      wgmma_wait<0>();
      visit(h, s, m, sm.stage[s], sm.factors[s]);
    }
  }
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
    wait<0>(0);
    keep_dots(sm.cb[0], sm.C, sm.B);
    each_head<0>([&](int, int s, const Multiply& m, const Smem::Stage& stage, Smem::Factors& f) {
      const int row = m.row, r = m.r;
      float x[32];
      dots<kP>(x, stage.dy, stage.x);
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
      c[0] = warp_sum<4>(c[0]), c[1] = warp_sum<4>(c[1]);
      if (r == 0) f.c[row] = c[0], f.c[row + 8] = c[1];
      wgmma_wait<0>();
      wgmma_settle(dC);
      group_arrive(kFree + s, kThreads);
    });
    store(a.dC, dC);
  }
};

struct MultiplyB : Multiply {  // rows are tokens j
  __device__ __forceinline__ void run() const {
    float dB[64] = {};
    wait<1>(0);
    keep_dots(sm.cb[1], sm.B, sm.C);
    each_head<1>([&](int, int s, const Multiply& m, const Smem::Stage& stage, Smem::Factors& f) {
      const int row = m.row, r = m.r;
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
    });
    store(a.dB, dB);
  }
};

struct MultiplyX : Multiply {  // rows are tokens j, and i for what dC . C has through S
  __device__ __forceinline__ void run() const {
    wait<2>(0);
    {
      float cb[32];
      dots<kN>(cb, sm.B, sm.C);
      wgmma_wait<0>();
      wgmma_settle(cb);
#pragma unroll
      for (int n = 0; n < 8; ++n) sm.exact[n][thread & (kGroup - 1)] = {cb[4 * n], cb[4 * n + 1], cb[4 * n + 2], cb[4 * n + 3]};
    }
    each_head<2>([&](int h, int s, const Multiply& m, const Smem::Stage& stage, Smem::Factors& f) {
      const int row = m.row, r = m.r;
      float z[32], x[32];
      dots<kN>(z, sm.C, stage.S);
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
      wgmma_wait<1>();
      wgmma_settle(z);
      const float2 through = m.row_dots(z, stage.dy);
      if (r == 0) f.through[row] = f.grow[row] * through.x, f.through[row + 8] = f.grow[row + 8] * through.y;
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
    });
  }
};

}  // namespace weft::kernels::ssd::chunk
