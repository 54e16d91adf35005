// Gated delta rule backward, second pass: each chunk of a key head on its own, its value heads in turn; rows i, columns j of a chunk.
//   R = diag(beta) (v - diag(e^G) k S)     u = T R     E = e^{G_i - G_j}     dA = -dR u^T
//   dQK = scale (do u^T) * E (j <= i)      dKK = diag(beta) dA * E (j < i)
//   dq = scale diag(e^G) do S^T + dQK k
//   dk = diag(e^{G_63 - G}) u dS^T - diag(beta e^G) dR S^T + dQK^T q + (dKK + dKK^T) k        dv = diag(beta) dR
//   d_beta = rows of dR * (v - diag(e^G) k S) + dA * (k k^T) * E
//   dG = rows of (dQK * q k^T + dKK * k k^T) - columns, + q * (part of dq through S) - k * (part of dk through dS) + k * (part through S)
//   dg = sums of dG from the end, with e^{G_63} dS * S + sum of k * (part of dk through dS) at the last token
// Two warpgroups: one a half of the columns of Dv, then of Dk; dQK is the first one's, dKK the second's.
// Floor at b8 s4096 Hv 32 d 128: 2.9e11 FLOP, 3.2 GB: 0.75 ms at 4.3 TB/s.
#include "kernels/common/state_group.cuh"
#include "kernels/gdn/tiles.cuh"

namespace weft::kernels::gdn {
namespace {

constexpr int kSides = 2, kWide = kSides * kGroup, kOwn = 1;  // kOwn: + side, a barrier of the warpgroup
constexpr int kStatePanel = 1024;                            // from 64 columns of a state to the next, in a descriptor's units

struct Smem {
  bf16 S[kD * kD], dS[kD * kD];                                        // S^T, dS^T: [Dk / 64][Dv][64], rows swizzled as in Panels
  bf16 q[kL * kD], k[kL * kD], v[kL * kD], d_o[kL * kD], dR[kL * kD];  // Panels<128>; R, then u, take the place of v
  bf16 T[kL * kL], dQK[kL * kL], dKK[kL * kL];                         // Panels<64>, zero right of the diagonal blocks
  Decays decay;
  float row[kSides][kL], beta[kSides + 1][kL];  // of dG and d_beta: sums along rows, by side; and of dA
  float through[3][kSides][kL];                 // q * dq through S, k * dk through dS, k * dk through S
  float column[kSides][4][kL];                  // along columns: by product and block of rows
  float ends[kWide / 32];
};

struct Work {
  const GdnBwd& a;
  Smem& sm;
  const int thread = static_cast<int>(threadIdx.x), side = thread >> 7, warp = thread >> 5 & 3, lane = thread & 31, q = lane >> 2, r = lane & 3, i0 = warp * 16 + q, i1 = i0 + 8,
            col0 = side * 64;

  static __device__ __forceinline__ void load_state(bf16* to, const bf16* from, int t) {
    const int row = t >> 4, col = (t & 15) * 8;
    bf16* place = to + (col >> 6) * (kD * 64) + row * 64 + ((((col >> 3) ^ row) & 7) << 3);
#pragma unroll
    for (int i = 0; i < kD; i += kWide / 16) cp_async16(place + i * 64, from + (row + i) * kD + col, true);
  }
  static constexpr uint64_t along(int k, int panel) { return (k >> 2) * panel + (k & 3) * kStep16<false>; }
  // x = A B^T over 128 columns of rows of both; B's 64 rows from its pointer, its panels apart as given.
  static __device__ __forceinline__ void dots(float (&x)[32], const bf16* rows, const bf16* columns, int panel = kPanelStep) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 8; ++k) Wgmma<64>::run<false, false>(x, k_major(rows) + along(k, kPanelStep), k_major(columns) + along(k, panel), k > 0);
    wgmma_commit();
  }
  // x = A S of a state's half: 128 columns of A.
  __device__ __forceinline__ void through(float (&x)[32], const bf16* rows, const bf16* state) const {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 8; ++k) Wgmma<64>::run<false, true>(x, k_major(rows) + along(k, kPanelStep), mn_major(state + side * (kD * 64)) + k * kStep16<true>, k > 0);
    wgmma_commit();
  }
  // x (+)= A B of a 64 x 64 matrix, or its transpose, and the side's half of the columns of B.
  template <bool kTrans>
  __device__ __forceinline__ void triangle(float (&x)[32], const bf16* matrix, const bf16* B, int keep) const {
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<64>::run<kTrans, true>(x, operand<kTrans>(matrix) + k * kStep16<kTrans>, mn_major(B + side * (kL * 64)) + k * kStep16<true>, keep || k > 0);
  }
  // x's rows times their factors; the sums of x * tile along rows into `sums`; added to `to`.
  __device__ __forceinline__ void add_rows(float (&to)[32], float (&x)[32], float low, float high, const bf16* tile, float* sums) const {
    const Panels<kD> t{const_cast<bf16*>(tile)};
    const int q = fresh(this->q), i0 = warp * 16 + q, i1 = i0 + 8;
    float s0 = 0, s1 = 0;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float2 u = unpack_bf16(*reinterpret_cast<const uint32_t*>(t.at(i0, col0 + n * 8 + r * 2))), v = unpack_bf16(*reinterpret_cast<const uint32_t*>(t.at(i1, col0 + n * 8 + r * 2)));
      const float x0 = low * x[4 * n], x1 = low * x[4 * n + 1], x2 = high * x[4 * n + 2], x3 = high * x[4 * n + 3];
      s0 += x0 * u.x + x1 * u.y, s1 += x2 * v.x + x3 * v.y;
      to[4 * n] += x0, to[4 * n + 1] += x1, to[4 * n + 2] += x2, to[4 * n + 3] += x3;
    }
    s0 = warp_sum<4>(s0), s1 = warp_sum<4>(s1);
    if (r == 0) sums[i0] = s0, sums[i1] = s1;
  }
  __device__ __forceinline__ void put_rows(const float (&x)[32], bf16* tile) const {
    const Panels<kD> t{tile};
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      *reinterpret_cast<uint32_t*>(t.at(i0, col0 + n * 8 + r * 2)) = pack_bf16(x[4 * n], x[4 * n + 1]);
      *reinterpret_cast<uint32_t*>(t.at(i1, col0 + n * 8 + r * 2)) = pack_bf16(x[4 * n + 2], x[4 * n + 3]);
    }
  }
  __device__ __forceinline__ void store_tile(bf16* tile, bf16* to, int64_t stride, int count) const {
    for (int u = thread; u < kL * kD / 8; u += kWide) {
      const int row = u >> 4, col = (u & 15) * 8;
      if (row < count) *reinterpret_cast<uint4*>(to + row * stride + col) = *reinterpret_cast<const uint4*>(Panels<kD>{tile}.unit(row, col));
    }
  }

  // R = diag(beta) (v - diag(e^G) k S) in the place of v, and its part of d_beta.
  __device__ __forceinline__ void make_right(const float (&x)[32]) const {
    const Panels<kD> V{sm.v}, R{sm.dR};
    const Decays& d = sm.decay;
    const float beta0 = d.beta[i0], beta1 = d.beta[i1], grow0 = d.grow[i0], grow1 = d.grow[i1];
    float s0 = 0, s1 = 0;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const int col = col0 + n * 8 + r * 2;
      uint32_t *low = reinterpret_cast<uint32_t*>(V.at(i0, col)), *high = reinterpret_cast<uint32_t*>(V.at(i1, col));
      const float2 v0 = unpack_bf16(*low), v1 = unpack_bf16(*high), d0 = unpack_bf16(*reinterpret_cast<const uint32_t*>(R.at(i0, col))), d1 = unpack_bf16(*reinterpret_cast<const uint32_t*>(R.at(i1, col)));
      const float t[4] = {v0.x - grow0 * x[4 * n], v0.y - grow0 * x[4 * n + 1], v1.x - grow1 * x[4 * n + 2], v1.y - grow1 * x[4 * n + 3]};
      s0 += d0.x * t[0] + d0.y * t[1], s1 += d1.x * t[2] + d1.y * t[3];
      *low = pack_bf16(beta0 * t[0], beta0 * t[1]), *high = pack_bf16(beta1 * t[2], beta1 * t[3]);
    }
    s0 = warp_sum<4>(s0), s1 = warp_sum<4>(s1);
    if (r == 0) sm.beta[side][i0] = s0, sm.beta[side][i1] = s1;
  }
  // dQK (side 0) or dKK (side 1) from x = do u^T or dR u^T and y = q k^T or k k^T, with the sums of dG and d_beta.
  __device__ __forceinline__ void make_triangle(const float (&x)[32], const float (&y)[32]) const {
    const bool keys = side == 1;
    const Decays& d = sm.decay;
    const Panels<kL> out{keys ? sm.dKK : sm.dQK};
    const float to[2] = {d.to[i0], d.to[i1]}, factor[2] = {keys ? -d.beta[i0] : a.scale, keys ? -d.beta[i1] : a.scale};
    float rows[2] = {}, gate[2] = {};
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const int j = n * 8 + r * 2;
      const float2 from = *reinterpret_cast<const float2*>(&d.to[j]);
      float down[2] = {};
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int i = i0 + 8 * h, e = 4 * n + 2 * h;
        const bool seen0 = keys ? j < i : j <= i, seen1 = keys ? j + 1 < i : j + 1 <= i;
        const float v0 = seen0 ? x[e] * exp2_fast(to[h] - from.x) : 0.f, v1 = seen1 ? x[e + 1] * exp2_fast(to[h] - from.y) : 0.f, d0 = factor[h] * v0, d1 = factor[h] * v1;
        rows[h] += d0 * y[e] + d1 * y[e + 1], gate[h] -= v0 * y[e] + v1 * y[e + 1];
        down[0] += d0 * y[e], down[1] += d1 * y[e + 1];
        if (n / 2 <= warp) *reinterpret_cast<uint32_t*>(out.at(i, j)) = pack_bf16(d0, d1);
      }
#pragma unroll
      for (int o = 4; o < 32; o <<= 1) down[0] += __shfl_xor_sync(0xffffffffu, down[0], o), down[1] += __shfl_xor_sync(0xffffffffu, down[1], o);
      if (q == 0) sm.column[side][warp][j] = down[0], sm.column[side][warp][j + 1] = down[1];
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) rows[h] = warp_sum<4>(rows[h]), gate[h] = warp_sum<4>(gate[h]);
    if (r == 0) {
      sm.row[side][i0] = rows[0], sm.row[side][i1] = rows[1];
      if (keys) sm.beta[kSides][i0] = gate[0], sm.beta[kSides][i1] = gate[1];
    }
  }
  __device__ __forceinline__ void end_sum() const {  // dS * S
    float s = 0;
#pragma unroll 2
    for (int u = thread; u < kD * kD / 8; u += kWide) {
      const uint4 v = reinterpret_cast<const uint4*>(sm.S)[u], g = reinterpret_cast<const uint4*>(sm.dS)[u];
      const uint32_t vs[4] = {v.x, v.y, v.z, v.w}, gs[4] = {g.x, g.y, g.z, g.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 x = unpack_bf16(vs[i]), y = unpack_bf16(gs[i]);
        s += x.x * y.x + x.y * y.y;
      }
    }
    s = warp_sum(s);
    if (lane == 0) sm.ends[thread >> 5] = s;
  }
  // dg by the first warp, d_beta by the second: two tokens a lane.
  __device__ __forceinline__ void store_gates(int64_t first, int count, int head) const {
    const int64_t gate = (first + 2 * lane) * a.value_heads + head;
    if (thread < 32) {
      float d[2], end = 0, later = 0;
      for (int w = 0; w < kWide / 32; ++w) end += sm.ends[w];
      end *= sm.decay.grow[kL - 1];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int i = 2 * lane + e;
        float through_dS = 0;
        d[e] = 0;
        for (int s = 0; s < kSides; ++s) through_dS += sm.through[1][s][i], d[e] += sm.row[s][i] + sm.through[0][s][i] + sm.through[2][s][i];
        d[e] -= through_dS;
        for (int w = 0; w < 4; ++w) d[e] -= sm.column[0][w][i] + sm.column[1][w][i];
        later += through_dS;
      }
      end += warp_sum(later);
      float after = d[0] + d[1];  // of this lane and those behind it
#pragma unroll
      for (int o = 1; o < 32; o <<= 1) {
        const float right = __shfl_down_sync(0xffffffffu, after, o);
        if (lane + o < 32) after += right;
      }
      if (2 * lane < count) a.dg[gate] = after + end;
      if (2 * lane + 1 < count) a.dg[gate + a.value_heads] = after - d[0] + end;
    } else if (thread < 64) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int i = 2 * lane + e;
        if (i < count) a.d_beta[gate + e * a.value_heads] = (sm.beta[0][i] + sm.beta[1][i]) + sm.beta[2][i];
      }
    }
  }
  __device__ __forceinline__ void store_dv(bf16* to, int64_t stride, int count) const {
    for (int u = thread; u < kL * kD / 8; u += kWide) {
      const int row = u >> 4, col = (u & 15) * 8;
      if (row >= count) continue;
      const uint4 w = *reinterpret_cast<const uint4*>(Panels<kD>{sm.dR}.unit(row, col));
      const float b = sm.decay.beta[row];
      const auto times = [b](uint32_t pair) {
        const float2 v = unpack_bf16(pair);
        return pack_bf16(b * v.x, b * v.y);
      };
      *reinterpret_cast<uint4*>(to + row * stride + col) = make_uint4(times(w.x), times(w.y), times(w.z), times(w.w));
    }
  }
};

__global__ void __launch_bounds__(kWide, 1) bwd_chunk_kernel(const GdnBwd a, const bf16* d_states, const bf16* d_right) {
  static_assert(sizeof(Smem) <= kSmemLimit);
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<Smem*>(raw);
  const int64_t slot = blockIdx.x / a.key_heads;
  const int key_head = static_cast<int>(blockIdx.x % a.key_heads), share = a.value_heads / a.key_heads;
  const ChunkPlace place = place_of_slot(a.cu_seqlens, a.documents, slot, kL);
  if (place.count == 0) return;
  const Work w{a, sm};
  const int64_t key_row = static_cast<int64_t>(a.key_heads) * kD, value_row = static_cast<int64_t>(a.value_heads) * kD, key_at = place.first * key_row + key_head * kD;
  const Decays& d = sm.decay;
  load_panels<kD, kWide>(sm.q, static_cast<const bf16*>(a.q) + key_at, key_row, place.count, w.thread);
  load_panels<kD, kWide>(sm.k, static_cast<const bf16*>(a.k) + key_at, key_row, place.count, w.thread);
  clear_right(Panels<kL>{w.side == 0 ? sm.dQK : sm.dKK}, w.warp, w.lane);
  float dq[32] = {}, dk[32] = {};
  for (int head = key_head * share; head < (key_head + 1) * share; ++head) {
    const int64_t value_at = place.first * value_row + head * kD, at = slot * a.value_heads + head;
    const int t = fresh(w.thread);
    __syncthreads();  // the last head's reads are over
    load_panels<kD, kWide>(sm.v, static_cast<const bf16*>(a.v) + value_at, value_row, place.count, t);
    load_panels<kD, kWide>(sm.dR, d_right + value_at, value_row, place.count, t);
    Work::load_state(sm.S, static_cast<const bf16*>(a.states) + at * (kD * kD), t);
    load_inverse<kWide>(sm.T, a.inverses, at, t);
    cp_async_commit();
    load_panels<kD, kWide>(sm.d_o, static_cast<const bf16*>(a.d_o) + value_at, value_row, place.count, t);
    Work::load_state(sm.dS, d_states + at * (kD * kD), t);
    cp_async_commit();
    if (w.thread < 32) {
      const int i = 2 * w.lane;
      const int64_t gate = (place.first + i) * a.value_heads + head;
      const bool in0 = i < place.count, in1 = i + 1 < place.count;
      set_decays(sm.decay, in0 ? a.g[gate] : 0.f, in1 ? a.g[gate + a.value_heads] : 0.f, in0 ? a.beta[gate] : 0.f, in1 ? a.beta[gate + a.value_heads] : 0.f);
    }
    cp_async_wait<1>();
    fence_async_proxy();
    __syncthreads();
    float x[32], y[32];
    Work::dots(x, sm.k, sm.S + w.side * (64 * 64), kStatePanel);  // k S, rows of S^T from 64 side
    wgmma_wait<0>();
    wgmma_settle(x);
    w.make_right(x);
    fence_async_proxy();
    group_barrier(kOwn + w.side, kGroup);
    wgmma_fence();
    w.triangle<false>(x, sm.T, sm.v, 0);  // u
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_settle(x);
    group_barrier(kOwn + w.side, kGroup);
    w.put_rows(x, sm.v);
    cp_async_wait<0>();
    fence_async_proxy();
    __syncthreads();
    float z[32];
    Work::dots(x, w.side == 0 ? sm.d_o : sm.dR, sm.v);
    Work::dots(y, w.side == 0 ? sm.q : sm.k, sm.k);
    w.through(z, sm.d_o, sm.S);
    wgmma_wait<1>();
    wgmma_settle(x), wgmma_settle(y);
    w.make_triangle(x, y);
    w.through(x, sm.v, sm.dS);
    wgmma_wait<1>();
    wgmma_settle(z);
    w.add_rows(dq, z, a.scale * d.grow[w.i0], a.scale * d.grow[w.i1], sm.q, sm.through[0][w.side]);
    w.through(z, sm.dR, sm.S);
    wgmma_wait<1>();
    wgmma_settle(x);
    w.add_rows(dk, x, d.w[w.i0], d.w[w.i1], sm.k, sm.through[1][w.side]);
    wgmma_wait<0>();
    wgmma_settle(z);
    w.add_rows(dk, z, -d.beta[w.i0] * d.grow[w.i0], -d.beta[w.i1] * d.grow[w.i1], sm.k, sm.through[2][w.side]);
    w.end_sum();
    fence_async_proxy();
    __syncthreads();  // dQK, dKK and the sums
    wgmma_settle(dq), wgmma_settle(dk);
    wgmma_fence();
    w.triangle<false>(dq, sm.dQK, sm.k, 1);
    w.triangle<true>(dk, sm.dQK, sm.q, 1);
    w.triangle<false>(dk, sm.dKK, sm.k, 1);
    w.triangle<true>(dk, sm.dKK, sm.k, 1);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_settle(dq), wgmma_settle(dk);
    w.store_gates(place.first, place.count, head);
    w.store_dv(static_cast<bf16*>(a.dv) + value_at, value_row, place.count);
  }
  __syncthreads();
  w.put_rows(dq, sm.q), w.put_rows(dk, sm.k);
  __syncthreads();
  w.store_tile(sm.q, static_cast<bf16*>(a.dq) + key_at, key_row, place.count);
  w.store_tile(sm.k, static_cast<bf16*>(a.dk) + key_at, key_row, place.count);
}

}  // namespace

void bwd_chunk(const GdnBwd& a, const bf16* d_states, const bf16* d_right, cudaStream_t stream) {
  if (a.documents == 0) return;
  launch_grid(bwd_chunk_kernel, dim3(static_cast<unsigned>(gdn_state_slots(a.tokens, a.documents) * a.key_heads)), dim3(kWide), sizeof(Smem), stream, a, d_states, d_right);
}

}  // namespace weft::kernels::gdn

namespace weft::kernels {

namespace {
int64_t state_elements(const GdnBwd& a) { return gdn_state_slots(a.tokens, a.documents) * a.value_heads * gdn::kD * gdn::kD; }
}  // namespace

Support supports_gdn_bwd_sm90(const GdnBwd& a, const Device& device) {
  return gdn::supports(a, {a.d_o, a.q, a.k, a.v, a.states, a.inverses, a.dq, a.dk, a.dv}, device);
}

size_t workspace_gdn_bwd_sm90(const GdnBwd& a) { return static_cast<size_t>(state_elements(a) + a.tokens * a.value_heads * gdn::kD) * sizeof(bf16); }

void gdn_bwd_sm90(const GdnBwd& a, const Launch& l) {
  auto* d_states = static_cast<bf16*>(l.workspace);
  bf16* d_right = d_states + state_elements(a);
  gdn::bwd_state(a, d_states, d_right, l.stream);
  gdn::bwd_chunk(a, d_states, d_right, l.stream);
}

}  // namespace weft::kernels
