// The chunk pass of the Mamba-3 backward: what its two kinds of warps share. One warpgroup brings the operands
// of one head's chunk to shared memory, one stores its results, two items later; two others multiply, one for the rows of queries, one for those of
// keys. An item is one head of one chunk; items alternate between two stages.
#pragma once
#include "kernels/common/state_group.cuh"
#include "kernels/mamba3/bwd.cuh"

namespace weft::kernels::mamba3 {

constexpr int kChunkThreads = 4 * kGroup;
enum ChunkBarrier { kFeed = 1, kFull = 2, kDone = 4, kFree = 6 };  // kFull, kDone: one a stage

template <int R>
struct ChunkSmem {
  static constexpr int kSteps = kRows / R, kAngles = R == 1 ? 32 : 64, kThetaStride = kAngles + 4;
  struct Stage {
    bf16 q[kRows * kN], k[kRows * kN], S[kP * kN], dS[kP * kN], v[kRows * kP], dY[kRows * kP];
  } stage[2];
  bf16 y[kRows * kP], dv[kRows * kP];  // results: without D v and D dY
  struct Small {
    alignas(16) __half2 turn[kSteps * kAngles + 4];
    float dt[kSteps + 1], a[kSteps + 1], lambda[kSteps + 1];
  } small[2];
  struct Rates {  // of three items: the one that is made, multiplied, finished
    Decay decay;
    float part_end[4];  // of <dS, S>, by warp
  } rates[3];
  alignas(16) float d_theta[2][kSteps * kThetaStride];  // from the queries, from the keys
  float bias[2][4][R * kN];                             // keys, queries; by warp
  float row_w[kRows], gamma[kRows], dot_q[kRows], trace[kRows], col_t[kRows], dot_k[kRows];
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
