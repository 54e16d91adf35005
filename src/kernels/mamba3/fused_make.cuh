// Operands of the chunk pass at rank 4: inputs by asynchronous copies, and from them q, k (bias, rotation), v and dY as tiles.
#pragma once
#include "kernels/mamba3/fused.cuh"

namespace weft::kernels::mamba3 {

struct FusedMake : Fused {
  // x, z, d_o and the rates, by one warpgroup, the thread that has stored what stood in its place. The caller commits.
  __device__ __forceinline__ void load_inputs(const FusedItem& it, int s) const {
    const Mamba3Inputs& a = args.in;
    auto& raw = sm.raw[s];
    const int step = t >> 3, unit = t & 7, to = raw_unit(step, unit), hd = head(it);
    const bool ok = step < it.count;
    const int64_t token = it.first + (ok ? step : 0), in = hd * kP + unit * 8;
    cp_async16(raw.x + to, static_cast<const bf16*>(a.x) + token * a.x_stride + in, ok);
    if (a.z) cp_async16(raw.z + to, static_cast<const bf16*>(a.z) + token * a.z_stride + in, ok);
    cp_async16(raw.d_o + to, static_cast<const bf16*>(args.d_o) + token * a.heads * kP + in, ok);
    if (warp == 3) load_rates(sm.dt, sm.a, sm.lambda, a, hd, it.first, it.left, kFusedSteps, lane);
  }
  // By one warp.
  __device__ __forceinline__ void load_mimo(const FusedItem& it, int s) const {
    const Mamba3Inputs& a = args.in;
    const int64_t from = static_cast<int64_t>(head(it)) * 4 * kP + lane * 4;
#pragma unroll
    for (int i = 0; i < 4 * kP; i += 128) {
      cp_async16(sm.mimo[s][0] + lane * 4 + i, a.mimo_x + from + i, true), cp_async16(sm.mimo[s][2] + lane * 4 + i, a.mimo_o + from + i, true);
      if (a.z) cp_async16(sm.mimo[s][1] + lane * 4 + i, a.mimo_z + from + i, true);
    }
  }
  // S, dS, by one thread, as the walk has left them; `barrier` gets an arrival and their bytes.
  __device__ __forceinline__ void load_states(const FusedItem& it, int s, uint64_t& barrier) const {
    constexpr int kBytes = kP * kN * 2;
    const int64_t from = tile(it) * (kP * kN);
    barrier_expect(&barrier, 2 * kBytes);
    bulk_load(sm.stage[s].S, w.S + from, kBytes, &barrier);
    bulk_load(sm.stage[s].dS, w.dS + from, kBytes, &barrier);
  }
  // The turns and the biases.
  __device__ __forceinline__ void load_turns_of(const FusedItem& it, int third) const {
    const Mamba3Inputs& a = args.in;
    const int hd = head(it), angles = a.angles, stride = turn_stride(), col = (t & 15) * 4;
    if (col < angles) {
#pragma unroll
      for (int step = t >> 4; step < kFusedSteps; step += 8) {
        const bool ok = step < it.count;
        cp_async16(sm.turn[third] + step * stride + col, w.turns + (static_cast<int64_t>(it.first + (ok ? step : 0)) * a.heads + hd) * angles + col, ok);
      }
    }
    const int64_t from = static_cast<int64_t>(hd) * 4 * kN + t * 4;
    const int to = warp * FusedSmem::kBias + lane * 4;
    cp_async16(sm.bias[0] + to, a.B_bias + from, true), cp_async16(sm.bias[1] + to, a.C_bias + from, true);
  }

  // k or q, by one warpgroup: thread t has columns 8 u.., 32 + 8 u.. and those 64 on of rows t / 4 and t / 4 + 32, which are of one rank.
  // Its first row of B or C is read a phase ahead, so that nothing waits for it.
  struct Wide {
    uint4 row[4];
    // Any values: where nothing is read, the last ones need not be kept.
    __device__ __forceinline__ void forget() {
#pragma unroll
      for (uint4& v : row) {
#if defined(WEFT_EMULATE)
        v = {};
#else
        asm volatile("" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w));
#endif
      }
    }
  };
  __device__ __forceinline__ void read_wide(Wide& v, const FusedItem& it, bool queries, int second = 0) const {
    const Mamba3Inputs& a = args.in;
    const int u = lane & 3, row = t >> 2, step = Order::step(row) + 8 * second;
    // Past the end comes the last step's row again: its weights are zero.
    const bf16* from = static_cast<const bf16*>(queries ? a.C : a.B) + (Order::rank(row) * a.groups + piece.group0 + group) * kN + 8 * u + (it.first + (step < it.count ? step : it.count - 1)) * (queries ? a.C_stride : a.B_stride);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const uint4* p = reinterpret_cast<const uint4*>(from + (k & 1) * 64 + (k >> 1) * 32);
      v.row[k] = queries ? load_kept(p) : load_once(p);
    }
  }
  __device__ __forceinline__ void make_wide(Wide& v, const FusedItem& it, int s, int third, bool queries) const {
    Wide ahead;
    read_wide(ahead, it, queries, 1);
    make_wide(v, ahead, s, third, queries);
  }
  __device__ __forceinline__ void make_wide(Wide& v, Wide& ahead, int s, int third, bool queries) const {
    const int row = t >> 2, unit = Columns::unit(t & 3, 0);  // those of 32 columns on are unit ^ 4, those 64 on the next
    int to = (unit >> 3) * (kRows * 64) + row * 64 + ((unit ^ row) & 7) * 8;
    make_half<0>(v, ahead, to, s, third, queries), make_half<1>(v, ahead, to, s, third, queries);
  }

  // All heads of a group make their q of the same rows. The first-level cache beside the shared memory holds those of one side.
  static __device__ __forceinline__ uint4 load_kept(const uint4* p) {
#if defined(WEFT_EMULATE)
    return *p;
#else
    uint4 v;
    asm volatile("ld.global.nc.L1::evict_last.v4.u32 {%0, %1, %2, %3}, [%4];\n" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
#endif
  }
  static __device__ __forceinline__ uint4 load_once(const uint4* p) {
#if defined(WEFT_EMULATE)
    return *p;
#else
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];\n" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
#endif
  }

  // v, or dY = d_o mimo_o silu(z mimo_z); thread t has 8 columns of one step, all ranks.
  template <bool gated>
  __device__ __forceinline__ void make_dY(int s) const {
    const int step = t >> 3, unit = t & 7, at = raw_unit(step, unit);
    float g[8], z[8];
    unpack8(g, sm.raw[s].d_o + at);
    if constexpr (gated) {
      unpack8(z, sm.raw[s].z + at);
#pragma unroll
      for (int e = 0; e < 8; ++e) z[e] *= 0.5f;
    }
#pragma unroll 2  // half of the code
    for (int rank = 0; rank < 4; ++rank) {
      float v[8];
      times_shared8(v, g, sm.mimo[s][2] + rank * kP + unit * 8);
      if constexpr (gated) {
        float u[8];  // z mimo_z / 2
        times_shared8(u, z, sm.mimo[s][1] + rank * kP + unit * 8);
#pragma unroll
        for (int e = 0; e < 8; ++e) v[e] *= u[e] * tanh_fast(u[e]) + u[e];
      }
      pack8(Panels<kP>{sm.stage[s].dY}.unit(Order::row(step, rank), unit * 8), v);
    }
  }
  __device__ __forceinline__ void make_v(int s) const {
    const int step = t >> 3, unit = t & 7;
    float x[8];
    unpack8(x, sm.raw[s].x + raw_unit(step, unit));
#pragma unroll 2
    for (int rank = 0; rank < 4; ++rank) {
      float v[8];
      times_shared8(v, x, sm.mimo[s][0] + rank * kP + unit * 8);
      pack8(Panels<kP>{sm.stage[s].v}.unit(Order::row(step, rank), unit * 8), v);
    }
  }
  // One warp.
  __device__ __forceinline__ void make_rates(int s) const {
    auto& to = sm.rates[s];
    each_rate<4>(sm.a, sm.dt, sm.lambda, 1, [&](int step, float cs, float, float grow, float weight, float scale, float gamma) {
      to.cs[step] = cs, to.grow[step] = grow, to.w[step] = weight, to.scale[step] = scale, to.gamma[step] = gamma;
    });
  }

 private:
  static __device__ __forceinline__ uint4 round8(const float* from) {
    const float4 a = *reinterpret_cast<const float4*>(from), b = *reinterpret_cast<const float4*>(from + 4);
    return {pack_bf16(a.x, a.y), pack_bf16(a.z, a.w), pack_bf16(b.x, b.y), pack_bf16(b.z, b.w)};
  }
  // Columns 32 half + 8 u.. and those 64 on, of both rows. What does not turn is added to in bf16, as in the forward and the walk.
  template <int half>
  __device__ __forceinline__ void make_half(Wide& v, const Wide& ahead, int to, int s, int third, bool queries) const {
    const int first = (lane & 3) + 4 * half, row = t >> 2;
    bf16* tile = queries ? sm.stage[s].q : sm.stage[s].k;
    const float* bias = sm.bias[queries] + Order::rank(row) * FusedSmem::kBias + 8 * first;
    if (8 * first >= args.in.angles) {
      const uint4 low = round8(bias), high = round8(bias + 64);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const Wide& from = j ? ahead : v;
        *reinterpret_cast<uint4*>(tile + j * 32 * 64 + (to ^ 32 * half)) = add_bf16x8(from.row[2 * half], low);
        *reinterpret_cast<uint4*>(tile + j * 32 * 64 + (to ^ 32 * half ^ 8)) = add_bf16x8(from.row[2 * half + 1], high);
      }
      return;
    }
    const __half2* turn = sm.turn[third] + Order::step(row) * turn_stride();
#pragma unroll 1  // half of the code
    for (int j = 0; j < 2; ++j) {
      float x[8], y[8];
      unpack8(x, v.row[2 * half]), unpack8(y, v.row[2 * half + 1]);
      add_shared8(x, bias), add_shared8(y, bias + 64);
      rotate<4>(x, y, first, turn, args.in.angles, 1.f);
      pack8(tile + (to ^ 32 * half), x), pack8(tile + (to ^ 32 * half ^ 8), y);
      tile += 32 * 64, turn += 8 * turn_stride();  // 32 rows on: the same places of the swizzle
      v.row[2 * half] = ahead.row[2 * half], v.row[2 * half + 1] = ahead.row[2 * half + 1];
    }
  }
};

}  // namespace weft::kernels::mamba3
