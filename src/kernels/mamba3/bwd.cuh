// The passes of the Mamba-3 backward and its workspace. A chunk slot is one chunk of 64 rows (64 / R steps), numbered like the saved states.
// All passes but the first and the last two go through the heads a piece at a time, whole groups; per piece at rank 4:
//   walk: the states S, dS between chunks; fused: all that is local to a chunk, with its q, k, v, dY made again.
// At ranks 1 and 2, where a token has fewer rows to make and to move:
//   walk: besides q, k (bias, rotation), v, dY of every chunk as tiles in the swizzle of wgmma; chunks: all that is local to a chunk, y and dv
//   as tiles; gates: what follows from y and dv.
#pragma once
#include "kernels/common/packed.cuh"
#include "kernels/common/wgmma.cuh"
#include "kernels/mamba3/tiles.cuh"

namespace weft::kernels::mamba3 {

constexpr int kChunksPerBlock = 8;  // of the chunk and gate passes: each block keeps one part of the parameter gradients

inline bool fused(const Mamba3Inputs& a) { return a.rank == 4; }
inline int steps_of(const Mamba3Inputs& a) { return kRows / a.rank; }
inline int64_t chunk_slots(const Mamba3Inputs& a) { return a.tokens / steps_of(a) + a.documents; }
inline int64_t parts(const Mamba3Inputs& a) { return (chunk_slots(a) + kChunksPerBlock - 1) / kChunksPerBlock; }
// Groups at once: as many as give 132 multiprocessors two blocks of the walk (a block a document, direction, head) and four of the chunk pass
// (a block a part, group) each, but no more than kPieceBytes of tiles.
constexpr int64_t kPieceBytes = int64_t{8} << 30;
inline int piece_groups(const Mamba3Inputs& a) {
  const int64_t heads = a.heads / a.groups, wide = kRows * kN * 2, thin = kRows * kP * 2;
  const int64_t tile = fused(a) ? 2 * wide : (a.rank > 1 ? 4 : 3) * wide + 4 * thin, bytes = chunk_slots(a) * heads * tile, blocks = a.documents * heads * 2;
  const int64_t fit = kPieceBytes / (bytes > 0 ? bytes : 1), walk = 264 / (blocks > 0 ? blocks : 1), chunk = 528 / (parts(a) > 0 ? parts(a) : 1), want = walk > chunk ? walk : chunk;
  const int64_t most = fit < want ? fit : want;
  return static_cast<int>(most < 1 ? 1 : most < a.groups ? most : a.groups);
}

struct Piece {
  int head0, heads;  // a piece's heads; those of one group: group_heads
  int group_heads, group0;
};

struct BwdWorkspace {
  // Of a piece, [chunk slots, piece heads, ...]; but for S, dS null at rank 4
  bf16 *q, *k;           // Panels<128>
  bf16 *v, *dY;          // Panels<64>
  bf16 *y, *dv;          // Panels<64>, without D v and D dY
  bf16* S;               // [P, N] before each chunk (at rank 4 panels in the order of Columns); null at rank 1: the saved states
  bf16* dS;              // [P, N] gradient of the state after each chunk
  // Of all heads
  __half2* turns;        // [T, H, angles] cos and sin of theta_t
  float* d_theta;        // [T, H, angles], of one step alone; takes the place of turns
  float* d_theta_sums;   // [chunk slots, H, angles]: of a chunk; then of all later chunks of the document
  float* d_gamma;        // [T, H]
  float* d_scale;        // [T, H]
  float* bias_parts;     // [parts, 2 (B, C), H, R, N]
  float* mimo_parts;     // [parts, 3 (x, z, o), H, R, P]
  float* D_parts;        // [parts, H]
  size_t bytes;
};
BwdWorkspace cut(const Mamba3Bwd&, void* base);

// At rank 4, where columns 8 unit.. of q, k, S, dS lie in panels: tile unit 2 place + half, half 1 for columns from 64 on. A warp's 16 columns of a panel are then 8
// and those 64 on, with which they turn; the units that turn, 0 to 3 where half of the columns do, are spread over the schedulers.
struct Columns {
  static __device__ __forceinline__ int unit(int first, int half) { return ((first & 1) | ((first >> 1 ^ first >> 2) & 1) << 1 | (first >> 1 & 1) << 2) * 2 + half; }
  static __device__ __forceinline__ int first(int panel, int warp) { return ((warp >> 1 ^ panel) & 1) << 2 | panel << 1 | (warp & 1); }  // unit of half 0
};

void bwd_turns(const Mamba3Bwd&, const BwdWorkspace&, cudaStream_t);
void bwd_walk(const Mamba3Bwd&, const BwdWorkspace&, const Piece&, cudaStream_t);
void bwd_fused(const Mamba3Bwd&, const BwdWorkspace&, const Piece&, cudaStream_t);
void bwd_chunks(const Mamba3Bwd&, const BwdWorkspace&, const Piece&, cudaStream_t);
void bwd_gates(const Mamba3Bwd&, const BwdWorkspace&, const Piece&, cudaStream_t);
void bwd_angles(const Mamba3Bwd&, const BwdWorkspace&, cudaStream_t);   // what reaches across chunks through the angles and the look-ahead
void bwd_parameters(const Mamba3Bwd&, const BwdWorkspace&, cudaStream_t);

// Thread t of kThreads copies a tile of kElements to shared memory as it is.
template <int kElements, int kThreads>
__device__ __forceinline__ void copy_tile_async(bf16* to, const bf16* from, int t) {
#pragma unroll
  for (int i = 0; i < kElements / 8 / kThreads; ++i) cp_async16(to + (i * kThreads + t) * 8, from + (i * kThreads + t) * 8, true);
}

// The turns of a chunk's steps for one head, [step * stride + angle]; zeros past `valid` steps. Thread t of n.
__device__ __forceinline__ void load_turns(__half2* to, int stride, const __half2* turns, int64_t heads, int head, int angles, int64_t first, int steps, int valid, int t, int n) {
  const int col = (t & 15) * 4;  // at most 64 angles
  if (col >= angles) return;
  const __half2* from = turns + ((first + (t >> 4)) * heads + head) * angles + col;
#pragma unroll 1
  for (int step = t >> 4; step < steps; step += n >> 4, from += heads * angles * (n >> 4)) {
    const bool ok = step < valid;
    cp_async16(to + step * stride + col, ok ? from : turns, ok);
  }
}

}  // namespace weft::kernels::mamba3
