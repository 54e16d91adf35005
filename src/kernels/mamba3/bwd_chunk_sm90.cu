// Mamba-3 backward at ranks 1 and 2, chunk by chunk: one block takes kChunksPerBlock chunks of one group and, in each, goes through the group's heads, so
// that dB and dC are summed over heads in registers. Rows i, j = (step, rank); S before the chunk, dS after it; L_ij = e^{cs_i - cs_j};
// f_ij = L_ij scale_j for an earlier step j, gamma_i within a step, 0 later (nam56r.md 2.6):
//   G_ij = dY_i . v_j    M = f (q k^T)    W = f G
//   y = M v + e^{cs} q S^T + D v               dv = M^T dY + w k dS^T + D dY
//   dq = W k + e^{cs} dY S                     dk = W^T q + w v dS                         w_j = scale_j e^{cs_end - cs_j}
// The D terms and the gate's backward are the gates pass's; here follow the turn back of dq and dk with d theta, and sums in fp32 of
// L G (q k^T) for scale, gamma and a.
// Floor at b8 s4096 H128 R1: tiles and states 5.4 GB read, y and dv 1.1 GB written, 1.5 ms at 4.3 TB/s; 512 x 128 items of 2,200 clocks of
// wgmma (0.6 ms). Bound by the latency of the two multiplying warps of a scheduler.
#include "kernels/mamba3/chunk_feed.cuh"
#include "kernels/mamba3/chunk_multiply.cuh"

namespace weft::kernels::mamba3 {
namespace {

template <int R>
__global__ void __launch_bounds__(kChunkThreads, 1) chunk_kernel(const Mamba3Bwd args, const BwdWorkspace w, const Piece piece, const int64_t slots) {
  const Mamba3Inputs& a = args.in;
  static_assert(sizeof(ChunkSmem<R>) <= kSmemLimit);
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<ChunkSmem<R>*>(raw);
  const int heads = piece.group_heads, groups = piece.heads / heads, group = static_cast<int>(blockIdx.x % groups);
  const int64_t part = blockIdx.x / groups, H = a.heads, head0 = piece.head0 + group * heads;
  // The parts of the parameter gradients start at zero; later each is added to by the thread that owns it.
  for (int i = threadIdx.x; i < heads * R * kN; i += kChunkThreads)
    for (int m = 0; m < 2; ++m) w.bias_parts[((part * 2 + m) * H + head0) * R * kN + i] = 0;
  for (int i = threadIdx.x; i < heads; i += kChunkThreads) w.D_parts[part * H + head0 + i] = 0;
  for (int i = threadIdx.x; i < kRows * kRows / 8; i += kChunkThreads) *reinterpret_cast<uint4*>(sm.M + i * 8) = *reinterpret_cast<uint4*>(sm.W + i * 8) = uint4{0, 0, 0, 0};
  if (threadIdx.x == 0) sm.init();
  fence_async_proxy();
  __syncthreads();
  const ChunkWalk walk(a, piece, part, slots, group, ChunkSmem<R>::kSteps);
  if (threadIdx.x < 2 * kGroup) {
    fewer_registers<56>();
    if (threadIdx.x < kGroup)
      ChunkFeed<R>{args, w, sm, part}.bring(walk);
    else
      ChunkFeed<R>{args, w, sm, part}.store(walk);
  } else {
    more_registers<200>();
    ChunkMultiply<R>{args, sm}.run(walk, thread_number() >= 3 * kGroup);
  }
}

template <int R>
void launch(const Mamba3Bwd& a, const BwdWorkspace& w, const Piece& piece, cudaStream_t stream) {
  launch_grid(chunk_kernel<R>, dim3(static_cast<unsigned>(parts(a.in) * (piece.heads / piece.group_heads))), dim3(kChunkThreads), sizeof(ChunkSmem<R>), stream, a, w, piece, chunk_slots(a.in));
}

}  // namespace

void bwd_chunks(const Mamba3Bwd& a, const BwdWorkspace& w, const Piece& piece, cudaStream_t stream) {
  if (a.in.rank == 2) return launch<2>(a, w, piece, stream);
  launch<1>(a, w, piece, stream);
}

}  // namespace weft::kernels::mamba3
