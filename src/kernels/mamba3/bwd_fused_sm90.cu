// Mamba-3 backward at rank 4, all that is local to a chunk, from x, z, d_o, B, C and the states S, dS (fused.cuh has its order). Rows i, j = (step,
// rank); S before the chunk, dS after it; L_ij = e^{cs_i - cs_j}; f_ij = L_ij scale_j for an earlier step j, gamma_i within a step, 0 later
// (nam56r.md 2.6):
//   G_ij = dY_i . v_j    M = f (q k^T) + D    W = f G
//   y = M v + e^{cs} q S^T                    dv = M^T dY + w k dS^T
//   dq = W k + e^{cs} dY S                    dk = W^T q + w v dS                         w_j = scale_j e^{cs_end - cs_j}
// then the gates, the turn back of dq and dk with d theta, their sums over heads and steps, and sums in fp32 of L G (q k^T) for scale, gamma and a.
// Floor at b8 s4096 H128 R4: S, dS 8.6 GB and x, z, d_o, turns 2.1 GB read, dx, dz, d theta 1.6 GB written, 2.9 ms at 4.3 TB/s; 2048 x 128 items of
// 2,200 clocks of wgmma, 2.5 ms. Instructions: about 1,200 an item and warp, four warps a scheduler. The loops of the three kinds of groups run side by
// side: with 6,000 instructions in them a third of all waits were for the instruction cache, so the gates and the operands are loops of half the code.
#include "kernels/mamba3/fused_gates.cuh"
#include "kernels/mamba3/fused_make.cuh"
#include "kernels/mamba3/fused_store.cuh"
#include "kernels/mamba3/fused_weights.cuh"

namespace weft::kernels::mamba3 {
namespace {

// The first item's operands, and what the first round makes the second item's of.
template <bool gated>
__device__ __forceinline__ void begin(const Fused& f) {
  FusedSmem& sm = f.sm;
  const FusedMake make{f};
  // The parts of the parameter gradients start at zero; later each is added to by the thread that owns it.
  const Mamba3Inputs& a = f.args.in;
  const int64_t H = a.heads, head0 = f.piece.head0 + f.group * f.heads;
  for (int i = f.thread; i < f.heads * 4 * kN; i += kFusedThreads)
    for (int m = 0; m < 2; ++m) f.w.bias_parts[((f.part * 2 + m) * H + head0) * 4 * kN + i] = 0;
  for (int i = f.thread; i < f.heads * 4 * kP; i += kFusedThreads)
    for (int m = 0; m < 3; ++m) f.w.mimo_parts[((f.part * 3 + m) * H + head0) * 4 * kP + i] = 0;
  for (int i = f.thread; i < f.heads; i += kFusedThreads) f.w.D_parts[f.part * H + head0 + i] = 0;
  for (auto& turn : sm.turn) whole_turns(turn, f.turn_stride(), a.angles, kFusedSteps, f.thread, kFusedThreads);
  *reinterpret_cast<uint4*>(sm.M + f.thread * 8) = *reinterpret_cast<uint4*>(sm.W + f.thread * 8) = uint4{0, 0, 0, 0};
  if (f.thread == 0) {
    barrier_init(&sm.weighed, kFusedThreads), barrier_init(&sm.done, kFusedThreads + 1), barrier_init(&sm.begun, 1);
    fence_barrier_init();
    sm.item[0] = f.from_slot(static_cast<int>(f.part) * kChunksPerBlock);
    for (int i = 1; i < 3; ++i) sm.item[i] = f.after(sm.item[i - 1]);
  }
  fence_async_proxy_global();
  __syncthreads();
  const FusedItem& it = sm.item[0];
  if (!f.more(it)) return;
  FusedMake::Wide wide;
  if (f.role == kIn || f.role == kLoad) make.read_wide(wide, it, f.role == kIn);
  if (f.role == kOut) {
    make.load_inputs(it, 0);
    if (f.warp == 0) make.load_mimo(it, 0);
  }
  if (f.role == kLoad && f.t == 0) make.load_states(it, 0, sm.begun);
  if (f.role == kIn) make.load_turns_of(it, 0);
  cp_async_commit(), cp_async_wait<0>();
  __syncthreads();
  if (f.role == kWeigh) make.make_dY<gated>(0);
  if (f.role == kIn || f.role == kLoad) make.make_wide(wide, it, 0, 0, f.role == kIn);
  if (f.role == kOut) {
    make.make_v(0);
    if (f.warp == 0) make.make_rates(0);
  }
  __syncthreads();
  if (f.role == kLoad && f.more(sm.item[1])) make.load_turns_of(sm.item[1], 1);
  cp_async_commit(), cp_async_wait<0>();
  fence_async_proxy();
  barrier_wait(&sm.begun, 0);
  __syncthreads();
}

// The loop over items of the group that weighs: its sums are two panels of dC, and it gets more registers.
template <bool gated>
__device__ __forceinline__ void items_weigh(const Fused& f) {
  FusedSmem& sm = f.sm;
  float sum[2][32] = {};
  int i = 0;
  // Whether there is more comes from the first lane, so that the loop, and with it every operand's address, is the same for a warp.
  for (int third = 0; __shfl_sync(0xffffffffu, f.more(sm.item[i & 3]) ? 1 : 0, 0); ++i, third = third == 2 ? 0 : third + 1) {
    const FusedItem& it = sm.item[i & 3];
    FusedWeights{f.again()}.weigh(it, i & 1);
    f.meet(sm.weighed, i);
    FusedWeights{f.again()}.queries(it, i & 1, third, sum);
    fence_async_proxy();  // of sums that leave by bulk additions
    f.meet(sm.done, i);
  }
}
// Of the group that does the gates of y and takes results out: it keeps no sums.
template <bool gated>
__device__ __forceinline__ void items_out(const Fused& f) {
  FusedSmem& sm = f.sm;
  int i = 0;
  for (; __shfl_sync(0xffffffffu, f.more(sm.item[i & 3]) ? 1 : 0, 0); ++i) {
    const int s = i & 1;
    const FusedItem& next = sm.item[(i + 1) & 3];
    if (i > 0) FusedStore{f.again()}.results(sm.item[(i - 1) & 3], s ^ 1);
    if (f.more(next)) {
      const FusedMake make{f.again()};
      make.load_inputs(next, s ^ 1);
      if (f.warp == 0) make.load_mimo(next, s ^ 1);
    }
    cp_async_commit();
    const FusedGates gates{f.again()};
    float acc[32];
    gates.through_state(acc, sm.stage[s].S, sm.stage[s].q);
    gates.through_done(acc, sm.stage[s].dY, sm.sums[s].dot_q, sm.rates[s].grow);
    cp_async_wait<0>();
    f.meet(sm.weighed, i);
    FusedGates{f.again()}.out<gated>(acc, s);
    if (f.more(next)) FusedMake{f.again()}.make_v(s ^ 1);
    fence_async_proxy();  // of v, and of sums that leave by bulk additions
    f.meet(sm.done, i);
  }
  if (i > 0) FusedStore{f}.results(sm.item[(i - 1) & 3], (i - 1) & 1);
}
// Of the two that make q and k: their sums are a panel of dB each.
template <bool gated>
__device__ __forceinline__ void items_make(const Fused& f) {
  FusedSmem& sm = f.sm;
  const bool in = f.role == kIn;
  float sum[32] = {};
  FusedMake::Wide wide;
  if (f.more(sm.item[1]))
    FusedMake{f}.read_wide(wide, sm.item[1], in);
  else
    wide.forget();
  int i = 0;
  for (int third = 0; __shfl_sync(0xffffffffu, f.more(sm.item[i & 3]) ? 1 : 0, 0); ++i) {
    const int s = i & 1, next_third = third == 2 ? 0 : third + 1;
    const FusedItem &it = sm.item[i & 3], &next = sm.item[(i + 1) & 3], &second = sm.item[(i + 2) & 3];
    const FusedMake make{f.again()};
    if (!in) {
      if (make.t == 0) {
        if (f.more(next))
          make.load_states(next, s ^ 1, sm.done);
        else
          barrier_arrive(&sm.done);
      }
      FusedWeights{f.again()}.dot_states(s);
    }
    if (f.more(next)) make.make_wide(wide, next, s ^ 1, next_third, in);
    if (in) {
      const FusedGates gates{f.again()};
      float acc[32];
      gates.through_state(acc, sm.stage[s].dS, sm.stage[s].k);
      gates.through_done(acc, sm.stage[s].v, sm.sums[s].dot_k, sm.rates[s].w);
      fence_async_proxy();
      f.meet(sm.weighed, i);
      FusedGates{f.again()}.in(acc, s);
    } else {
      fence_async_proxy();
      f.meet(sm.weighed, i);
      const FusedMake make{f.again()};
      if (f.more(second)) make.load_turns_of(second, next_third == 2 ? 0 : next_third + 1);
      cp_async_commit();
      if (make.t == 0) sm.item[(i + 3) & 3] = f.after(second);
      if (f.more(next)) {
        make.make_dY<gated>(s ^ 1);
        if (f.warp == 0) make.make_rates(s ^ 1);
      }
    }
    FusedWeights{f.again()}.keys(it, s, third, in ? 0 : 1, sum);
    cp_async_wait<0>();
    fence_async_proxy();  // of dY, and of sums that leave by bulk additions
    barrier_arrive(&sm.done);
    if (f.more(second))  // after the fence, which would wait for it
      FusedMake{f.again()}.read_wide(wide, second, in);
    else
      wide.forget();
    barrier_wait(&sm.done, i & 1);
    third = next_third;
  }
}

constexpr int kWeighRegisters = 168, kOutRegisters = 88;  // the two others keep the 128 that all begin with
template <bool gated>
__global__ void __launch_bounds__(kFusedThreads, 1) fused_kernel(const Mamba3Bwd args, const BwdWorkspace w, const Piece piece, const int slots) {
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<FusedSmem*>(raw);
  const int heads = piece.group_heads, groups = piece.heads / heads, group = static_cast<int>(blockIdx.x) % groups, part = static_cast<int>(blockIdx.x) / groups;
  const int end = (part + 1) * kChunksPerBlock < slots ? (part + 1) * kChunksPerBlock : slots;
  const Fused f{args, w, piece, sm, part, group, heads, end};
  begin<gated>(f);
  if (threadIdx.x < kGroup) {
    more_registers<kWeighRegisters>();
    items_weigh<gated>(f);
  } else if (f.role == kOut) {
    fewer_registers<kOutRegisters>();
    items_out<gated>(f);
  } else {
    items_make<gated>(f);
  }
}

}  // namespace

void bwd_fused(const Mamba3Bwd& a, const BwdWorkspace& w, const Piece& piece, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(parts(a.in) * (piece.heads / piece.group_heads)));
  if (a.in.z)
    launch_grid(fused_kernel<true>, grid, dim3(kFusedThreads), sizeof(FusedSmem), stream, a, w, piece, static_cast<int>(chunk_slots(a.in)));
  else
    launch_grid(fused_kernel<false>, grid, dim3(kFusedThreads), sizeof(FusedSmem), stream, a, w, piece, static_cast<int>(chunk_slots(a.in)));
}

}  // namespace weft::kernels::mamba3
