// What the two multiplying sides of the chunk pass share, queries (q, dC) and keys (k, dB): a warpgroup has rows 16 warp + lane / 4 and 8 on.
#pragma once
#include "kernels/mamba3/chunk.cuh"

namespace weft::kernels::mamba3 {

template <int R, bool kKeys>
struct ChunkSide {
  using Sm = ChunkSmem<R>;
  const Mamba3Bwd& args;
  Sm& sm;
  const int thread = thread_number(), lane = thread & 31, warp = thread >> 5 & 3, q = lane >> 2, r = lane & 3, row = warp * 16 + q;  // and row + 8

  __device__ __forceinline__ void store(const ChunkWalk& it, float (&sum)[64]) const {
    const Mamba3Inputs& a = args.in;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int own = row + 8 * half, step = own >> kShift<R>;
      bf16* to = static_cast<bf16*>(kKeys ? args.dB : args.dC) + ((static_cast<int64_t>(it.first) + step) * R * a.groups + static_cast<int64_t>(own & (R - 1)) * a.groups + it.piece.head0 / it.heads + it.group) * kN + r * 2;
#pragma unroll
      for (int n = 0; n < 16; ++n) {
        if (step < it.count) *reinterpret_cast<uint32_t*>(to + n * 8) = pack_bf16(sum[4 * n + 2 * half], sum[4 * n + 2 * half + 1]);
        sum[4 * n + 2 * half] = sum[4 * n + 2 * half + 1] = 0;
      }
    }
  }
  // Where columns 8 n + 2 r.. of the own row lie in a tile of panels; of the row 8 on, kNextRow elements further. Made anew where it is used:
  // kept ahead of the loop over items, the places of all n would push sums out of registers.
  static constexpr int kNextRow = 8 * 64;
  struct Places {
    int row, swizzle;
    __device__ __forceinline__ int operator[](int n) const { return row + (swizzle ^ ((n & 7) << 3)) + (n >> 3) * 4096; }
  };
  __device__ __forceinline__ Places places() const {
    int swizzle = q << 3;
#if !defined(WEFT_EMULATE)
    asm volatile("" : "+r"(swizzle));
#endif
    return {row * 64 + r * 2, swizzle};
  }
  static __device__ __forceinline__ float2 pair(const bf16* tile, int place) { return unpack_bf16(*reinterpret_cast<const uint32_t*>(tile + place)); }

  // d theta = u x du' for each turned pair u of the own rows, summed over ranks; then the pairs of acc turned back.
  __device__ __forceinline__ void turn_back(float (&acc)[64], const bf16* own, const __half2* turn) const {
    const int angles = args.in.angles;
    float* out = sm.d_theta[kKeys && Sm::kThetaSides == 2];
    const Places place = places();
    const auto put = [](float& to, float v) {
      if constexpr (kKeys && Sm::kThetaSides == 1) to += v; else to = v;
    };
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
          const float2 u = pair(own, place[n] + h * kNextRow), v = pair(own, place[n + 8] + h * kNextRow);
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
        // Lane bit 2 keeps one of the two rows, bit 3 (rank 4) one of the two columns.
        const bool high = lane & 4, odd = lane & 8;
        float keep[2];
#pragma unroll
        for (int b = 0; b < 2; ++b) keep[b] = (high ? d[1][b] : d[0][b]) + __shfl_xor_sync(0xffffffffu, high ? d[0][b] : d[1][b], 4);
        const int step = (row + (high ? 8 : 0)) >> kShift<R>;
        if constexpr (R == 4) {
          const float one = (odd ? keep[1] : keep[0]) + __shfl_xor_sync(0xffffffffu, odd ? keep[0] : keep[1], 8);
          if (used) put(out[step * Sm::kThetaStride + col + (odd ? 1 : 0)], one);
        } else {
          if (used) put(out[step * Sm::kThetaStride + col], keep[0]), put(out[step * Sm::kThetaStride + col + 1], keep[1]);
        }
      } else {
        const int angle = col / 2;
        if (4 * n >= angles) break;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int at = row + 8 * h;
          const float2 u = pair(own, place[n] + h * kNextRow), cs = __half22float2(turn[at * angles + angle]);
          float &du = acc[4 * n + 2 * h], &dw = acc[4 * n + 2 * h + 1];
          put(out[at * Sm::kThetaStride + angle], u.x * dw - u.y * du);
          const float x = du * cs.x + dw * cs.y;
          dw = dw * cs.x - du * cs.y, du = x;
        }
      }
    }
  }

  // Sums over the rows of one rank, by pair of warps, and the sums over heads; lane bit 4 keeps one half of the columns.
  __device__ __forceinline__ void add_up(const float (&acc)[64], float (&sum)[64]) const {
    const bool right = lane & 16;
    float* out = sm.bias[kKeys ? 0 : 1][warp >> 1] + (q & (R - 1)) * kN + (right ? 64 : 0) + r * 2;
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
    group_barrier(kKeys ? kOwnK : kOwnQ, kGroup);
#pragma unroll
    for (int e = 0; e < 64; ++e) sum[e] += acc[e];
    if ((q & 3) < R && (warp & 1))
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const float2 other = *reinterpret_cast<const float2*>(out + n * 8);
        *reinterpret_cast<float2*>(out + n * 8) = {other.x + v[2 * n], other.y + v[2 * n + 1]};
      }
  }
  // acc times one factor for each of the two rows.
  template <int n>
  static __device__ __forceinline__ void scale(float (&acc)[n], float low, float high) {
#pragma unroll
    for (int e = 0; e < n; e += 4) acc[e] *= low, acc[e + 1] *= low, acc[e + 2] *= high, acc[e + 3] *= high;
  }
};

}  // namespace weft::kernels::mamba3
