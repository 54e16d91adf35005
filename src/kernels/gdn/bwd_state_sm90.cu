// Gated delta rule backward, first pass: walks the chunks of a document of one value head backwards; two warpgroups hold dS^T [Dv, Dk], a third
// loads and makes P a chunk ahead.
//   du = P^T do + diag(e^{G_63 - G}) k dS      dR = T^T du      P, T as in the forward (P with the scale)
//   dS_before = e^{G_63} dS + q^T diag(scale e^G) do - k^T diag(beta e^G) dR
// Writes dS after each chunk and dR, all that the second pass needs. Floor at b8 s4096 Hv 32 d 128: 1.5e11 FLOP, 1.2 GB, 0.3 ms; two rounds of
// 64 chunks, by count 2,600 clocks each (2,300 of them wgmma): 0.19 ms.
#include "kernels/gdn/walk.cuh"

namespace weft::kernels::gdn {
namespace {

struct Smem {
  struct Keys {
    bf16 q[kL * kD], k[kL * kD];  // Panels<128>
  } keys[3];
  struct Stage {
    bf16 d_o[kL * kD];            // Panels<128>
    bf16 T[kL * kL], P[kL * kL];  // Panels<64>, zero right of the diagonal blocks
  } stage[2];
  bf16 state[kD * kD], out[kL * kOutStride];
  struct Factors {
    Decays decay;
    float of_q[kL], of_k[kL];  // scale e^G; -beta e^G
  } factors[2];
};

struct BwdAhead : Ahead<GdnBwd> {
  Smem& sm;
  __device__ __forceinline__ BwdAhead(const GdnBwd& args, const Place& place, Smem& smem) : Ahead(args, place), sm(smem) {}

  __device__ __forceinline__ void run() {
    if (at.chunks == 0) return;
    {
      const Member m;
      for (auto& stage : sm.stage) clear_right(Panels<kL>{stage.P}, m.warp, m.lane);
      load_keys(sm.keys[0].q, sm.keys[0].k, at.chunks - 1, m);
      cp_async_commit();
      fetch(at.chunks - 1, m);
    }
    for (int c = at.chunks - 1, keys = 0; c >= 0; --c) {
      const int next = keys == 2 ? 0 : keys + 1;
      chunk(c, sm.keys[keys], sm.keys[next]);
      keys = next;
    }
    cp_async_wait<0>();
  }

 private:
  __device__ __forceinline__ void chunk(int c, const Smem::Keys& keys, Smem::Keys& next) {
    const int s = c & 1;
    auto& stage = sm.stage[s];
    auto& factors = sm.factors[s];
    const Decays& d = factors.decay;
    if (c + 2 < at.chunks) group_barrier(kFree + s, kWalkThreads);
    {
      const Member m;
      load_values(stage.d_o, a.d_o, c, m);
      load_inverse<kGroup>(stage.T, a.inverses, at.slot(c), m.thread);
      cp_async_commit();
      if (c > 0) load_keys(next.q, next.k, c - 1, m);
      cp_async_commit();
      if (m.warp == 0) {
        set_decays(factors.decay, g[0], g[1], b[0], b[1]);
        __syncwarp();
        for (int i = m.lane; i < kL; i += 32) factors.of_q[i] = a.scale * d.grow[i], factors.of_k[i] = -d.beta[i] * d.grow[i];
      }
      fetch(c - 1, m);
    }
    cp_async_wait<2>();
    fence_async_proxy();
    group_barrier(kOwn, kGroup);
    weigh(d, Panels<kL>{stage.P}, k_major(keys.q), k_major(keys.k), a.scale, Member());
    cp_async_wait<1>();
    fence_async_proxy();
    group_arrive(kFull + s, kWalkThreads);
  }
};

struct BwdWalk : Walk<GdnBwd> {
  bf16 *const d_states, *const d_right;
  Smem& sm;
  __device__ __forceinline__ BwdWalk(const GdnBwd& args, const Place& place, bf16* states, bf16* right, Smem& smem) : Walk(args, place), d_states(states), d_right(right), sm(smem) {}

  __device__ __forceinline__ void run() {
    read(a.d_final_state);
    for (int c = at.chunks - 1, keys = 0; c >= 0; --c, keys = keys == 2 ? 0 : keys + 1) chunk(c, sm.keys[keys]);
    if (at.chunks > 0) {
      group_barrier(kOwn + group, kGroup);
      send(d_right, sm.out, 0);
    }
    write(a.d_initial_state);
    bulk_wait<0>();
  }

 private:
  __device__ __forceinline__ void chunk(int c, const Smem::Keys& keys) {
    const int s = c & 1;
    const auto& stage = sm.stage[s];
    const auto& factors = sm.factors[s];
    const Decays& d = factors.decay;
    const uint64_t k = k_major(keys.k);
    const Tile<kL> d_o{const_cast<bf16*>(stage.d_o) + half * (kL * kL)};
    if (thread == 0) bulk_wait<0>();  // the last chunk's dS has left its place
    group_barrier(kFull + s, kWalkThreads);
    if (c + 1 < at.chunks) send(d_right, sm.out, c + 1);
    float x[32];  // dS^T k^T, then du^T, then dR^T
    {
      uint32_t state[8][4];
      wgmma_wait<0>();  // nothing is open: it tells the compiler, which would wait before S is scaled below
      pack_state(state, S);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < 8; ++i) Wgmma<64>::run<false>(x, state[i], k + step(i), i > 0);
      wgmma_commit();
      save_state(sm.state, kD, state, p);
    }
    uint32_t first[4][4], operand[4][4];  // do^T; operand: du^T, then dR^T times -beta e^G
#pragma unroll
    for (int m = 0; m < 4; ++m) load_a_trans(first[m], d_o, warp * 16, m * 16);
    const float all = d.grow[kL - 1];
#pragma unroll
    for (int e = 0; e < 64; ++e) S[e] *= all;
    wgmma_wait<0>();
    wgmma_settle(x);
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float2 w = *reinterpret_cast<const float2*>(&d.w[n * 8 + r * 2]);
      x[4 * n] *= w.x, x[4 * n + 1] *= w.y, x[4 * n + 2] *= w.x, x[4 * n + 3] *= w.y;
    }
    wgmma_settle(x);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) Wgmma<64>::run<true>(x, first[i], mn_major(stage.P) + i * kStep16<true>, 1);
    wgmma_commit();
    uint32_t weighted[4][4];
#pragma unroll
    for (int m = 0; m < 4; ++m) load_a_trans(weighted[m], d_o, warp * 16, m * 16);
    weight(weighted, factors.of_q);
    wgmma_wait<0>();
    wgmma_settle(x);
    pack(operand, x);
    wgmma_settle(S);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) Wgmma<64>::run<true>(x, operand[i], mn_major(stage.T) + i * kStep16<true>, i > 0);
    wgmma_commit();
#pragma unroll
    for (int i = 0; i < 4; ++i) Wgmma<128>::run<true>(S, weighted[i], mn_major(keys.q) + i * kStep16<true>, 1);
    wgmma_commit();
    fence_async_proxy();
    group_barrier(kOwn + group, kGroup);  // dR of the last chunk has been sent, dS is whole
    send_state(d_states, sm.state, c);
    wgmma_wait<1>();
    wgmma_settle(x);
    pack(first, x);
    put(sm.out, first);
    weight(first, factors.of_k);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) Wgmma<128>::run<true>(S, first[i], mn_major(keys.k) + i * kStep16<true>, 1);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_settle(S);
    if (c >= 2) group_arrive(kFree + s, kWalkThreads);
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
};

__global__ void __launch_bounds__(kWalkThreads, 1) bwd_state_kernel(const GdnBwd a, bf16* d_states, bf16* d_right) {
  static_assert(sizeof(Smem) <= kSmemLimit);
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<Smem*>(raw);
  const Place at(a);
  if (threadIdx.x < kGroup) {
    fewer_registers<72>();
    BwdAhead(a, at, sm).run();
  } else {
    more_registers<216>();
    BwdWalk(a, at, d_states, d_right, sm).run();
  }
}

}  // namespace

void bwd_state(const GdnBwd& a, bf16* d_states, bf16* d_right, cudaStream_t stream) {
  launch_grid(bwd_state_kernel, dim3(static_cast<unsigned>(a.documents * a.value_heads)), dim3(kWalkThreads), sizeof(Smem), stream, a, d_states, d_right);
}

}  // namespace weft::kernels::gdn
