// What the chunk pass at rank 4 takes to memory an item later, by the warpgroup that writes no operands: the fence of those would wait for its
// stores.
#pragma once
#include "kernels/mamba3/fused.cuh"

namespace weft::kernels::mamba3 {

struct FusedStore : Fused {
  __device__ __forceinline__ void results(const FusedItem& it, int s) const {
    const Mamba3Inputs& a = args.in;
    const int hd = head(it);
    const int64_t H = a.heads, token = static_cast<int64_t>(it.first) * H + hd;  // of [T, H]
    {
      const int step = t >> 3, unit = t & 7, at = raw_unit(step, unit);
      const int64_t to = (token + step * H) * kP + unit * 8;
      if (step < it.count) {
        *reinterpret_cast<uint4*>(static_cast<bf16*>(args.dx) + to) = *reinterpret_cast<const uint4*>(sm.raw[s].x + at);
        if (a.z) *reinterpret_cast<uint4*>(static_cast<bf16*>(args.dz) + to) = *reinterpret_cast<const uint4*>(sm.raw[s].z + at);
      }
    }
    add(w.bias_parts + (part * 2 * H + hd) * (4 * kN), sm.d_bias[0], t), add(w.bias_parts + ((part * 2 + 1) * H + hd) * (4 * kN), sm.d_bias[1], t);
    float* to_mimo = w.mimo_parts + (part * 3 * H + hd) * (4 * kP);  // 4 kP values each
    if (t < kP)
      add(to_mimo, sm.mimo[s][0], t), add(to_mimo + 2 * H * (4 * kP), sm.mimo[s][2], t);
    else if (a.z)
      add(to_mimo + H * (4 * kP), sm.mimo[s][1], t - kP);
    const int stride = turn_stride(), angles = a.angles;
#pragma unroll 1
    for (int angle = warp * 4 + r; angle < angles; angle += 16) {
      float all = 0;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int step = 8 * i + q;
        const float v = sm.d_theta[0][step * stride + angle] + sm.d_theta[1][step * stride + angle];
        if (step < it.count) w.d_theta[(token + step * H) * angles + angle] = v;
        all += v;  // rows past the end hold zeros
      }
      all += __shfl_xor_sync(0xffffffffu, all, 4), all += __shfl_xor_sync(0xffffffffu, all, 8), all += __shfl_xor_sync(0xffffffffu, all, 16);
      if (q == 0) w.d_theta_sums[(static_cast<int64_t>(it.slot) * H + hd) * angles + angle] = all;
    }
    if (warp == 0) rates(it, token, s);
  }

 private:
  static __device__ __forceinline__ void add(float* to, const float* from, int at) {
    const float4 v = *reinterpret_cast<const float4*>(from + at * 4);
    add_pair(to + at * 4, v.x, v.y), add_pair(to + at * 4 + 2, v.z, v.w);
  }
  // One warp, lanes of 16 the same steps: d_gamma, d_scale, d_a, and dD.
  __device__ __forceinline__ void rates(const FusedItem& it, int64_t token, int s) const {
    const auto& d = sm.rates[s];
    const auto& sums = sm.sums[s];
    const int step = lane & 15;
    const int64_t H = args.in.heads, i = token + step * H;
    const float cs = d.cs[step], end = d.cs[kFusedSteps - 1], scale = d.scale[step];
    float dot_q = 0, dot_k = 0, col = 0, states = 0, trace = 0;
#pragma unroll
    for (int k = 0; k < 4; ++k) dot_q += sums.dot_q[k][step], dot_k += sums.dot_k[k][step], col += sums.col[k][step], states += sums.states[k], trace += sums.trace[k];
    dot_q *= d.grow[step], dot_k *= exp2_fast(end - cs);
    const float d_scale = col + dot_k, dcs = sums.row[step] + dot_q - scale * d_scale;
    const bool first_half = lane < 16;
    const float inter = warp_sum(first_half ? scale * dot_k : 0.f), upto = warp_scan(first_half ? dcs : 0.f);
    const float later = __shfl_sync(0xffffffffu, upto, 31) - upto + dcs + d.grow[kFusedSteps - 1] * states + inter;
    if (first_half && step < it.count) w.d_scale[i] = d_scale, w.d_gamma[i] = sums.same[step] + d_scale, args.d_a[i] = later;
    if (lane == 0) add_alone(w.D_parts + part * H + head(it), trace);
  }
};

}  // namespace weft::kernels::mamba3
