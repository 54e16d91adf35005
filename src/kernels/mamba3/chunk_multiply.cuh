// The multiplying warpgroups of the chunk pass, queries (dq, dC) and keys (dk, dB). What follows once dq or dk is whole, they do in the same
// code: four kinds of warps run side by side, and more instructions than the cache holds cost more than those that choose a side.
#pragma once
#include "kernels/mamba3/chunk_keys.cuh"
#include "kernels/mamba3/chunk_queries.cuh"

namespace weft::kernels::mamba3 {

template <int R>
struct ChunkMultiply : ChunkSide<R> {
  using Side = ChunkSide<R>;
  using typename Side::Sm;
  using Side::args, Side::lane, Side::q, Side::r, Side::row, Side::sm, Side::warp;

  __device__ __forceinline__ void run(ChunkWalk it, bool keys) {
    float sum[64] = {};  // dC or dB over the heads
    int i = 0;
    for (int third = 0; it.more(); ++i, third = third == 2 ? 0 : third + 1) {
      const int s = i & 1;
      float wide[64];
      if (keys)
        ChunkKeys<R>{*this}.item(i, sm.rates[third].decay, wide);
      else
        ChunkQueries<R>{*this}.item(i, sm.rates[third].decay, wide);
      turn_back(wide, keys, keys ? sm.stage[s].k : sm.stage[s].q, sm.small[s].turn);
      if (!keys) group_arrive(kTurned, 2 * kGroup);
      if (keys) fence_async_proxy();  // y and dv leave by bulk copies
      add_up(wide, keys, sum);
      barrier_arrive(&sm.done[s]), group_arrive(kDone, 3 * kGroup);
      if (it.last_head()) store(it, keys, sum);
      it.next();
    }
    if (i > 0 && !keys) group_barrier(kTaken, 2 * kGroup);  // the last item's
  }

 private:
  __device__ __forceinline__ void store(const ChunkWalk& it, bool keys, float (&sum)[64]) const {
    const Mamba3Inputs& a = args.in;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int own = row + 8 * half, step = own >> kShift<R>;
      bf16* to = static_cast<bf16*>(keys ? args.dB : args.dC) + ((static_cast<int64_t>(it.first) + step) * R * a.groups + static_cast<int64_t>(own & (R - 1)) * a.groups + it.piece.group0 + it.group) * kN + r * 2;
#pragma unroll
      for (int n = 0; n < 16; ++n) {
        if (step < it.count) *reinterpret_cast<uint32_t*>(to + n * 8) = pack_bf16(sum[4 * n + 2 * half], sum[4 * n + 2 * half + 1]);
        sum[4 * n + 2 * half] = sum[4 * n + 2 * half + 1] = 0;
      }
    }
  }
  // d theta = u x du' for each turned pair u of the own rows, summed over ranks; then the pairs of acc turned back.
  __device__ __forceinline__ void turn_back(float (&acc)[64], bool keys, const bf16* own, const __half2* turn) const {
    const int angles = args.in.angles;
    float* out = sm.d_theta;
    const auto place = this->places();
    const auto put = [keys](float& to, float v) { to = keys ? to + v : v; };
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const int col = n * 8 + r * 2;
      if constexpr (R > 1) {
        if (n % 2 == 0 && 8 * n >= angles) break;  // two at once: one's loads and exchanges hide the other's
        float d[2][2];
        const bool used = col < angles;  // angles is a multiple of 4
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int at = row + 8 * h;
          const float2 u = this->pair(own, place[n] + h * Side::kNextRow), v = this->pair(own, place[n + 8] + h * Side::kNextRow);
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
        // Lane bit 2 keeps one of the two rows.
        const bool high = lane & 4;
        float keep[2];
#pragma unroll
        for (int b = 0; b < 2; ++b) keep[b] = (high ? d[1][b] : d[0][b]) + __shfl_xor_sync(0xffffffffu, high ? d[0][b] : d[1][b], 4);
        const int step = (row + (high ? 8 : 0)) >> kShift<R>;
        if (used) put(out[step * Sm::kThetaStride + col], keep[0]), put(out[step * Sm::kThetaStride + col + 1], keep[1]);
      } else {
        const int angle = col / 2;
        if (4 * n >= angles) break;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int at = row + 8 * h;
          const float2 u = this->pair(own, place[n] + h * Side::kNextRow), cs = __half22float2(turn[at * angles + angle]);
          float &du = acc[4 * n + 2 * h], &dw = acc[4 * n + 2 * h + 1];
          put(out[at * Sm::kThetaStride + angle], u.x * dw - u.y * du);
          const float x = du * cs.x + dw * cs.y;
          dw = dw * cs.x - du * cs.y, du = x;
        }
      }
    }
  }

  // Sums over the rows of one rank, by pair of warps, and the sums over heads; lane bit 4 keeps one half of the columns.
  __device__ __forceinline__ void add_up(const float (&acc)[64], bool keys, float (&sum)[64]) const {
    const bool right = lane & 16;
    float* out = sm.bias[keys ? 0 : 1][warp >> 1] + (q & (R - 1)) * kN + (right ? 64 : 0) + r * 2;
    float v[16];
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int b = 0; b < 2; ++b) {
        const float left_sum = acc[4 * n + b] + acc[4 * n + 2 + b], right_sum = acc[4 * (n + 8) + b] + acc[4 * (n + 8) + 2 + b];
        float& all = v[2 * n + b];
        all = (right ? right_sum : left_sum) + __shfl_xor_sync(0xffffffffu, right ? left_sum : right_sum, 16);
#pragma unroll
        for (int o = 4 * R; o < 16; o <<= 1) all += __shfl_xor_sync(0xffffffffu, all, o);
      }
      if ((q & 3) < R && !(warp & 1)) *reinterpret_cast<float2*>(out + n * 8) = {v[2 * n], v[2 * n + 1]};
    }
    group_barrier(keys ? kOwnK : kOwnQ, kGroup);
#pragma unroll
    for (int e = 0; e < 64; ++e) sum[e] += acc[e];
    if ((q & 3) < R && (warp & 1))
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const float2 other = *reinterpret_cast<const float2*>(out + n * 8);
        *reinterpret_cast<float2*>(out + n * 8) = {other.x + v[2 * n], other.y + v[2 * n + 1]};
      }
  }
};

}  // namespace weft::kernels::mamba3
