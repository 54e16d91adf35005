// The feeding warpgroup of the Mamba-3 forward. By count, per chunk and head at rank 4: 16 rows x 8 columns a thread, about 100 instructions a
// row where half of the columns turn, and 80 for the angles.
#pragma once
#include "kernels/mamba3/fwd.cuh"

namespace weft::kernels::mamba3 {

template <int R>
struct FwdFeed {
  using Sm = FwdSmem<R>;
  using Order = Rows<R>;
  using Table = TurnTable<R>;
  static constexpr int kSteps = Sm::kSteps;
  const Mamba3Fwd& args;
  const FwdPlace& at;
  Sm& sm;
  // A thread makes rows 16 i + row16 of k (warps 0, 1) or q: columns 8 u.. and 8 u + 32.., and those 64 on. Eight neighbouring lanes store
  // to different banks.
  const int t = thread_number() & (kGroup - 1), warp = t >> 5, lane = t & 31, u = lane & 3, which = warp >> 1,
            row16 = (lane >> 2 & 1) * 4 + (lane >> 3 & 3) + (warp & 1) * 8, rank = Order::rank(row16);
  float theta[2] = {};  // of angles lane and lane + 32 before the chunk; every warp keeps a copy

  __device__ __forceinline__ void run() {
    const Mamba3Inputs& a = args.in;
    for (int i = t; i < R * kN; i += kGroup)
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const float b = (m ? a.C_bias : a.B_bias)[static_cast<int64_t>(at.head) * R * kN + i];
        sm.bias[m][i] = b, sm.round_bias[m][i] = __float2bfloat16(b);
      }
#pragma unroll
    for (int e = 0; e < 2; ++e)
      if (args.initial.theta && lane + 32 * e < a.angles) theta[e] = args.initial.theta[(static_cast<int64_t>(at.document) * a.heads + at.head) * a.angles + lane + 32 * e];
    for (int step = warp; step < kSteps && lane < 4; step += 4)  // the rest of the last unit that turns stays as it is
      if ((a.angles + lane) % Table::kPerUnit >= 4) sm.turn[Table::at(step, a.angles + lane)] = {1, 0};
    uint4 raw[2][4];
    if (at.chunks > 0) {
      load_rates_of(0);
      load_row(raw[0], 0, 0), load_row(raw[1], 0, 1);
    }
    for (int c = 0; c < at.chunks; ++c) {
      const int s = c & 1;
      if (c >= 2) group_barrier(kFree + s, 2 * kGroup);
      load_inputs(c, s);
      cp_async_wait<1>();
      group_barrier(kFeed, kGroup);
      if (args.thetas && c * kSteps % kMamba3Span == 0 && warp == 3) save_theta(args.thetas, at.start / kMamba3Span + at.document + c * kSteps / kMamba3Span);
      if (warp == 0) rates(s);
      turns(s);
      group_barrier(kFeed, kGroup);
#pragma unroll 1
      for (int i = 0; i < 4; i += 2)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          // The half that does not turn is short: its registers take the next row early.
          make_half<1>(raw[j], s, 16 * (i + j) + row16);
          if (i == 0) load_half<1>(raw[j], c, 2 + j);
          make_half<0>(raw[j], s, 16 * (i + j) + row16);
          if (i == 0) load_half<0>(raw[j], c, 2 + j);
        }
      if (c + 1 < at.chunks) load_rates_of(c + 1); else cp_async_commit();
      cp_async_wait<1>();
      fence_async_proxy();
      group_arrive(kFull + s, 2 * kGroup);
      if (c + 1 < at.chunks) load_row(raw[0], c + 1, 0), load_row(raw[1], c + 1, 1);  // after the fence, which would wait for them
    }
    if (args.last.theta && warp == 3) save_theta(args.last.theta, at.document);
    if (args.last.h && at.chunks > 0) save_keys();
  }

 private:
  __device__ __forceinline__ void save_theta(float* to, int64_t row) const {
#pragma unroll
    for (int e = 0; e < 2; ++e)
      if (lane + 32 * e < args.in.angles) to[(row * args.in.heads + at.head) * args.in.angles + lane + 32 * e] = theta[e];
  }

  // k of the document's last step.
  __device__ __forceinline__ void save_keys() const {
    group_barrier(kFeed, kGroup);
    const int c = at.chunks - 1, step = at.length - 1 - c * kSteps;
    float* to = args.last.k + (static_cast<int64_t>(at.document) * args.in.heads + at.head) * R * kN;
    for (int i = t; i < R * kN; i += kGroup) to[i] = __bfloat162float(*Panels<kN>{sm.tiles[c & 1].k}.at(Order::row(step, i / kN), i % kN));
  }

  // dt, a, lambda and omega of chunk c; one group of copies.
  __device__ __forceinline__ void load_rates_of(int c) {
    const Mamba3Inputs& a = args.in;
    const int first = at.start + c * kSteps, left = at.length - c * kSteps;
    auto& raw = sm.raw[c & 1];
    load_rates(raw.dt, raw.a, raw.lambda, a, at.head, first, left, kSteps, t);
    const int valid = (left < kSteps ? left : kSteps) * a.angles;
    for (int i = t * 4; i < kSteps * a.angles; i += kGroup * 4) {
      const bool ok = i < valid;
      cp_async16(sm.omega[c & 1] + i, a.omega + (ok ? static_cast<int64_t>(first) * a.angles + i : 0), ok);
    }
    cp_async_commit();
  }
  __device__ __forceinline__ void load_inputs(int c, int s) {
    const Mamba3Inputs& a = args.in;
    const int first = at.start + c * kSteps, left = at.length - c * kSteps;
#pragma unroll 2
    for (int i = t; i < kSteps * 8; i += kGroup) {
      const int step = i / 8, col = i % 8 * 8;
      const bool ok = step < left;
      auto& small = sm.small[s];
      const int64_t token = ok ? first + step : at.start;
      const int in = at.head * kP + col;
      cp_async16(small.x + step * Sm::kXStride + col, static_cast<const bf16*>(a.x) + token * a.x_stride + in, ok);
      if (a.z) cp_async16(small.z + step * Sm::kXStride + col, static_cast<const bf16*>(a.z) + token * a.z_stride + in, ok);
    }
    cp_async_commit();
  }
  // The thread's part of row 16 i + row16 of chunk c: columns 8 u, 64 + 8 u, 32 + 8 u, 96 + 8 u. Past the end comes the last step's row again:
  // its weights are zero.
  __device__ __forceinline__ void load_row(uint4 (&raw)[4], int c, int i) const { load_half<0>(raw, c, i), load_half<1>(raw, c, i); }
  template <int half>
  __device__ __forceinline__ void load_half(uint4 (&raw)[4], int c, int i) const {
    const Mamba3Inputs& a = args.in;
    const int there = c * kSteps + Order::step(16 * i + row16), step = there < at.length ? there : at.length - 1;
    const bf16* from = static_cast<const bf16*>(which ? a.C : a.B) + static_cast<int64_t>(at.start + step) * (which ? a.C_stride : a.B_stride) + (rank * a.groups + at.group) * kN + 8 * u;
#pragma unroll
    for (int k = 0; k < 2; ++k) raw[2 * half + k] = __ldg(reinterpret_cast<const uint4*>(from + k * 64 + half * 32));
  }

  __device__ __forceinline__ void rates(int s) const {
    const auto& raw = sm.raw[s];
    auto& to = sm.small[s];
    each_rate<R>(raw.a, raw.dt, raw.lambda, 1, [&](int step, float cs, float from, float grow, float w, float, float gamma) {
      to.cs[step] = cs, to.from[step] = from, to.grow[step] = grow, to.w[step] = w, to.gamma[step] = gamma;
    });
  }
  // Warp w makes a quarter of the steps' turns.
  __device__ __forceinline__ void turns(int s) {
    const float* omega = sm.omega[s];
    const int angles = args.in.angles;
#pragma unroll
    for (int e = 0; e < Sm::kAngles / 32; ++e) {
      const int angle = lane + 32 * e;
      if (angle >= angles) continue;
      constexpr int kOwn = kSteps / 4;
      float rate[kOwn], sum = theta[e], own[kOwn] = {};
      const float* p = omega + angle;
#pragma unroll (kOwn > 4 ? 1 : 4)
      for (int quarter = 0; quarter < 4; ++quarter) {
#pragma unroll
        for (int k = 0; k < kOwn; ++k, p += angles) rate[k] = *p;
        const float* dt = sm.raw[s].dt + quarter * kOwn;
#pragma unroll
        for (int k = 0; k < kOwn; k += 4) {
          const float4 four = *reinterpret_cast<const float4*>(dt + k);
          const float each[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            sum += rate[k + i] * each[i];
            if (quarter == warp) own[k + i] = sum;
          }
        }
      }
#pragma unroll
      for (int k = 0; k < kOwn; ++k) {
        float sine, cosine;
        __sincosf(wrap_angle(own[k]) - kTwoPi / 2, &sine, &cosine);
        sm.turn[Table::at(warp * kOwn + k, angle)] = {-cosine, -sine};
      }
      theta[e] = wrap_angle(sum);
    }
  }

  template <int half>
  __device__ __forceinline__ void make_half(const uint4 (&raw)[4], int s, int row) const {
    const Panels<kN> to{which ? sm.tiles[s].q : sm.tiles[s].k};
    make_unit(to, row, u + 4 * half, raw[2 * half], raw[2 * half + 1], sm.turn + Order::step(row) * Table::kStride);
  }
  // Columns 8 unit.. and 64 + 8 unit.. of a row. Those that do not turn are added to in bf16: one rounding of the bias more.
  __device__ __forceinline__ void make_unit(const Panels<kN>& to, int row, int unit, const uint4& low, const uint4& high, const float2* turn) const {
    const int col = rank * kN + 8 * unit;
    const float* bias = sm.bias[which] + col;
    const bf16* round_bias = sm.round_bias[which] + col;
    uint4 *to_low = reinterpret_cast<uint4*>(to.unit(row, 8 * unit)), *to_high = reinterpret_cast<uint4*>(to.unit(row, 64 + 8 * unit));
    if (Table::kPerUnit * unit >= args.in.angles) {
      *to_low = add_bf16x8(low, *reinterpret_cast<const uint4*>(round_bias)), *to_high = add_bf16x8(high, *reinterpret_cast<const uint4*>(round_bias + 64));
      return;
    }
    float x[8];
    unpack8(x, low), add_shared8(x, bias);
    float4 cs[Table::kPerUnit / 2];
#pragma unroll
    for (int m = 0; m < Table::kPerUnit / 2; ++m) cs[m] = *reinterpret_cast<const float4*>(turn + m * 16 + unit * 2);
    if constexpr (R > 1) {
      float y[8];
      unpack8(y, high), add_shared8(y, bias + 64);
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const float c = e & 1 ? cs[e >> 1].z : cs[e >> 1].x, sn = e & 1 ? cs[e >> 1].w : cs[e >> 1].y, v = x[e];
        x[e] = v * c - y[e] * sn, y[e] = v * sn + y[e] * c;
      }
      pack8(reinterpret_cast<bf16*>(to_high), y);
    } else {
#pragma unroll
      for (int e = 0; e < 8; e += 2) {
        const float c = e & 2 ? cs[e >> 2].z : cs[e >> 2].x, sn = e & 2 ? cs[e >> 2].w : cs[e >> 2].y, v = x[e];
        x[e] = v * c - x[e + 1] * sn, x[e + 1] = v * sn + x[e + 1] * c;
      }
      *to_high = add_bf16x8(high, *reinterpret_cast<const uint4*>(round_bias + 64));
    }
    pack8(reinterpret_cast<bf16*>(to_low), x);
  }
};

}  // namespace weft::kernels::mamba3
