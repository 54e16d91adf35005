// SSD forward. One block walks the chunks of one document for kHeads heads of one group: a warpgroup loads, one makes M ahead, one a head
// multiplies, with the head's state [64, 128] in its registers. Per chunk of 64 tokens, all products transposed so that P is wgmma's 64 rows and
// the state an operand in place:
//   M_ij = (C_i . B_j) e^{cs_i - cs_j} dt_j (j <= i)    y^T = S C^T diag(e^{cs}) + X^T M^T + D X^T    S = e^{cs_63} S + (X diag(w))^T B
// The multiplying warpgroups need no fence_async_proxy, which would wait for their stores of y and of states.
// Floor for b8 s4096 H128 P64 N128 G8: x, y, B, C 1.21 GB (0.28 ms at 4.3 TB/s), saved states 1.07 GB more (0.53 ms); 512 x 128 chunks of a
// head on 132 processors at 1.75 GHz: wgmma 768 clocks each, 0.22 ms. One document has 128 blocks of 512 chunks, by count 1,500 clocks: 0.44 ms.
#include "kernels/common/state_group.cuh"
#include "kernels/ssd/tiles.cuh"

namespace weft::kernels {
namespace ssd {
namespace {

constexpr int kStages = 3;
enum FwdBarrier { kLoaded = 1, kFull = 4, kFree = 7, kOwn = 10 };  // + stage; kOwn: + head
constexpr int kYStride = kP + 8;  // stores of eight neighbouring lanes meet no bank twice

template <int kHeads>
struct FwdSmem {
  static constexpr int kThreads = kGroup * (2 + kHeads), kPart = kGroup * (1 + kHeads);  // kPart: those who multiply, and one warpgroup they meet
  struct Stage {
    bf16 B[kL * kN], C[kL * kN], x[kHeads][kL * kP], M[kHeads][kL * kL];  // Panels; M zero right of the diagonal blocks
  } stage[kStages];
  struct Decay {
    float to[kL], from[kL], grow[kL], w[kL];  // log2(e) cs, that less log2(dt): M_ij's factor is 2^{to_i - from_j}; e^{cs}; dt e^{cs_63 - cs}
  } decay[kStages][kHeads];
  alignas(16) bf16 y[kHeads][kL * kYStride];
};

// What one block works on; tokens.
struct FwdPlace {
  int document, head0, group, chunks, start, length;
};

template <int kHeads>
struct FwdFeed {
  using Sm = FwdSmem<kHeads>;
  const SsdFwd& a;
  const FwdPlace& at;
  Sm& sm;

  __device__ __forceinline__ void run() const {
    const int thread = static_cast<int>(threadIdx.x), warp = thread >> 5, lane = thread & 31;
    const float A = warp < kHeads ? a.A[at.head0 + warp] : 0.f;
    float dt[2];  // of tokens 2 lane, 2 lane + 1 of the chunk to come, for head `warp`
    fetch(dt, 0);
    for (int c = 0, s = 0; c < at.chunks; ++c, s = s == kStages - 1 ? 0 : s + 1) {
      if (c >= kStages) group_barrier(kFree + s, Sm::kPart);
      auto& stage = sm.stage[s];
      const int64_t first = at.start + c * kL;
      const int left = at.length - c * kL, t = fresh(thread);
      load_panels<kN, kGroup>(stage.B, static_cast<const bf16*>(a.B) + first * a.B_stride + at.group * kN, a.B_stride, left, t);
      load_panels<kN, kGroup>(stage.C, static_cast<const bf16*>(a.C) + first * a.C_stride + at.group * kN, a.C_stride, left, t);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) load_panels<kP, kGroup>(stage.x[h], static_cast<const bf16*>(a.x) + first * a.x_stride + (at.head0 + h) * kP, a.x_stride, left, t);
      cp_async_commit();
      if (warp < kHeads) {
        auto& d = sm.decay[s][warp];
        const float a0 = dt[0] * A, a1 = dt[1] * A, cs1 = warp_scan(a0 + a1) * kLog2E, cs0 = cs1 - a1 * kLog2E, end = __shfl_sync(0xffffffffu, cs1, 31);
        const int i = 2 * lane;
        *reinterpret_cast<float2*>(&d.to[i]) = {cs0, cs1};
        *reinterpret_cast<float2*>(&d.from[i]) = {cs0 - __log2f(dt[0]), cs1 - __log2f(dt[1])};
        *reinterpret_cast<float2*>(&d.grow[i]) = {exp2_fast(cs0), exp2_fast(cs1)};
        *reinterpret_cast<float2*>(&d.w[i]) = {dt[0] * exp2_fast(end - cs0), dt[1] * exp2_fast(end - cs1)};
      }
      fetch(dt, c + 1);
      cp_async_wait<0>();
      fence_async_proxy();
      group_arrive(kLoaded + s, 2 * kGroup);
    }
  }

 private:
  __device__ __forceinline__ void fetch(float (&dt)[2], int c) const {
    const int64_t H = a.heads;
    const int warp = static_cast<int>(threadIdx.x) >> 5;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int i = c * kL + 2 * lane_id() + e;
      dt[e] = warp < kHeads && i < at.length ? a.dt[(at.start + i) * H + at.head0 + warp] : 0.f;
    }
  }
};

template <int kHeads>
struct FwdMake {  // M of each chunk
  using Sm = FwdSmem<kHeads>;
  const FwdPlace& at;
  Sm& sm;

  __device__ __forceinline__ void run() const {
    const int thread = static_cast<int>(threadIdx.x) & (kGroup - 1);
    for (auto& stage : sm.stage)
      for (auto& M : stage.M) clear_right(Panels<kL>{M}, thread >> 5, thread & 31);
    for (int c = 0, s = 0; c < at.chunks; ++c, s = s == kStages - 1 ? 0 : s + 1) {
      auto& stage = sm.stage[s];
      group_barrier(kLoaded + s, 2 * kGroup);
      float cb[32];
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 8; ++k) Wgmma<64>::run<false, false>(cb, k_major(stage.C) + step(k), k_major(stage.B) + step(k), k > 0);
      wgmma_commit();
      wgmma_wait<0>();
      wgmma_settle(cb);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) weigh(Panels<kL>{stage.M[h]}, sm.decay[s][h], cb, fresh(thread));
      fence_async_proxy();
      group_arrive(kFull + s, Sm::kPart);
    }
  }

 private:
  static constexpr uint64_t step(int k) { return (k >> 2) * kPanelStep + (k & 3) * kStep16<false>; }
  // M from C B^T: the decay and dt of tokens not later, 0 later.
  static __device__ __forceinline__ void weigh(const Panels<kL>& M, const typename Sm::Decay& d, const float (&cb)[32], int thread) {
    const int warp = thread >> 5, row = warp * 16 + (thread >> 2 & 7), r = thread & 3;
    const float to[2] = {d.to[row], d.to[row + 8]};
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      if (n / 2 > warp) break;
      const int j = n * 8 + r * 2;
      const float2 from = *reinterpret_cast<const float2*>(&d.from[j]);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int i = row + 8 * h;
        float m[2] = {cb[4 * n + 2 * h] * exp2_fast(to[h] - from.x), cb[4 * n + 2 * h + 1] * exp2_fast(to[h] - from.y)};
        if (n / 2 == warp) {
          if (j > i) m[0] = 0;
          if (j + 1 > i) m[1] = 0;
        }
        *reinterpret_cast<uint32_t*>(M.at(i, j)) = pack_bf16(m[0], m[1]);
      }
    }
  }
};

template <int kHeads, bool kSave>
struct FwdMultiply {
  using Sm = FwdSmem<kHeads>;
  const SsdFwd& a;
  const FwdPlace& at;
  Sm& sm;
  const int thread = static_cast<int>(threadIdx.x), mine = (thread >> 7) - 2, lane = thread & 31, warp = thread >> 5 & 3, q = lane >> 2, r = lane & 3,
            row = warp * 16 + q;  // and row + 8
  const int head = at.head0 + mine;
  const int64_t state_row = (static_cast<int64_t>(at.document) * a.heads + head) * (kP * kN);
  const float D = a.D ? a.D[head] : 0.f;
  float S[64];

  __device__ __forceinline__ void run() {
    read_state(S, a.initial_state ? a.initial_state + state_row : nullptr, row);
    for (int c = 0, s = 0; c < at.chunks; ++c, s = s == kStages - 1 ? 0 : s + 1) item(c, s);
    if (at.chunks > 0) {
      group_barrier(kOwn + mine, kGroup);
      send(at.chunks - 1);
    }
    if (a.final_state) write_state(S, a.final_state + state_row, row);
  }

 private:
  __device__ __forceinline__ void item(int c, int s) {
    const auto& stage = sm.stage[s];
    const auto& d = sm.decay[s][mine];
    group_barrier(kFull + s, Sm::kPart);
    if (c > 0) send(c - 1);
    float y[32];
    {
      uint32_t state[8][4];
      wgmma_wait<0>();  // nothing is open: it tells the compiler, which would wait before S is scaled below
      pack_state(state, S);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 8; ++k) Wgmma<64>::run<false>(y, state[k], k_major(stage.C) + step(k), k > 0);
      wgmma_commit();
      if constexpr (kSave) save_state(static_cast<bf16*>(a.states) + (static_cast<int64_t>(at.start / kL + at.document + c) * a.heads + head) * (kP * kN), kN, state, row);
    }
    uint32_t xt[4][4];
#pragma unroll
    for (int k = 0; k < 4; ++k) load_a_trans(xt[k], Tile<kP>{const_cast<bf16*>(stage.x[mine])}, warp * 16, k * 16);
    const float all = d.grow[kL - 1];
#pragma unroll
    for (int e = 0; e < 64; ++e) S[e] *= all;
    wgmma_wait<0>();
    wgmma_settle(y);
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float2 grow = *reinterpret_cast<const float2*>(&d.grow[n * 8 + r * 2]);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float2 x = unpack_bf16(xt[n / 2][n % 2 * 2 + h]);  // x where y is
        y[4 * n + 2 * h] = y[4 * n + 2 * h] * grow.x + D * x.x, y[4 * n + 2 * h + 1] = y[4 * n + 2 * h + 1] * grow.y + D * x.y;
      }
    }
    wgmma_settle(y);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<64>::run<false>(y, xt[k], k_major(stage.M[mine]) + k * kStep16<false>, 1);
    wgmma_commit();
    uint32_t xw[4][4];  // X^T diag(w)
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float2 x = unpack_bf16(xt[k][e]), w = *reinterpret_cast<const float2*>(&d.w[k * 16 + (e >> 1) * 8 + r * 2]);
        xw[k][e] = pack_bf16(x.x * w.x, x.y * w.y);
      }
    wgmma_settle(S);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<128>::run<true>(S, xw[k], mn_major(stage.B) + k * kStep16<true>, 1);
    wgmma_commit();
    group_barrier(kOwn + mine, kGroup);  // y of the last chunk has been sent
    wgmma_wait<1>();
    wgmma_settle(y);
#pragma unroll
    for (int n = 0; n < 8; n += 2)
      stmatrix_x4_trans(sm.y[mine] + (n * 8 + (lane & 7) + (lane >> 4) * 8) * kYStride + warp * 16 + (lane >> 3 & 1) * 8, pack_bf16(y[4 * n], y[4 * n + 1]),
                        pack_bf16(y[4 * n + 2], y[4 * n + 3]), pack_bf16(y[4 * n + 4], y[4 * n + 5]), pack_bf16(y[4 * n + 6], y[4 * n + 7]));
    wgmma_wait<0>();
    wgmma_settle(S);
    if (c + kStages < at.chunks) group_arrive(kFree + s, Sm::kPart);
  }
  static constexpr uint64_t step(int k) { return (k >> 2) * kPanelStep + (k & 3) * kStep16<false>; }

  // y of chunk c to memory, 16 bytes a store.
  __device__ __forceinline__ void send(int c) const {
    const int left = at.length - c * kL, t = thread & (kGroup - 1), token = t >> 3, col = (t & 7) * 8;
    bf16* to = static_cast<bf16*>(a.y) + (static_cast<int64_t>(at.start + c * kL + token) * a.heads + head) * kP + col;
    const bf16* from = sm.y[mine] + token * kYStride + col;
#pragma unroll
    for (int i = 0; i < kL; i += kGroup / 8)
      if (token + i < left) *reinterpret_cast<uint4*>(to + static_cast<int64_t>(i) * a.heads * kP) = *reinterpret_cast<const uint4*>(from + i * kYStride);
  }
};

template <int kHeads, bool kSave>
__global__ void __launch_bounds__(FwdSmem<kHeads>::kThreads, 1) fwd_kernel(const SsdFwd a) {
  static_assert(sizeof(FwdSmem<kHeads>) <= kSmemLimit);
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<FwdSmem<kHeads>*>(raw);
  const int blocks = a.heads / kHeads, document = static_cast<int>(blockIdx.x) / blocks, head0 = static_cast<int>(blockIdx.x) % blocks * kHeads;
  const int start = a.cu_seqlens[document], length = a.cu_seqlens[document + 1] - start;
  const FwdPlace at{document, head0, head0 / (a.heads / a.groups), (length + kL - 1) / kL, start, length};
  constexpr int kMultiplyRegisters = kHeads > 1 ? 192 : 240;
  if (threadIdx.x < kGroup) {
    fewer_registers<56>();
    FwdFeed<kHeads>{a, at, sm}.run();
  } else if (threadIdx.x < 2 * kGroup) {
    fewer_registers<72>();
    FwdMake<kHeads>{at, sm}.run();
  } else {
    more_registers<kMultiplyRegisters>();
    FwdMultiply<kHeads, kSave>{a, at, sm}.run();
  }
}

template <int kHeads>
void launch(const SsdFwd& a, cudaStream_t stream) {
  launch_grid(a.states ? fwd_kernel<kHeads, true> : fwd_kernel<kHeads, false>, dim3(static_cast<unsigned>(a.heads / kHeads * a.documents)), dim3(FwdSmem<kHeads>::kThreads), sizeof(FwdSmem<kHeads>), stream, a);
}

}  // namespace
}  // namespace ssd

Support supports_ssd_fwd_sm90(const SsdFwd& a, const Device& device) {
  if (reinterpret_cast<uintptr_t>(a.y) % 16 != 0 || reinterpret_cast<uintptr_t>(a.states) % 16 != 0) return {"y or states is not 16-byte aligned"};
  return {ssd::refusal(a, device)};
}

void ssd_fwd_sm90(const SsdFwd& a, const Launch& l) {
  ssd::two_heads(a) ? ssd::launch<2>(a, l.stream) : ssd::launch<1>(a, l.stream);
}

}  // namespace weft::kernels
