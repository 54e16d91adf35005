// The products of the chunk pass at rank 4: the weights M, W from q k^T and dY v^T, and from them dq, dk.
#pragma once
#include "kernels/mamba3/fused.cuh"

namespace weft::kernels::mamba3 {

struct FusedWeights : Fused {
  // M = f (q k^T) + D on the diagonal, W = f (dY v^T), and the sums of L G (q k^T).
  __device__ __forceinline__ void weigh(const FusedItem& it, int s) const {
    const auto& stage = sm.stage[s];
    float qk[32], g[32];
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const uint64_t at = (k >> 2) * kPanelStep + (k & 3) * kStep16<false>;
      Wgmma<64>::run<false, false>(qk, k_major(stage.q) + at, k_major(stage.k) + at, k > 0);
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<64>::run<false, false>(g, k_major(stage.dY) + k * kStep16<false>, k_major(stage.v) + k * kStep16<false>, k > 0);
    wgmma_commit();
    const float D = args.in.D ? __ldg(args.in.D + head(it)) : 0.f;
    wgmma_wait<0>();
    wgmma_settle(qk), wgmma_settle(g);

    const auto& rates = sm.rates[s];
    auto& sums = sm.sums[s];
    const int own = 4 * warp + (q >> 1), line = lane & 7, place = (16 * warp + (lane >> 3 & 1) * 8 + line) * 64, swizzle = (lane >> 4) ^ line;
    const float cs = rates.cs[own];
    float rows = 0, same = 0, trace = 0, cols[4] = {};
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      if (b > warp) break;
      const int there = 4 * b + r;
      const float scale = rates.scale[there], pass = exp2_fast(cs - rates.cs[there]);
      float product = 0, part, f = pass * scale;
#pragma unroll
      for (int e = 0; e < 8; ++e) product += g[8 * b + e] * qk[8 * b + e];
      part = pass * product;
      if (b == warp) {  // gamma within a step, 0 on the other side
        if (there == own) same = product;
        if (there >= own) part = 0, f = there == own ? rates.gamma[own] : 0.f;
      }
      rows += part * scale, cols[b] = part;
      uint32_t m[4], ww[4];
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int e = 8 * b + 4 * half + 2 * h;
          float left = f * qk[e], right = f * qk[e + 1];
          if (b == warp && h == half && q >> 1 == r) {
            if (q & 1) right += D, trace += g[e + 1]; else left += D, trace += g[e];
          }
          m[2 * half + h] = pack_bf16(left, right), ww[2 * half + h] = pack_bf16(f * g[e], f * g[e + 1]);
        }
      const int at = place + ((swizzle ^ 2 * b) & 7) * 8;
      stmatrix_x4(sm.M + at, m[0], m[1], m[2], m[3]), stmatrix_x4(sm.W + at, ww[0], ww[1], ww[2], ww[3]);
    }
    fence_async_proxy();
    rows = warp_sum<8>(rows), same = warp_sum<8>(same), trace = warp_sum(trace);
    const float col = sum_blocks(cols, lane);
    if (line == 0) sums.row[own] = rows, sums.same[own] = same;
    if (!(lane & 4)) sums.col[warp][4 * block_of(lane) + r] = col;
    if (lane == 0) sums.trace[warp] = trace;
  }

  // <dS, S>: the diagonal of S dS^T, a warp its 16 rows.
  __device__ __forceinline__ void dot_states(int s) const {
    auto& stage = sm.stage[s];
    float low[4] = {}, high[4] = {};
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      uint32_t a[4], b[4];
      load_a(a, Tile<64>{stage.S + (k >> 2) * 4096}, 16 * warp, (k & 3) * 16);
      load_b(b, Tile<64>{stage.dS + (k >> 2) * 4096}, 16 * warp, (k & 3) * 16);
      mma_bf16(low, a, b[0], b[1]), mma_bf16(high, a, b[2], b[3]);
    }
    const float sum = warp_sum(q >> 1 == r ? (q & 1 ? low[1] + high[3] : low[0] + high[2]) : 0.f);
    if (lane == 0) sm.sums[s].states[warp] = sum;
  }

  // One panel of dk^T = dS^T v^T diag(w) + q^T W, turned back; its sums over steps and heads.
  __device__ __forceinline__ void keys(const FusedItem& it, int s, int third, int panel, float (&sum)[32]) const {
    const auto& stage = sm.stage[s];
    float acc[32];
    through_thin(acc, stage.dS + panel * 4096, stage.v);
    wgmma_wait<0>();
    scale(acc, sm.rates[s].w);
    times_weights<true>(acc, stage.q + panel * 4096);
    wgmma_wait<0>();
    finish(it, 0, acc, stage.k + panel * 4096, third, panel, sum);
  }
  // Both panels of dq^T = S^T dY^T diag(e^{cs}) + k^T W^T: the products of one run beside the sums of the other.
  __device__ __forceinline__ void queries(const FusedItem& it, int s, int third, float (&sum)[2][32]) const {
    const auto& stage = sm.stage[s];
    float left[32], right[32];
    through_thin(left, stage.S, stage.dY);
    through_thin(right, stage.S + 4096, stage.dY);
    wgmma_wait<1>();
    scale(left, sm.rates[s].grow);
    times_weights<false>(left, stage.k);
    wgmma_wait<1>();
    scale(right, sm.rates[s].grow);
    times_weights<false>(right, stage.k + 4096);
    wgmma_wait<0>();
    finish(it, 1, left, stage.q, third, 0, sum[0]);
    finish(it, 1, right, stage.q + 4096, third, 1, sum[1]);
  }

 private:
  // Begun, not waited for, as what follows.
  static __device__ __forceinline__ void through_thin(float (&acc)[32], const bf16* state, const bf16* thin) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<64>::run<true, false>(acc, mn_major(state) + k * kStep16<true>, k_major(thin) + k * kStep16<false>, k > 0);
    wgmma_commit();
  }
  __device__ __forceinline__ void scale(float (&acc)[32], const float* factors) const {
    wgmma_settle(acc);
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      const float factor = factors[4 * b + r];
#pragma unroll
      for (int e = 0; e < 8; ++e) acc[8 * b + e] *= factor;
    }
  }
  // acc += other^T W, or with W^T.
  template <bool keys>
  __device__ __forceinline__ void times_weights(float (&acc)[32], const bf16* other) const {
    wgmma_settle(acc);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<64>::run<true, keys>(acc, mn_major(other) + k * kStep16<true>, operand<keys>(sm.W) + k * kStep16<keys>, 1);
    wgmma_commit();
  }
  // side: 0 of keys, 1 of queries
  __device__ __forceinline__ void finish(const FusedItem& it, int side, float (&acc)[32], const bf16* own, int third, int panel, float (&sum)[32]) const {
    wgmma_settle(acc);
    const int first = fresh(Columns::first(panel, warp));
    turn_back(acc, own, first * 8 + q, sm.turn[third], side, 8 * first < args.in.angles);
    add_bias(acc, sm.d_bias[side], first * 8 + q);
#pragma unroll
    for (int e = 0; e < 32; ++e) sum[e] += acc[e];
    if (it.h + 1 == heads) store(it, side, first * 8 + q, sum);
  }
  // d theta = u x du' of each pair of columns, summed over ranks; then the pairs turned back.
  __device__ __forceinline__ void turn_back(float (&acc)[32], const bf16* own, int angle, const __half2* turn, int side, bool turns) const {
    if (!turns) return;   // the warp's columns do not
    wgmma_settle(acc);  // without it the compiler serializes the products (C7511)
    const bool used = angle < args.in.angles;
    const int stride = turn_stride();
    float* d_theta = sm.d_theta[side];
    float all = 0;
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      const int at = (4 * b + r) * stride + angle;
      uint32_t words[4];
      turned_words(words, own, b);
      const float2 cs = used ? __half22float2(turn[at]) : float2{1, 0};
      float sum = 0;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 u = unpack_bf16(words[2 * half]), v = unpack_bf16(words[2 * half + 1]);
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float &du = acc[8 * b + 4 * half + e], &dv = acc[8 * b + 4 * half + 2 + e];
          sum += (e ? u.y : u.x) * dv - (e ? v.y : v.x) * du;
          const float x = du * cs.x + dv * cs.y;
          dv = dv * cs.x - du * cs.y, du = x;
        }
      }
      if (used) d_theta[at] = sum;
      all += sum;
    }
    all = warp_sum<4>(all);
    if (used && r == 0) sm.d_theta_sum[side][angle] = all;
  }
  // Sums over steps: eight of column `col` and col + 64, by rank; the quad's lanes are left with two each.
  __device__ __forceinline__ void add_bias(const float (&acc)[32], float* d_bias, int col) const {
    float v[4][2];  // [rank][half]
#pragma unroll
    for (int rank = 0; rank < 4; ++rank)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int e = 4 * (rank >> 1) + 2 * h + (rank & 1);
        v[rank][h] = (acc[e] + acc[8 + e]) + (acc[16 + e] + acc[24 + e]);
      }
    const bool odd = r & 1, high = r & 2;
    float one[4];
#pragma unroll
    for (int rank = 0; rank < 4; ++rank) one[rank] = (odd ? v[rank][1] : v[rank][0]) + __shfl_xor_sync(0xffffffffu, odd ? v[rank][0] : v[rank][1], 1);
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const float all = (high ? one[2 + k] : one[k]) + __shfl_xor_sync(0xffffffffu, high ? one[k] : one[2 + k], 2);
      d_bias[((high ? 2 : 0) + k) * kN + col + (odd ? 64 : 0)] = all;
    }
  }
  __device__ __forceinline__ void store(const FusedItem& it, int side, int col, float (&sum)[32]) const {
    const Mamba3Inputs& a = args.in;
    bf16* to = static_cast<bf16*>(side ? args.dC : args.dB) + (static_cast<int64_t>(it.first) * 4 * a.groups + piece.group0 + group) * kN + col;
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      const int step = 4 * b + r;
#pragma unroll
      for (int rank = 0; rank < 4; ++rank)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float& v = sum[8 * b + 4 * (rank >> 1) + 2 * h + (rank & 1)];
          if (step < it.count) to[(static_cast<int64_t>(step) * 4 + rank) * a.groups * kN + 64 * h] = __float2bfloat16(v);
          v = 0;
        }
    }
  }
};

}  // namespace weft::kernels::mamba3
