// Gated delta rule backward, first pass: walks the chunks of a document of one value head backwards; two warpgroups hold dS^T [Dv, Dk], 64 rows of
// Dv each, as wgmma sums.
//   du = P^T do + diag(e^{G_63 - G}) k dS      dR = T^T du      P, T as in the forward (P with the scale)
//   dS_before = e^{G_63} dS + q^T diag(scale e^G) do - k^T diag(beta e^G) dR
// Writes dS after each chunk and dR, all that the second pass needs, by bulk copies: the fence that wgmma asks for would wait for a thread's own
// stores. Floor at b8 s4096 Hv 32 d 128: 1.5e11 FLOP, 1.2 GB, 0.3 ms; two rounds of 64 chunks, by count 2,000 clocks each: 0.15 ms.
#include "kernels/common/state_group.cuh"
#include "kernels/gdn/tiles.cuh"

namespace weft::kernels::gdn {
namespace {

constexpr int kOutStride = kD + 8;  // stores of eight neighbouring lanes meet no bank twice

struct Smem {
  struct Stage {
    bf16 q[kL * kD], k[kL * kD];  // Panels<128>
    bf16 d_o[kL * kD];            // Tile<128>
    bf16 T[kL * kL];              // Panels<64>
  } stage[2];
  bf16 P[kL * kL];                // Panels<64>, zero right of the diagonal blocks
  bf16 state[kD * kD], out[2][kL * kOutStride];
  struct Factors {
    Decays decay;
    float of_q[kL], of_k[kL];  // scale e^G; -beta e^G
  } factors[2];
};

struct Walk {
  const GdnBwd& a;
  bf16 *const d_states, *const d_right;
  Smem& sm;
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5, quarter = warp & 3, half = warp >> 2, q = lane >> 2, r = lane & 3,
            row = quarter * 16 + q,  // of P, and row + 8
            p = half * 64 + row;     // of Dv, and p + 8
  const int head = static_cast<int>(blockIdx.x) % a.value_heads, key_head = head / (a.value_heads / a.key_heads), document = static_cast<int>(blockIdx.x) / a.value_heads;
  const int start = a.cu_seqlens[document], length = a.cu_seqlens[document + 1] - start, chunks = (length + kL - 1) / kL;
  const int64_t key_row = static_cast<int64_t>(a.key_heads) * kD, value_row = static_cast<int64_t>(a.value_heads) * kD;
  float S[64];
  float g[2], b[2];  // of tokens 2 lane, 2 lane + 1 of the chunk to come, in warp 0

  __device__ __forceinline__ void run() {
    const int64_t state = (static_cast<int64_t>(document) * a.value_heads + head) * (kD * kD);
    each_pair(S, p, [&](float& left, float& right, int dv, int dk) {  // [Dk, Dv] in memory
      left = a.d_final_state ? a.d_final_state[state + dk * kD + dv] : 0.f;
      right = a.d_final_state ? a.d_final_state[state + (dk + 1) * kD + dv] : 0.f;
    });
    const Panels<kL> P{sm.P};
#pragma unroll
    for (int n = 0; n < 8; ++n)
      if (half == 0 && n > 2 * quarter + 1) *reinterpret_cast<uint32_t*>(P.at(row, n * 8 + r * 2)) = *reinterpret_cast<uint32_t*>(P.at(row + 8, n * 8 + r * 2)) = 0;
    load(chunks - 1), fetch(chunks - 1);
    for (int c = chunks - 1; c >= 0; --c) chunk(c);
    if (chunks > 0) {
      fence_async_proxy();
      __syncthreads();
      send(0), bulk_wait<0>();
    }
    if (a.d_initial_state)
      each_pair(S, p, [&](float left, float right, int dv, int dk) { a.d_initial_state[state + dk * kD + dv] = left, a.d_initial_state[state + (dk + 1) * kD + dv] = right; });
  }

 private:
  __device__ __forceinline__ int64_t slot(int c) const { return static_cast<int64_t>(start / kL + document + c) * a.value_heads + head; }
  __device__ __forceinline__ void load(int c) const {
    if (c >= 0) {
      auto& stage = sm.stage[c & 1];
      const int left = length - c * kL;
      const int64_t first = start + c * kL, key = first * key_row + key_head * kD;
      load_panels<kD, kThreads>(stage.k, static_cast<const bf16*>(a.k) + key, key_row, left, thread);
      load_panels<kD, kThreads>(stage.q, static_cast<const bf16*>(a.q) + key, key_row, left, thread);
      load_tile_async<kL, kD, kThreads>(Tile<kD>{stage.d_o}, static_cast<const bf16*>(a.d_o) + first * value_row + head * kD, value_row, left < kL ? left : kL);
      load_inverse<kThreads>(stage.T, a.inverses, slot(c), thread);
    }
    cp_async_commit();
  }
  __device__ __forceinline__ void fetch(int c) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int i = c * kL + 2 * lane + e;
      const bool ok = warp == 0 && c >= 0 && i < length;
      const int64_t at = static_cast<int64_t>(start + i) * a.value_heads + head;
      g[e] = ok ? a.g[at] : 0.f, b[e] = ok ? a.beta[at] : 0.f;
    }
  }

  __device__ __forceinline__ void chunk(int c) {
    const auto& stage = sm.stage[c & 1];
    auto& factors = sm.factors[c & 1];
    const Decays& d = factors.decay;
    if (warp == 0) {
      set_decays(factors.decay, g[0], g[1], b[0], b[1]);
      __syncwarp();
      for (int i = lane; i < kL; i += 32) factors.of_q[i] = a.scale * d.grow[i], factors.of_k[i] = -d.beta[i] * d.grow[i];
    }
    bulk_wait<0>();  // what the last chunk sent has left its place
    cp_async_wait<0>();
    fence_async_proxy();
    __syncthreads();
    load(c - 1);
    if (c + 1 < chunks) send(c + 1);

    float x[32];  // dS^T k^T, then du^T, then dR^T
    {
      float dots[32];
      uint32_t state[8][4];
      pack_state(state, S);
      save_state(sm.state, kD, state, p);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < 8; ++i) Wgmma<64>::run<false, false>(dots, k_major(stage.q) + step(i), k_major(stage.k) + step(i), i > 0);
#pragma unroll
      for (int i = 0; i < 8; ++i) Wgmma<64>::run<false>(x, state[i], k_major(stage.k) + step(i), i > 0);
      wgmma_commit();
      wgmma_wait<0>();
      wgmma_settle(dots), wgmma_settle(x);
      weigh(d, dots);
    }
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float2 w = *reinterpret_cast<const float2*>(&d.w[n * 8 + r * 2]);
      x[4 * n] *= w.x, x[4 * n + 1] *= w.y, x[4 * n + 2] *= w.x, x[4 * n + 3] *= w.y;
    }
    fence_async_proxy();
    __syncthreads();  // P
    if (quarter == 0 && lane == 0) send_state(slot(c));
    uint32_t d_o[4][4], operand[4][4];
#pragma unroll
    for (int k = 0; k < 4; ++k) load_a_trans(d_o[k], Tile<kD>{const_cast<bf16*>(stage.d_o)}, half * 64 + quarter * 16, k * 16);
    wgmma_settle(x);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<64>::run<true>(x, d_o[k], mn_major(sm.P) + k * kStep16<true>, 1);
    wgmma_commit();
    const float all = d.grow[kL - 1];
#pragma unroll
    for (int e = 0; e < 64; ++e) S[e] *= all;
    wgmma_wait<0>();
    wgmma_settle(x);
    pack(operand, x);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<64>::run<true>(x, operand[k], mn_major(stage.T) + k * kStep16<true>, k > 0);
    wgmma_commit();
    weight(d_o, factors.of_q);
    wgmma_wait<0>();
    wgmma_settle(x), wgmma_settle(S);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<128>::run<true>(S, d_o[k], mn_major(stage.q) + k * kStep16<true>, 1);
    wgmma_commit();
    uint32_t right[4][4];
    pack(right, x);
#pragma unroll
    for (int m = 0; m < 4; ++m)
      stmatrix_x4_trans(sm.out[c & 1] + (m * 16 + (lane & 7) + (lane >> 4) * 8) * kOutStride + half * 64 + quarter * 16 + (lane >> 3 & 1) * 8, right[m][0], right[m][1], right[m][2], right[m][3]);
    weight(right, factors.of_k);
    wgmma_wait<0>();
    wgmma_settle(S);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<128>::run<true>(S, right[k], mn_major(stage.k) + k * kStep16<true>, 1);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_settle(S);
    fetch(c - 1);
  }
  static constexpr uint64_t step(int k) { return (k >> 2) * kPanelStep + (k & 3) * kStep16<false>; }
  static __device__ __forceinline__ void pack(uint32_t (&to)[4][4], const float (&x)[32]) {
#pragma unroll
    for (int m = 0; m < 4; ++m)
#pragma unroll
      for (int e = 0; e < 4; ++e) to[m][e] = pack_bf16(x[8 * m + 2 * e], x[8 * m + 2 * e + 1]);
  }
  __device__ __forceinline__ void weight(uint32_t (&v)[4][4], const float* by) const {
#pragma unroll
    for (int m = 0; m < 4; ++m)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float2 x = unpack_bf16(v[m][e]), f = *reinterpret_cast<const float2*>(by + m * 16 + (e >> 1) * 8 + r * 2);
        v[m][e] = pack_bf16(x.x * f.x, x.y * f.y);
      }
  }
  // P; the first half of the warps takes the even blocks of 16 columns.
  __device__ __forceinline__ void weigh(const Decays& d, const float (&dots)[32]) const {
    const Panels<kL> P{sm.P};
    const float to[2] = {d.to[row], d.to[row + 8]};
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      if (n / 2 > quarter || (n / 2 & 1) != half) continue;
      const int j = n * 8 + r * 2;
      const float2 from = *reinterpret_cast<const float2*>(&d.to[j]);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int i = row + 8 * h, at = 4 * n + 2 * h;
        const float v0 = j <= i ? a.scale * dots[at] * exp2_fast(to[h] - from.x) : 0.f, v1 = j + 1 <= i ? a.scale * dots[at + 1] * exp2_fast(to[h] - from.y) : 0.f;
        *reinterpret_cast<uint32_t*>(P.at(i, j)) = pack_bf16(v0, v1);
      }
    }
  }
  // A half its 64 columns of dR, the tokens spread over its warps.
  __device__ __forceinline__ void send(int c) const {
    const int left = length - c * kL;
#pragma unroll
    for (int i = 4 * lane + quarter; i < kL; i += 128)
      if (i < left) bulk_store(d_right + (static_cast<int64_t>(start) + c * kL + i) * value_row + head * kD + half * 64, sm.out[c & 1] + i * kOutStride + half * 64, 128);
    bulk_commit();
  }
  __device__ __forceinline__ void send_state(int64_t at) const {
    bulk_store(d_states + at * (kD * kD) + half * 64 * kD, sm.state + half * 64 * kD, 64 * kD * 2);
    bulk_commit();
  }
};

__global__ void __launch_bounds__(kThreads, 1) bwd_state_kernel(const GdnBwd a, bf16* d_states, bf16* d_right) {
  static_assert(sizeof(Smem) <= kSmemLimit);
  WEFT_DYNAMIC_SMEM(raw);
  Walk{a, d_states, d_right, *reinterpret_cast<Smem*>(raw)}.run();
}

}  // namespace

void bwd_state(const GdnBwd& a, bf16* d_states, bf16* d_right, cudaStream_t stream) {
  launch_grid(bwd_state_kernel, dim3(static_cast<unsigned>(a.documents * a.value_heads)), dim3(kThreads), sizeof(Smem), stream, a, d_states, d_right);
}

}  // namespace weft::kernels::gdn
