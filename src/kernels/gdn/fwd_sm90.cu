// Gated delta rule forward in chunks of 64. All products of the walk are transposed so that S^T, and then v', are operands from registers; what does
// not depend on the state, T and P, is made a chunk ahead by a warpgroup of its own, which takes the longest. G = inclusive sum of g:
//   A_ij = beta_i (k_i . k_j) e^{G_i - G_j} (j < i)      T = (I + A)^{-1}, see inverse.cuh
//   v' = T diag(beta) (v - diag(e^G) k S)                o = scale (diag(e^G) q S + P v'),  P_ij = (q_i . k_j) e^{G_i - G_j} (j <= i)
//   S = e^{G_63} S + k^T diag(e^{G_63 - G}) v'
// Floor at b8 s4096 Hv 32 d 128: 1.6e11 FLOP (0.2 ms at 800 TFLOP/s); q, k, v, o 0.8 GB (0.2 ms at 4.3 TB/s). 256 blocks are two rounds of
// 132 processors: 2 x 64 chunks that follow one another, by count 3,000 clocks each (2,560 of them wgmma): 0.22 ms.
#include "kernels/gdn/inverse.cuh"
#include "kernels/gdn/walk.cuh"

namespace weft::kernels {
namespace gdn {
namespace {

struct Smem {
  struct Keys {
    bf16 q[kL * kD], k[kL * kD];  // Panels<128>
  } keys[3];
  struct Stage {
    bf16 v[kL * kD];              // Panels<128>
    bf16 T[kL * kL], P[kL * kL];  // Panels<64>, zero right of the diagonal blocks
  } stage[2];
  bf16 state[kD * kD], o[kL * kOutStride];
  Inverse inverse;
  Decays decay[2];
};

struct FwdAhead : Ahead<GdnFwd> {
  Smem& sm;
  __device__ __forceinline__ FwdAhead(const GdnFwd& args, const Place& place, Smem& smem) : Ahead(args, place), sm(smem) {}

  __device__ __forceinline__ void run() {
    if (at.chunks == 0) return;
    {
      const Member m;
      for (auto& stage : sm.stage) clear_right(Panels<kL>{stage.T}, m.warp, m.lane), clear_right(Panels<kL>{stage.P}, m.warp, m.lane);
      load_keys(sm.keys[0].q, sm.keys[0].k, 0, m);
      cp_async_commit();
      fetch(0, m);
    }
    for (int c = 0, keys = 0; c < at.chunks; ++c) {
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
    Decays& d = sm.decay[s];
    if (c >= 2) group_barrier(kFree + s, kWalkThreads);
    {
      const Member m;
      if (c + 1 < at.chunks) load_keys(next.q, next.k, c + 1, m);
      cp_async_commit();
      if (m.warp == 0) set_decays(d, g[0], g[1], b[0], b[1]);
      fetch(c + 1, m);
    }
    cp_async_wait<1>();
    fence_async_proxy();
    group_barrier(kOwn, kGroup);
    weigh(d, Panels<kL>{stage.P}, k_major(keys.q), k_major(keys.k), 1.f, Member());
    put_A(d, k_major(keys.k), Member());
    {
      const Member m;
      sm.inverse.invert(Panels<kL>{stage.T}, m.warp, m.lane, kOwn);
    }
    fence_async_proxy();
    group_arrive(kFull + s, kWalkThreads);
  }
  __device__ __forceinline__ void put_A(const Decays& d, uint64_t k, const Member& m) const {
    float kk[32];
    dots(kk, k, k);
    const float beta[2] = {d.beta[m.row], d.beta[m.row + 8]};
#pragma unroll
    for (int block = 0; block < 4; ++block) {
      if (block > m.warp) break;
      float A[2][4];
      each_factor(d, block, m, [&](int n, int h, int i, int j, float f0, float f1) {
        const int e = 8 * block + 4 * n + 2 * h;
        A[n][2 * h] = j < i ? beta[h] * kk[e] * f0 : 0.f, A[n][2 * h + 1] = j + 1 < i ? beta[h] * kk[e + 1] * f1 : 0.f;
      });
      sm.inverse.put_block(A, block, m.warp, m.lane);
    }
  }
};

template <bool kSave>
struct FwdWalk : Walk<GdnFwd> {
  Smem& sm;
  __device__ __forceinline__ FwdWalk(const GdnFwd& args, const Place& place, Smem& smem) : Walk(args, place), sm(smem) {}

  __device__ __forceinline__ void run() {
    read(a.initial_state);
    load_half(0), load_half(1);
    for (int c = 0, keys = 0; c < at.chunks; ++c, keys = keys == 2 ? 0 : keys + 1) chunk(c, sm.keys[keys]);
    cp_async_wait<0>();
    if (at.chunks > 0) {
      group_barrier(kOwn + group, kGroup);
      send(a.o, sm.o, at.chunks - 1);
      bulk_wait<0>();
    }
    write(a.final_state);
  }

 private:
  __device__ __forceinline__ void load_half(int c) const {  // of v: the warpgroup's own columns
    if (c < at.chunks)
      load_panels<64, kGroup>(sm.stage[c & 1].v + half * (kL * 64), static_cast<const bf16*>(a.v) + at.first(c) * at.value_row + at.head * kD + half * 64, at.value_row, at.left(c), fresh(thread));
    cp_async_commit();
  }
  __device__ __forceinline__ void chunk(int c, const Smem::Keys& keys) {
    const int s = c & 1;
    const auto& stage = sm.stage[s];
    const Decays& d = sm.decay[s];
    const uint64_t k = k_major(keys.k), q = k_major(keys.q);
    cp_async_wait<1>();  // v
    if (kSave && thread == 0) bulk_wait<0>();  // the last chunk's state has left its place
    group_barrier(kFull + s, kWalkThreads);
    if (c > 0) send(a.o, sm.o, c - 1);
    if (kSave && half == 0 && thread == 0) bulk_store(static_cast<bf16*>(a.inverses) + at.slot(c) * (kL * kL), stage.T, kL * kL * 2), bulk_commit();
    float x[32], y[32];  // S^T k^T, then v'^T; S^T q^T, then o^T
    {
      uint32_t state[8][4];
      wgmma_wait<0>();  // nothing is open: it tells the compiler, which would wait before S is scaled below
      pack_state(state, S);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < 8; ++i) Wgmma<64>::run<false>(x, state[i], k + step(i), i > 0);
      wgmma_commit();
#pragma unroll
      for (int i = 0; i < 8; ++i) Wgmma<64>::run<false>(y, state[i], q + step(i), i > 0);
      wgmma_commit();
      if constexpr (kSave) save_state(sm.state, kD, state, p);
    }
    uint32_t v[4][4];
#pragma unroll
    for (int m = 0; m < 4; ++m) load_a_trans(v[m], Tile<kL>{const_cast<bf16*>(stage.v) + half * (kL * kL)}, warp * 16, m * 16);
    const float all = d.grow[kL - 1];
#pragma unroll
    for (int e = 0; e < 64; ++e) S[e] *= all;
    wgmma_wait<1>();
    wgmma_settle(x);
    uint32_t operand[4][4];  // beta (v - e^G k S) where the sums are
#pragma unroll
    for (int m = 0; m < 4; ++m)
#pragma unroll
      for (int e = 0; e < 4; ++e) {  // word e: columns 8 (2 m + e / 2).., rows q (e even) or q + 8
        const int j = m * 16 + (e >> 1) * 8 + r * 2, i = 8 * m + 2 * e;
        const float2 f = unpack_bf16(v[m][e]), beta = *reinterpret_cast<const float2*>(&d.beta[j]), grow = *reinterpret_cast<const float2*>(&d.grow[j]);
        operand[m][e] = pack_bf16(beta.x * (f.x - grow.x * x[i]), beta.y * (f.y - grow.y * x[i + 1]));
      }
    wgmma_settle(x);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) Wgmma<64>::run<false>(x, operand[i], k_major(stage.T) + i * kStep16<false>, i > 0);
    wgmma_commit();
    wgmma_wait<1>();
    wgmma_settle(y);
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float2 grow = *reinterpret_cast<const float2*>(&d.grow[n * 8 + r * 2]);
      y[4 * n] *= grow.x, y[4 * n + 1] *= grow.y, y[4 * n + 2] *= grow.x, y[4 * n + 3] *= grow.y;
    }
    wgmma_wait<0>();
    wgmma_settle(x);
    pack(v, x);
#pragma unroll
    for (int m = 0; m < 4; ++m)
#pragma unroll
      for (int e = 0; e < 4; ++e) {  // v'^T times e^{G_63 - G}
        const int i = 8 * m + 2 * e;
        const float2 w = *reinterpret_cast<const float2*>(&d.w[m * 16 + (e >> 1) * 8 + r * 2]);
        operand[m][e] = pack_bf16(x[i] * w.x, x[i + 1] * w.y);
      }
    wgmma_settle(y), wgmma_settle(S);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) Wgmma<64>::run<false>(y, v[i], k_major(stage.P) + i * kStep16<false>, 1);
    wgmma_commit();
#pragma unroll
    for (int i = 0; i < 4; ++i) Wgmma<128>::run<true>(S, operand[i], mn_major(keys.k) + i * kStep16<true>, 1);
    wgmma_commit();
    if constexpr (kSave) fence_async_proxy();
    group_barrier(kOwn + group, kGroup);  // o of the last chunk has been sent, the state is whole
    if constexpr (kSave) send_state(a.states, sm.state, c);
    wgmma_wait<1>();
    wgmma_settle(y);
#pragma unroll
    for (int e = 0; e < 32; ++e) y[e] *= a.scale;
    pack(v, y);
    put(sm.o, v);
    wgmma_wait<0>();
    wgmma_settle(S);
    if (kSave && half == 0 && thread == 0) bulk_wait<1>();  // T has been read
    if (c + 2 < at.chunks) group_arrive(kFree + s, kWalkThreads);
    load_half(c + 2);  // v was read before the barrier of the warpgroup
  }
};

template <bool kSave>
__global__ void __launch_bounds__(kWalkThreads, 1) fwd_kernel(const GdnFwd a) {
  static_assert(sizeof(Smem) <= kSmemLimit);
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<Smem*>(raw);
  const Place at(a);
  if (threadIdx.x < kGroup) {
    fewer_registers<72>();
    FwdAhead(a, at, sm).run();
  } else {
    more_registers<216>();
    FwdWalk<kSave>(a, at, sm).run();
  }
}

}  // namespace
}  // namespace gdn

Support supports_gdn_fwd_sm90(const GdnFwd& a, const Device& device) {
  if ((a.states == nullptr) != (a.inverses == nullptr)) return {"states without inverses, or the other way round"};
  return gdn::supports(a, {a.q, a.k, a.v, a.o, a.states, a.inverses}, device);
}

void gdn_fwd_sm90(const GdnFwd& a, const Launch& l) {
  launch_grid(a.states ? gdn::fwd_kernel<true> : gdn::fwd_kernel<false>, dim3(static_cast<unsigned>(a.documents * a.value_heads)), dim3(gdn::kWalkThreads), sizeof(gdn::Smem), l.stream, a);
}

}  // namespace weft::kernels
