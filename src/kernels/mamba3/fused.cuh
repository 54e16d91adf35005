// The chunk pass of the Mamba-3 backward at rank 4: its shared memory and its order. It makes q, k, v and dY of a head's chunk in shared memory
// and takes y and dv to dx and dz there, so that of a chunk only the states S, dS cross memory. A block takes kChunksPerBlock chunks of one
// group; an item is one head of one chunk. Four warpgroups; with two barriers an item, X before it and Y when its weights M, W are there:
//   group   X to Y                                               Y to X
//   kWeigh  q k^T, dY v^T, from them M, W                        dC
//   kIn     dS k^T; q of the next item                           dv to dx; dB of panel 0
//   kOut    S q^T; results of the last item to memory, inputs    y to dz; v of the next item
//           of the next one
//   kLoad   k and the states of the next item; <dS, S>           dY, decay of the next item; dB of panel 1
// Products are transposed: a lane of wgmma's sums has one column p or n (and the one 8 on) and in each 16 of the chunk's rows the four ranks of
// one step (Rows<4>), so that sums over ranks and steps stay in it.
#pragma once
#include "kernels/common/state_group.cuh"
#include "kernels/mamba3/bwd.cuh"

namespace weft::kernels::mamba3 {

constexpr int kFusedThreads = 4 * kGroup, kFusedSteps = kRows / 4;
enum FusedGroup { kWeigh, kIn, kOut, kLoad };

struct FusedItem {
  int slot, h, first, count, left, pad[3];  // head within the group; first token of the chunk, its tokens, tokens to the document's end
};

struct FusedSmem {
  struct Stage {
    bf16 q[kRows * kN], k[kRows * kN], S[kP * kN], dS[kP * kN], v[kRows * kP], dY[kRows * kP];
  } stage[2];
  bf16 M[kRows * kRows], W[kRows * kRows];  // Panels<64>, zero above the diagonal's blocks
  struct Raw {                              // [step][unit ^ step]; dx and dz take the places of x and z
    bf16 x[kFusedSteps * kP], z[kFusedSteps * kP], d_o[kFusedSteps * kP];
  } raw[2];
  float mimo[2][3][4 * kP];  // x, z, o, [rank][p]; their gradients of the item take their places
  static constexpr int kTurns = kFusedSteps * 68, kBias = kN + 4;
  alignas(16) __half2 turn[3][kTurns];  // [step][turn_stride]
  alignas(16) float d_theta[2][kTurns];  // of keys, queries
  float d_theta_sum[2][64];              // over the chunk's steps
  float bias[2][4 * kBias];              // of B, C
  float d_bias[2][4 * kN];
  struct Rates {
    float cs[kFusedSteps], grow[kFusedSteps], w[kFusedSteps], scale[kFusedSteps], gamma[kFusedSteps];  // as in Decay
  } rates[2];
  struct Sums {  // of L G (q k^T): rows times scale, within a step, columns; <q S, dY>, <k dS, v>; those of four warps by warp
    float row[kFusedSteps], same[kFusedSteps], col[4][kFusedSteps], dot_q[4][kFusedSteps], dot_k[4][kFusedSteps], trace[4], states[4];
  } sums[2];
  alignas(16) FusedItem item[4];
  uint64_t weighed, done;  // Y, X; the first states have come when `begun` is over, all others with X
  uint64_t begun;
  float dt[kFusedSteps + 4], a[kFusedSteps + 4], lambda[kFusedSteps + 4];
};
static_assert(sizeof(FusedSmem) <= kSmemLimit);

struct Fused {
  using Order = Rows<4>;
  const Mamba3Bwd& args;
  const BwdWorkspace& w;
  const Piece& piece;
  FusedSmem& sm;
  const int64_t part;
  const int group, heads, end;  // group of the piece, its heads; slots end there
  // The warp's number from its first lane: what follows from it alone is computed once a warp.
  const int thread = thread_number(), warps = __shfl_sync(0xffffffffu, thread >> 5, 0);
  const int role = warps >> 2, warp = warps & 3, t = thread & (kGroup - 1), lane = t & 31, q = lane >> 2, r = lane & 3;

  // The same: what follows from the thread's number is made anew, not kept through the loop over items in registers or local memory.
  __device__ __forceinline__ Fused again() const { return {args, w, piece, sm, part, group, heads, end, fresh(thread), warps}; }
  __device__ __forceinline__ int head(const FusedItem& it) const { return piece.head0 + group * heads + it.h; }
  __device__ __forceinline__ int64_t tile(const FusedItem& it) const { return static_cast<int64_t>(it.slot) * piece.heads + group * heads + it.h; }
  __device__ __forceinline__ int turn_stride() const { return args.in.angles + (args.in.angles > 32 ? 4 : 8); }
  __device__ __forceinline__ bool more(const FusedItem& it) const { return it.slot < end; }

  // X or Y of item i: barriers in shared memory, since roles meet them in code of their own.
  __device__ __forceinline__ void meet(uint64_t& barrier, int i) const {
    barrier_arrive(&barrier);
    barrier_wait(&barrier, i & 1);
  }

  // The first item whose chunk is not before `slot`.
  __device__ __forceinline__ FusedItem from_slot(int slot) const {
    FusedItem it{slot, 0, 0, 0, 0};
    for (; it.slot < end; ++it.slot) {
      const ChunkPlace at = place_of_slot(args.in.cu_seqlens, args.in.documents, it.slot, kFusedSteps);
      it.first = static_cast<int>(at.first), it.count = at.count, it.left = args.in.cu_seqlens[at.document + 1] - it.first;
      if (it.count > 0) break;
    }
    return it;
  }
  __device__ __forceinline__ FusedItem after(const FusedItem& it) const {
    if (!more(it)) return it;
    if (it.h + 1 == heads) return from_slot(it.slot + 1);
    FusedItem next = it;
    ++next.h;
    return next;
  }

  // Column p, p a multiple of 8, of a step of raw inputs.
  static __device__ __forceinline__ int raw_unit(int step, int unit) { return step * kP + ((unit ^ step) & 7) * 8; }
  // Of the transpose of a panel: rows 16 b.. of the chunk, columns 16 warp..: word 2 half + h is column q + 8 h, rows 8 half + 2 r...
  __device__ __forceinline__ void turned_words(uint32_t (&words)[4], const bf16* panel, int b) const { load_a_trans(words, kernels::fresh(Tile<64>{const_cast<bf16*>(panel)}), 16 * warp, 16 * b); }
};

// Four values a lane (one of each 16 rows) summed over the lanes of equal r: the lane is left with that of block (lane >> 4) * 2 + (lane >> 3 & 1).
__device__ __forceinline__ float sum_blocks(const float (&v)[4], int lane) {
  const bool high = lane & 16, odd = lane & 8;
  const float a = (high ? v[2] : v[0]) + __shfl_xor_sync(0xffffffffu, high ? v[0] : v[2], 16), b = (high ? v[3] : v[1]) + __shfl_xor_sync(0xffffffffu, high ? v[1] : v[3], 16);
  const float one = (odd ? b : a) + __shfl_xor_sync(0xffffffffu, odd ? a : b, 8);
  return one + __shfl_xor_sync(0xffffffffu, one, 4);
}
__device__ __forceinline__ int block_of(int lane) { return (lane >> 4) * 2 + (lane >> 3 & 1); }

}  // namespace weft::kernels::mamba3
