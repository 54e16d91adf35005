// Gated delta rule forward in chunks of 64. One block walks one document of one value head; two warpgroups hold S^T [Dv, Dk], 64 rows of Dv each, as
// wgmma sums, and all products are transposed so that S^T, and then v', are operands from registers. G = inclusive sum of g:
//   A_ij = beta_i (k_i . k_j) e^{G_i - G_j} (j < i)      T = (I + A)^{-1}, fp32, by blocks of 16
//   v' = T diag(beta) (v - diag(e^G) k S)                o = scale (diag(e^G) q S + P v'),  P_ij = (q_i . k_j) e^{G_i - G_j} (j <= i)
//   S = e^{G_63} S + k^T diag(e^{G_63 - G}) v'
// o and the saved states leave by bulk copies: the fence that wgmma asks for would wait for a thread's own stores.
// Floor at b8 s4096 Hv 32 d 128: 1.6e11 FLOP (0.2 ms at 800 TFLOP/s); q, k, v, o 0.8 GB (0.2 ms at 4.3 TB/s). 256 blocks are two rounds of
// 132 processors: bound by the 2 x 64 chunks that follow one another, each a chain of four products, three barriers and the inverse, by count
// 1,700 and 4,000 clocks: 0.42 ms.
#include "kernels/common/state_group.cuh"
#include "kernels/gdn/tiles.cuh"

namespace weft::kernels {
namespace gdn {
namespace {

constexpr int kPitch = kL + 1, kBlockPitch = 17;
constexpr int kOStride = kD + 8;  // stores of eight neighbouring lanes meet no bank twice

struct Smem {
  bf16 q[2][kL * kD], k[2][kL * kD];  // Panels<128>
  bf16 v[2][kL * kD];                 // Tile<128>
  bf16 T[kL * kL], P[kL * kL];        // Panels<64>, zero right of the diagonal blocks
  bf16 state[kD * kD], o[2][kL * kOStride];
  float A[kL * kPitch];  // below the diagonal blocks the inverse's blocks come to lie transposed above them
  float diagonal[4][16 * kBlockPitch], product[3][16 * kBlockPitch];
  Decays decay[2];
};

// The inverse of I + A, A strictly lower: 16 x 16 blocks on the diagonal by substitution, then block diagonals downwards.
__device__ __forceinline__ void invert(Smem& sm) {
  const int t = threadIdx.x, warp = warp_id(), lane = lane_id();
  if (warp < 4 && lane < 16) {
    const int b = warp * 16;
    float x[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      float s = i == lane ? 1.f : 0.f;
#pragma unroll
      for (int k = 0; k < i; ++k) s -= sm.A[(b + i) * kPitch + b + k] * x[k];
      x[i] = s;
      sm.diagonal[warp][i * kBlockPitch + lane] = s;
    }
  }
  __syncthreads();
  const int r = t >> 4, c = t & 15;
  for (int d = 1; d < 4; ++d) {
    for (int I = d; I < 4; ++I) {
      const int J = I - d;
      float s = 0;
#pragma unroll
      for (int k = 0; k < 16; ++k) s += sm.A[(I * 16 + r) * kPitch + J * 16 + k] * sm.diagonal[J][k * kBlockPitch + c];
      for (int k = J * 16 + 16; k < I * 16; ++k) s += sm.A[(I * 16 + r) * kPitch + k] * sm.A[(J * 16 + c) * kPitch + k];
      sm.product[I - d][r * kBlockPitch + c] = s;
    }
    __syncthreads();
    for (int I = d; I < 4; ++I) {
      float s = 0;
#pragma unroll
      for (int k = 0; k < 16; ++k) s -= sm.diagonal[I][r * kBlockPitch + k] * sm.product[I - d][k * kBlockPitch + c];
      sm.A[((I - d) * 16 + c) * kPitch + I * 16 + r] = s;
    }
    __syncthreads();
  }
  const Panels<kL> T{sm.T};
  for (int i = t; i < kL * kL / 2; i += kThreads) {
    const int row = i >> 5, col = (i & 31) * 2;
    if (col >> 4 > row >> 4) continue;
    const bool within = col >> 4 == row >> 4;
    const float* from = within ? sm.diagonal[row >> 4] + (row & 15) * kBlockPitch + (col & 15) : sm.A + col * kPitch + row;
    *reinterpret_cast<uint32_t*>(T.at(row, col)) = pack_bf16(from[0], from[within ? 1 : kPitch]);
  }
}

struct Walk {
  const GdnFwd& a;
  Smem& sm;
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5, quarter = warp & 3, half = warp >> 2, q = lane >> 2, r = lane & 3,
            row = quarter * 16 + q,                // of A and P, and row + 8
            p = half * 64 + row;                   // of Dv, and p + 8
  const int head = static_cast<int>(blockIdx.x) % a.value_heads, key_head = head / (a.value_heads / a.key_heads), document = static_cast<int>(blockIdx.x) / a.value_heads;
  const int start = a.cu_seqlens[document], length = a.cu_seqlens[document + 1] - start, chunks = (length + kL - 1) / kL;
  const int64_t key_row = static_cast<int64_t>(a.key_heads) * kD, value_row = static_cast<int64_t>(a.value_heads) * kD;
  float S[64];
  float g[2], b[2];  // of tokens 2 lane, 2 lane + 1 of the chunk to come, in warp 0

  __device__ __forceinline__ void run() {
    const int64_t state = (static_cast<int64_t>(document) * a.value_heads + head) * (kD * kD);
    each_pair(S, p, [&](float& left, float& right, int dv, int dk) {  // [Dk, Dv] in memory
      left = a.initial_state ? a.initial_state[state + dk * kD + dv] : 0.f;
      right = a.initial_state ? a.initial_state[state + (dk + 1) * kD + dv] : 0.f;
    });
    const Panels<kL> zero{half ? sm.P : sm.T};
#pragma unroll
    for (int n = 0; n < 8; ++n)
      if (n > 2 * quarter + 1) *reinterpret_cast<uint32_t*>(zero.at(row, n * 8 + r * 2)) = *reinterpret_cast<uint32_t*>(zero.at(row + 8, n * 8 + r * 2)) = 0;
    load(0), fetch(0);
    for (int c = 0; c < chunks; ++c) chunk(c);
    if (chunks > 0) {
      fence_async_proxy();
      __syncthreads();
      send(chunks - 1), bulk_wait<0>();
    }
    if (a.final_state) each_pair(S, p, [&](float left, float right, int dv, int dk) { a.final_state[state + dk * kD + dv] = left, a.final_state[state + (dk + 1) * kD + dv] = right; });
  }

 private:
  __device__ __forceinline__ void load(int c) const {
    if (c < chunks) {
      const int s = c & 1, left = length - c * kL;
      const int64_t first = start + c * kL, key = first * key_row + key_head * kD;
      load_panels<kD, kThreads>(sm.k[s], static_cast<const bf16*>(a.k) + key, key_row, left, thread);
      load_panels<kD, kThreads>(sm.q[s], static_cast<const bf16*>(a.q) + key, key_row, left, thread);
      load_tile_async<kL, kD, kThreads>(Tile<kD>{sm.v[s]}, static_cast<const bf16*>(a.v) + first * value_row + head * kD, value_row, left < kL ? left : kL);
    }
    cp_async_commit();
  }
  __device__ __forceinline__ void fetch(int c) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int i = c * kL + 2 * lane + e;
      const bool ok = warp == 0 && i < length;
      const int64_t at = static_cast<int64_t>(start + i) * a.value_heads + head;
      g[e] = ok ? a.g[at] : 0.f, b[e] = ok ? a.beta[at] : 0.f;
    }
  }

  __device__ __forceinline__ void chunk(int c) {
    const int s = c & 1;
    const bf16 *k = sm.k[s], *qs = sm.q[s];
    Decays& d = sm.decay[s];
    const int64_t slot = (static_cast<int64_t>(start / kL + document + c)) * a.value_heads + head;
    if (warp == 0) set_decays(d, g[0], g[1], b[0], b[1]);
    bulk_wait<0>();  // what the last chunk sent has left its place
    cp_async_wait<0>();
    fence_async_proxy();
    __syncthreads();
    load(c + 1);
    if (c > 0) send(c - 1);

    float x[32], y[32];  // S^T k^T, S^T q^T
    {
      float dots[32];  // k k^T or q k^T
      uint32_t state[8][4];
      pack_state(state, S);
      if (a.states) save_state(sm.state, kD, state, p);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < 8; ++i) Wgmma<64>::run<false, false>(dots, k_major(half ? qs : k) + step(i), k_major(k) + step(i), i > 0);
#pragma unroll
      for (int i = 0; i < 8; ++i) Wgmma<64>::run<false>(x, state[i], k_major(k) + step(i), i > 0);
#pragma unroll
      for (int i = 0; i < 8; ++i) Wgmma<64>::run<false>(y, state[i], k_major(qs) + step(i), i > 0);
      wgmma_commit();
      wgmma_wait<0>();
      wgmma_settle(dots), wgmma_settle(x), wgmma_settle(y);
      weigh(d, dots);
    }
    fence_async_proxy();
    __syncthreads();
    if (a.states && quarter == 0 && lane == 0) send_state(slot);
    invert(sm);
    fence_async_proxy();
    // beta (v - e^G k S) where the sums are.
    uint32_t right[4][4];
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      uint32_t v[4];
      load_a_trans(v, Tile<kD>{sm.v[s]}, half * 64 + quarter * 16, m * 16);
#pragma unroll
      for (int e = 0; e < 4; ++e) {  // word e: columns 8 (2 m + e / 2).., rows q (e even) or q + 8
        const int j = m * 16 + (e >> 1) * 8 + r * 2, at = 8 * m + (e >> 1) * 4 + (e & 1) * 2;
        const float2 f = unpack_bf16(v[e]), beta = *reinterpret_cast<const float2*>(&d.beta[j]), grow = *reinterpret_cast<const float2*>(&d.grow[j]);
        right[m][e] = pack_bf16(beta.x * (f.x - grow.x * x[at]), beta.y * (f.y - grow.y * x[at + 1]));
      }
    }
    __syncthreads();  // T
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) Wgmma<64>::run<false>(x, right[i], k_major(sm.T) + i * kStep16<false>, i > 0);
    wgmma_commit();
    const float all = d.grow[kL - 1];
#pragma unroll
    for (int e = 0; e < 64; ++e) S[e] *= all;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float2 grow = *reinterpret_cast<const float2*>(&d.grow[n * 8 + r * 2]);
      y[4 * n] *= grow.x, y[4 * n + 1] *= grow.y, y[4 * n + 2] *= grow.x, y[4 * n + 3] *= grow.y;
    }
    wgmma_wait<0>();
    wgmma_settle(x);
    uint32_t v[4][4], weighted[4][4];  // v'^T; times e^{G_63 - G}
#pragma unroll
    for (int m = 0; m < 4; ++m)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int at = 8 * m + 2 * e;
        const float2 w = *reinterpret_cast<const float2*>(&d.w[m * 16 + (e >> 1) * 8 + r * 2]);
        v[m][e] = pack_bf16(x[at], x[at + 1]), weighted[m][e] = pack_bf16(x[at] * w.x, x[at + 1] * w.y);
      }
    wgmma_settle(y), wgmma_settle(S);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) Wgmma<64>::run<false>(y, v[i], k_major(sm.P) + i * kStep16<false>, 1);
    wgmma_commit();
#pragma unroll
    for (int i = 0; i < 4; ++i) Wgmma<128>::run<true>(S, weighted[i], mn_major(k) + i * kStep16<true>, 1);
    wgmma_commit();
    wgmma_wait<1>();
    wgmma_settle(y);
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
      const float f = a.scale;
      stmatrix_x4_trans(sm.o[s] + (n * 8 + (lane & 7) + (lane >> 4) * 8) * kOStride + half * 64 + quarter * 16 + (lane >> 3 & 1) * 8, pack_bf16(f * y[4 * n], f * y[4 * n + 1]),
                        pack_bf16(f * y[4 * n + 2], f * y[4 * n + 3]), pack_bf16(f * y[4 * n + 4], f * y[4 * n + 5]), pack_bf16(f * y[4 * n + 6], f * y[4 * n + 7]));
    }
    wgmma_wait<0>();
    wgmma_settle(S);
    if (a.inverses) keep(static_cast<bf16*>(a.inverses) + slot * (kL * kL));
    fetch(c + 1);
  }
  static constexpr uint64_t step(int k) { return (k >> 2) * kPanelStep + (k & 3) * kStep16<false>; }

  // The first half: A; the other: P.
  __device__ __forceinline__ void weigh(const Decays& d, const float (&dots)[32]) const {
    const Panels<kL> P{sm.P};
    const float to[2] = {d.to[row], d.to[row + 8]}, beta[2] = {d.beta[row], d.beta[row + 8]};
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      if (n / 2 > quarter) break;
      const int j = n * 8 + r * 2;
      const float2 from = *reinterpret_cast<const float2*>(&d.to[j]);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int i = row + 8 * h, at = 4 * n + 2 * h;
        const bool left = j < i || (j == i && half), next = j + 1 < i || (j + 1 == i && half);
        const float v0 = left ? dots[at] * exp2_fast(to[h] - from.x) : 0.f, v1 = next ? dots[at + 1] * exp2_fast(to[h] - from.y) : 0.f;
        if (half == 0)
          sm.A[i * kPitch + j] = beta[h] * v0, sm.A[i * kPitch + j + 1] = beta[h] * v1;
        else
          *reinterpret_cast<uint32_t*>(P.at(i, j)) = pack_bf16(v0, v1);
      }
    }
  }
  // A half its 64 columns of o, the tokens spread over its warps.
  __device__ __forceinline__ void send(int c) const {
    const int left = length - c * kL;
#pragma unroll
    for (int i = 4 * lane + quarter; i < kL; i += 128)
      if (i < left) bulk_store(static_cast<bf16*>(a.o) + (static_cast<int64_t>(start) + c * kL + i) * value_row + head * kD + half * 64, sm.o[c & 1] + i * kOStride + half * 64, 128);
    bulk_commit();
  }
  __device__ __forceinline__ void send_state(int64_t slot) const {
    bulk_store(static_cast<bf16*>(a.states) + slot * (kD * kD) + half * 64 * kD, sm.state + half * 64 * kD, 64 * kD * 2);
    bulk_commit();
  }
  __device__ __forceinline__ void keep(bf16* to) const {
#pragma unroll
    for (int i = thread; i < kL * kL / 8; i += kThreads)
      *reinterpret_cast<uint4*>(to + i * 8) = *reinterpret_cast<const uint4*>(Panels<kL>{sm.T}.unit(i >> 3, (i & 7) * 8));
  }
};

__global__ void __launch_bounds__(kThreads, 1) fwd_kernel(const GdnFwd a) {
  static_assert(sizeof(Smem) <= kSmemLimit);
  WEFT_DYNAMIC_SMEM(raw);
  Walk{a, *reinterpret_cast<Smem*>(raw)}.run();
}

}  // namespace
}  // namespace gdn

Support supports_gdn_fwd_sm90(const GdnFwd& a, const Device& device) {
  if ((a.states == nullptr) != (a.inverses == nullptr)) return {"states without inverses, or the other way round"};
  return gdn::supports(a, {a.q, a.k, a.v, a.o, a.states, a.inverses}, device);
}

void gdn_fwd_sm90(const GdnFwd& a, const Launch& l) {
  launch_grid(gdn::fwd_kernel, dim3(static_cast<unsigned>(a.documents * a.value_heads)), dim3(gdn::kThreads), sizeof(gdn::Smem), l.stream, a);
}

}  // namespace weft::kernels
