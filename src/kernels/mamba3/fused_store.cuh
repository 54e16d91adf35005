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
    if (warp == 0) {
      if (lane == 0) {
        bulk_wait_whole();  // of the last additions: they may be to the same sums
        constexpr int kBias = 4 * kN, kMimo = 4 * kP;
        for (int m = 0; m < 2; ++m) bulk_add(w.bias_parts + ((part * 2 + m) * H + hd) * kBias, sm.d_bias[m], kBias * 4);
        for (int m = 0; m < 3; ++m)
          if (m != 1 || a.z) bulk_add(w.mimo_parts + ((part * 3 + m) * H + hd) * kMimo, sm.mimo[s][m], kMimo * 4);
        bulk_commit();
      }
      __syncwarp();
    }
    if (warp == 1)
      for (int angle = lane; angle < a.angles; angle += 32)
        w.d_theta_sums[(static_cast<int64_t>(it.slot) * H + hd) * a.angles + angle] = sm.d_theta_sum[0][angle] + sm.d_theta_sum[1][angle];  // rows past the end hold zeros
    if (warp == 2) rates(it, token, s);
    // All is read before the first of it is stored, whose address could be the same for all that the compiler knows.
    const int step = t >> 3, unit = t & 7, at = raw_unit(step, unit), stride = turn_stride(), angles = a.angles;
    const uint4 dx = *reinterpret_cast<const uint4*>(sm.raw[s].x + at), dz = *reinterpret_cast<const uint4*>(sm.raw[s].z + at);
    float4 k[2], q[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int from = step * stride + (unit * 4 + 32 * i < angles ? unit * 4 + 32 * i : 0);
      k[i] = *reinterpret_cast<const float4*>(sm.d_theta[0] + from), q[i] = *reinterpret_cast<const float4*>(sm.d_theta[1] + from);
    }
    if (step < it.count) {
      const int64_t to = token + step * H;
      *reinterpret_cast<uint4*>(static_cast<bf16*>(args.dx) + to * kP + unit * 8) = dx;
      if (a.z) *reinterpret_cast<uint4*>(static_cast<bf16*>(args.dz) + to * kP + unit * 8) = dz;
#pragma unroll
      for (int i = 0; i < 2; ++i)
        if (unit * 4 + 32 * i < angles)
          *reinterpret_cast<float4*>(w.d_theta + to * angles + unit * 4 + 32 * i) = {k[i].x + q[i].x, k[i].y + q[i].y, k[i].z + q[i].z, k[i].w + q[i].w};
    }
    // The mimo weights of the next item take these places.
    if (warp == 0) {
      if (lane == 0) bulk_wait<0>();
      __syncwarp();
    }
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
