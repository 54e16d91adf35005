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
  // A warp makes the turns of a quarter of the steps and then those steps' rows of k and q; a thread rows 8 j + row0 of each, columns 8 u.. and
  // 8 u + 32.., and those 64 on. Eight neighbouring lanes store to different banks. At rank 4 both rows are of one step, at rank 2 of steps 4 apart.
  const int t = thread_number() & (kGroup - 1), warp = t >> 5, lane = t & 31, u = lane & 3, row0 = 16 * warp + (lane >> 2 & 1) * 4 + (lane >> 3 & 3);
  const int first_column = (rank_of(0) * args.in.groups + at.group) * kN + 8 * u;  // of row row0 in B, C
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
    Raw raw;
    if (at.chunks > 0) load_rates_of(0), load_half(raw, 0, 1);
    for (int c = 0; c < at.chunks; ++c) {
      const int s = c & 1;
      if (c >= 2) group_barrier(kFree + s, 2 * kGroup);
      load_inputs(c, s);
      cp_async_wait<1>();
      group_barrier(kFeed, kGroup);
      if (args.thetas && c * kSteps % kMamba3Span == 0 && warp == 3) save_theta(args.thetas, at.start / kMamba3Span + at.document + c * kSteps / kMamba3Span);
      turns(s);
      __syncwarp();
      // The half that does not turn, where one does not, first: its rows are soon made, and the other's are on their way meanwhile.
#pragma unroll 1
      for (int half = 1; half >= 0; --half) make_half(raw, c, half);
      if (c + 1 < at.chunks) load_rates_of(c + 1); else cp_async_commit();
      cp_async_wait<1>();
      fence_async_proxy();
      group_arrive(kFull + s, 2 * kGroup);
      if (c + 1 < at.chunks) load_half(raw, c + 1, 1);  // after the fence, which would wait for them
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

  // dt and omega of chunk c; one group of copies.
  __device__ __forceinline__ void load_rates_of(int c) {
    const Mamba3Inputs& a = args.in;
    const int first = at.start + c * kSteps, left = at.length - c * kSteps;
    auto& raw = sm.raw[c & 1];
    if (t < kSteps) cp_async4(raw.dt + t, a.dt + static_cast<int64_t>(first + (t < left ? t : 0)) * a.heads + at.head, t < left);
    const int valid = (left < kSteps ? left : kSteps) * a.angles;
    for (int i = t * 4; i < kSteps * a.angles; i += kGroup * 4) {
      const bool ok = i < valid;
      cp_async16(sm.omega[c & 1] + i, a.omega + (ok ? static_cast<int64_t>(first) * a.angles + i : 0), ok);
    }
    cp_async_commit();
  }
  __device__ __forceinline__ void load_inputs(int c, int s) {
    const Mamba3Inputs& a = args.in;
    const int first = at.start + c * kSteps, left = at.length - c * kSteps, t = fresh(this->t);  // its places are not kept through the loop over chunks
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
  // Columns 8 u + 32 half.. and those 64 on of rows 8 j + row0 of B and C.
  struct Raw {
    uint4 low[2][2], high[2][2];  // [B, C][j]
  };
  // Of row 8 j + row0.
  __device__ __forceinline__ int step_of(int j) const { return R == 4 ? Order::step(row0) : Order::step(row0) + 8 / R * j; }
  __device__ __forceinline__ int rank_of(int j) const { return R == 4 ? (row0 & 1) + 2 * j : Order::rank(row0); }
  // Past the end comes the last step's row again: its weights are zero.
  __device__ __forceinline__ void load(Raw& raw, int c, int half, int which, int j) const {
    const Mamba3Inputs& a = args.in;
    const int there = c * kSteps + step_of(j), step = there < at.length ? there : at.length - 1;
    const bf16* from = static_cast<const bf16*>(which ? a.C : a.B) + static_cast<int64_t>(at.start + step) * (which ? a.C_stride : a.B_stride) + fresh(first_column) + (R == 4 ? 2 * j * a.groups * kN : 0) + 32 * half;
    raw.low[which][j] = __ldg(reinterpret_cast<const uint4*>(from)), raw.high[which][j] = __ldg(reinterpret_cast<const uint4*>(from + 64));
  }
  __device__ __forceinline__ void load_half(Raw& raw, int c, int half) const {
    #pragma unroll
    for (int m = 0; m < 4; ++m) load(raw, c, half, m >> 1, m & 1);
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

  // Of both rows of k and q; those of half 1 are followed by the loads of half 0.
  __device__ __forceinline__ void make_half(Raw& raw, int c, int half) const {
    const int s = c & 1, unit = u + 4 * half;
    const bool turn = Table::kPerUnit * unit < args.in.angles;
    Turn turns[R == 4 ? 1 : 2];
    if (turn) {
#pragma unroll
      for (int j = 0; j < (R == 4 ? 1 : 2); ++j) turns[j].read(sm.turn + step_of(j) * Table::kStride + unit * 2);
    }
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const int which = m >> 1, j = m & 1, row = row0 + 8 * j;
      bf16* to = (which ? sm.tiles[s].q : sm.tiles[s].k) + row * 64 + ((unit ^ row) & 7) * 8;
      const int bias = (which * R + rank_of(j)) * kN + 8 * unit;
      if (turn)
        make_turned(to, raw.low[which][j], raw.high[which][j], sm.bias[0] + bias, turns[R == 4 ? 0 : j], sm.round_bias[0] + bias);
      else  // added to in bf16: one rounding of the bias more
        *reinterpret_cast<uint4*>(to) = add_bf16x8(raw.low[which][j], *reinterpret_cast<const uint4*>(sm.round_bias[0] + bias)), *reinterpret_cast<uint4*>(to + kRows * 64) = add_bf16x8(raw.high[which][j], *reinterpret_cast<const uint4*>(sm.round_bias[0] + bias + 64));
      if (half) load(raw, c, 0, which, j);
    }
  }
  struct Turn {  // of a unit: cos, sin, cos, sin
    float4 cs[Table::kPerUnit / 2];
    __device__ __forceinline__ void read(const float2* from) {
#pragma unroll
      for (int m = 0; m < Table::kPerUnit / 2; ++m) cs[m] = *reinterpret_cast<const float4*>(from + m * 16);
    }
  };
  // 8 columns and those 64 on of a row.
  __device__ __forceinline__ void make_turned(bf16* to, const uint4& low, const uint4& high, const float* bias, const Turn& turn, const bf16* round_bias) const {
    const float4(&cs)[Table::kPerUnit / 2] = turn.cs;
    bf16* to_high = to + kRows * 64;
    float x[8];
    unpack8(x, low), add_shared8(x, bias);
    if constexpr (R > 1) {
      float y[8];
      unpack8(y, high), add_shared8(y, bias + 64);
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const float c = e & 1 ? cs[e >> 1].z : cs[e >> 1].x, sn = e & 1 ? cs[e >> 1].w : cs[e >> 1].y, v = x[e];
        x[e] = v * c - y[e] * sn, y[e] = v * sn + y[e] * c;
      }
      pack8(to_high, y);
    } else {
#pragma unroll
      for (int e = 0; e < 8; e += 2) {
        const float c = e & 2 ? cs[e >> 2].z : cs[e >> 2].x, sn = e & 2 ? cs[e >> 2].w : cs[e >> 2].y, v = x[e];
        x[e] = v * c - x[e + 1] * sn, x[e + 1] = v * sn + x[e + 1] * c;
      }
      *reinterpret_cast<uint4*>(to_high) = add_bf16x8(high, *reinterpret_cast<const uint4*>(round_bias + 64));
    }
    pack8(to, x);
  }
};

}  // namespace weft::kernels::mamba3
