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
    if (t == 0) {
      bulk_wait_whole();  // of the last additions: they may be to the same sums
      constexpr int kBias = 4 * kN, kMimo = 4 * kP;
      for (int m = 0; m < 2; ++m) bulk_add(w.bias_parts + ((part * 2 + m) * H + hd) * kBias, sm.d_bias[m], kBias * 4);
      for (int m = 0; m < 3; ++m)
        if (m != 1 || a.z) bulk_add(w.mimo_parts + ((part * 3 + m) * H + hd) * kMimo, sm.mimo[s][m], kMimo * 4);
      bulk_commit();
    }
    {
      const int step = t >> 3, unit = t & 7, at = raw_unit(step, unit);
      const int64_t to = (token + step * H) * kP + unit * 8;
      if (step < it.count) {
        *reinterpret_cast<uint4*>(static_cast<bf16*>(args.dx) + to) = *reinterpret_cast<const uint4*>(sm.raw[s].x + at);
        if (a.z) *reinterpret_cast<uint4*>(static_cast<bf16*>(args.dz) + to) = *reinterpret_cast<const uint4*>(sm.raw[s].z + at);
      }
    }
    const int stride = turn_stride(), angles = a.angles, step = t >> 3;
#pragma unroll 1
    for (int angle = (t & 7) * 4; angle < angles; angle += 32) {
      const float4 k = *reinterpret_cast<const float4*>(sm.d_theta[0] + step * stride + angle), q = *reinterpret_cast<const float4*>(sm.d_theta[1] + step * stride + angle);
      if (step < it.count) *reinterpret_cast<float4*>(w.d_theta + (token + step * H) * angles + angle) = {k.x + q.x, k.y + q.y, k.z + q.z, k.w + q.w};
    }
    if (warp == 1)
      for (int angle = lane; angle < angles; angle += 32)
        w.d_theta_sums[(static_cast<int64_t>(it.slot) * H + hd) * angles + angle] = sm.d_theta_sum[0][angle] + sm.d_theta_sum[1][angle];  // rows past the end hold zeros
    if (warp == 2) rates(it, token, s);
    if (t == 0) bulk_wait<0>();
  }

 private:
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
