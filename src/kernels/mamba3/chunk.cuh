// The chunk pass of the Mamba-3 backward at ranks 1 and 2: what its four kinds of warps share. One warpgroup brings the operands of one head's chunk to shared
// memory, one takes its results away; two multiply: one makes the weights M, W and the gradient of the queries, the other, half an item behind,
// y, dv and the gradient of the keys. An item is one head of one chunk; items alternate between two stages.
#pragma once
#include "kernels/common/state_group.cuh"
#include "kernels/mamba3/bwd.cuh"

namespace weft::kernels::mamba3 {

constexpr int kChunkThreads = 4 * kGroup;
// + stage: kFullQ, kFullK (operands are there). kFreeQ, kFreeK: results have been taken. kWeights: M, W are there; kTaken: they have been read.
// kTurned: d_theta of the queries is there. kDone: the item is. kFeed, kOwnQ, kOwnK: one warpgroup alone.
enum ChunkBarrier { kFeed = 1, kFullQ = 2, kFullK = 4, kFreeQ = 6, kFreeK, kWeights, kTaken, kTurned, kOwnQ, kOwnK, kDone };

template <int R>
struct ChunkSmem {
  static constexpr int kSteps = kRows / R, kAngles = R == 1 ? 32 : 64, kThetaStride = kAngles + 4;
  static constexpr int kSums = R == 1 ? kRows : kRows / 2;  // of columns: two of one step together
  struct Stage {
    bf16 q[kRows * kN], k[kRows * kN], S[kP * kN], dS[kP * kN], v[kRows * kP], dY[kRows * kP];
  } stage[2];
  bf16 M[kRows * kRows], W[kRows * kRows];  // Panels<64>, zero above the diagonal's blocks
  bf16 y[kRows * kP], dv[kRows * kP];       // results: without D v and D dY
  struct Small {
    alignas(16) __half2 turn[kSteps * kAngles + 4];
    float dt[kSteps + 1], a[kSteps + 1], lambda[kSteps + 1];
  } small[2];
  struct Rates {  // of three items: the one that is made, multiplied, finished
    Decay decay;
    float part_end[4];  // of <dS, S>, by warp
  } rates[3];
  alignas(16) float d_theta[kSteps * kThetaStride];  // the keys add to what the queries left
  float bias[2][2][R * kN];  // keys, queries; by pair of warps
  float row_w[kRows], gamma[kRows], dot_q[kRows], trace[kRows], dot_k[kRows];
  float col_t[4][kSums];  // by warp
  // By stage: all but q, k, turns have been read, where the keys' threads and a lane of each of the queries' warps arrive, which read by wgmma
  // alone; the item is done and the sums of the one before have been taken, where all threads do.
  uint64_t used[2], done[2];
  __device__ __forceinline__ void init() {
    for (int s = 0; s < 2; ++s) barrier_init(&used[s], kGroup + 4), barrier_init(&done[s], kChunkThreads);
  }
};

// The items of one block, in order.
struct ChunkWalk {
  const Mamba3Inputs& in;
  const Piece& piece;
  const int steps, group, heads, end;  // group: within the piece
  int slot, h = 0, first = 0, count = 0, left = 0;  // of the chunk: first token, its tokens, tokens to the document's end
  __device__ __forceinline__ ChunkWalk(const Mamba3Inputs& a, const Piece& p, int64_t part, int64_t slots, int g, int s)
      : in(a), piece(p), steps(s), group(g), heads(p.group_heads), end(static_cast<int>((part + 1) * kChunksPerBlock < slots ? (part + 1) * kChunksPerBlock : slots)),
        slot(static_cast<int>(part * kChunksPerBlock)) {
    settle();
  }
  __device__ __forceinline__ bool more() const { return slot < end; }
  __device__ __forceinline__ bool last_head() const { return h + 1 == heads; }
  __device__ __forceinline__ int head() const { return piece.head0 + group * heads + h; }
  __device__ __forceinline__ int64_t tile() const { return static_cast<int64_t>(slot) * piece.heads + group * heads + h; }  // of [chunk slots, piece heads]
  __device__ __forceinline__ int64_t row() const { return static_cast<int64_t>(slot) * in.heads + head(); }           // of [chunk slots, H]
  __device__ __forceinline__ int64_t place(int step) const { return static_cast<int64_t>(first + step) * in.heads + head(); }  // of [T, H]
  __device__ __forceinline__ void next() {
    if (++h == heads) h = 0, ++slot, settle();
  }

 private:
  __device__ __forceinline__ void settle() {
    for (; slot < end; ++slot) {
      const ChunkPlace at = place_of_slot(in.cu_seqlens, in.documents, slot, steps);
      first = static_cast<int>(at.first), count = at.count, left = in.cu_seqlens[at.document + 1] - first;
      if (count > 0) return;
    }
  }
};

}  // namespace weft::kernels::mamba3
