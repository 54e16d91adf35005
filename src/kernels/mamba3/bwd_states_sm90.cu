// Mamba-3 backward, the states at every chunk of 64 / R steps, from zero, in one kernel for both directions: S before each chunk, walking a
// document forwards, and its gradient dS after each chunk, walking backwards (at rank 1 the forward's saved states are S):
//   S' = e^{cs_end} S + sum_j w_j v_j k_j^T      dS' = e^{cs_end} dS + sum_i e^{cs_i} dY_i q_i^T
// A block takes a (direction, document, head); one warpgroup keeps the state [P, N] in its registers. Floor at b8 s4096 H128 R4: operands
// 12.9 GB, S and dS 4.3 GB each, 5.0 ms at 4.3 TB/s.
#include "kernels/common/state_group.cuh"
#include "kernels/mamba3/bwd.cuh"

namespace weft::kernels::mamba3 {
namespace {

template <int R>
struct StatesSmem {
  struct Stage {
    bf16 wide[kRows * kN], thin[kRows * kP];  // k and v; q and dY
  } stage[2];
  Decay decay;
  float dt[2][kRows / R + 4], a[2][kRows / R + 4], lambda[2][kRows / R + 4];
};

template <int R, bool kReverse>
__device__ __forceinline__ void walk(const Mamba3Inputs& a, const BwdWorkspace& w, const Piece& piece, StatesSmem<R>& sm, int document, int local) {
  constexpr int kSteps = kRows / R;
  const int t = thread_number(), lane = t & 31, warp = t >> 5, head = piece.head0 + local;
  const int64_t start = a.cu_seqlens[document], length = a.cu_seqlens[document + 1] - start, slot0 = first_slot(start, document, kSteps);
  const int chunks = static_cast<int>((length + kSteps - 1) / kSteps);
  auto chunk = [&](int i) { return kReverse ? chunks - 1 - i : i; };
  auto tile = [&](int i) { return (slot0 + chunk(i)) * piece.heads + local; };
  auto load = [&](int i) {
    const int64_t first = start + static_cast<int64_t>(chunk(i)) * kSteps;
    const int s = i & 1;
    copy_tile_async<kRows * kN, 128>(sm.stage[s].wide, (kReverse ? w.q : w.k) + tile(i) * (kRows * kN), t);
    copy_tile_async<kRows * kP, 128>(sm.stage[s].thin, (kReverse ? w.dY : w.v) + tile(i) * (kRows * kP), t);
    load_rates(sm.dt[s], sm.a[s], sm.lambda[s], a, head, first, start + length - first, kSteps, t);
    cp_async_commit();
  };
  if (chunks > 1) load(0);
  float S[64] = {};
  bf16* out = kReverse ? w.dS : w.S;
  for (int i = 0; i < chunks; ++i) {
    const int s = i & 1;
    if (i + 1 < chunks) {
      cp_async_wait<0>();
      fence_async_proxy();  // before the stores of S: it waits for all that came before it
      __syncthreads();
      if (i + 2 < chunks) load(i + 1);
    }
    uint32_t state[8][4];
    pack_state(state, S);
    save_state(out + tile(i) * (kP * kN), kN, state, warp * 16 + (lane >> 2));
    if (i + 1 == chunks) break;
    if (warp == 0) chunk_decay<R>(sm.decay, sm.a[s], sm.dt[s], sm.lambda[s], 1);
    uint32_t thin[4][4];  // its transpose, 16 rows of P
#pragma unroll
    for (int k = 0; k < 4; ++k) load_a_trans(thin[k], Tile<kP>{sm.stage[s].thin}, warp * 16, k * 16);
    __syncthreads();
    const float* weight = kReverse ? sm.decay.grow : sm.decay.w;
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float2 v = unpack_bf16(thin[k][e]), f = *reinterpret_cast<const float2*>(weight + k * 16 + (lane & 3) * 2 + (e >> 1) * 8);
        thin[k][e] = pack_bf16(v.x * f.x, v.y * f.y);
      }
    const float factor = sm.decay.grow[kRows - 1];
#pragma unroll
    for (int e = 0; e < 64; ++e) S[e] *= factor;
    wgmma_settle(S);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<128>::run<true>(S, thin[k], mn_major(sm.stage[s].wide) + k * kStep16<true>, 1);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_settle(S);
  }
}

template <int R>
__global__ void __launch_bounds__(128, 4) states_kernel(const Mamba3Inputs a, const BwdWorkspace w, const Piece piece) {
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<StatesSmem<R>*>(raw);
  const int directions = R == 1 ? 1 : 2, place = static_cast<int>(blockIdx.x) / directions, document = place / piece.heads, local = place % piece.heads;
  if constexpr (R > 1)
    if (blockIdx.x & 1) return walk<R, false>(a, w, piece, sm, document, local);
  walk<R, true>(a, w, piece, sm, document, local);
}

template <int R>
void launch(const Mamba3Bwd& a, const BwdWorkspace& w, const Piece& piece, cudaStream_t stream) {
  launch_grid(states_kernel<R>, dim3(static_cast<unsigned>(a.in.documents * piece.heads * (R == 1 ? 1 : 2))), dim3(128), sizeof(StatesSmem<R>), stream, a.in, w, piece);
}

}  // namespace

void bwd_states(const Mamba3Bwd& a, const BwdWorkspace& w, const Piece& piece, cudaStream_t stream) {
  if (a.in.rank == 4) return launch<4>(a, w, piece, stream);
  if (a.in.rank == 2) return launch<2>(a, w, piece, stream);
  launch<1>(a, w, piece, stream);
}

}  // namespace weft::kernels::mamba3
