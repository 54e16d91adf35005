// What the wgmma attention kernels share. A block holds a tile of rows of one head ("resident": queries, or keys for dk and dv) and the rows
// that they meet go by ("streamed": keys, or queries), 64 at a time. Each consumer warpgroup has 64 resident rows and takes part only in the
// streamed tiles that hold a pair of its own; both kernels see the mask the same way round: resident row x of the document stands at
// position x + shift among the streamed rows and meets [position - before, position + after].
#pragma once
#include "kernels/attention/attention.h"
#include "kernels/common/state_group.cuh"

namespace weft::kernels::band {

constexpr int kRows = 64;  // of a streamed tile, and of a warpgroup's resident rows

struct Sides {
  int before, after;  // -1: no bound
};

// One document's row tiles, one entry a tile: the tiles of a document stand together, entries [base, base + count).
struct WorkTile {
  int32_t document, base, count, pad;
};
struct Work {  // made on the device by make_work; long documents first
  int32_t* next;   // [0]: items handed out beyond the first one of each block; [1]: tiles in all
  WorkTile* tiles;
  int32_t heads;   // items are tiles x heads
};
size_t work_bytes(int64_t most_tiles);
// Tiles of `rows` rows of each document: lengths from `lens`, or from neighbours in `cu` where lens is null.
Work make_work(void* memory, const int32_t* cu, const int32_t* lens, int documents, int rows, int heads, cudaStream_t stream);

struct Item {
  int32_t row, rows;        // resident: first row in its tensor; rows from there to the document's end, perhaps more than the tile has
  int32_t position;         // of that row among the document's streamed rows
  int32_t stream, length;   // streamed: the document's first row in its tensor; its rows
  int32_t first, tiles;     // tiles of 64 from row `first` (a multiple of 64) of them on; tiles < 0: no more items
  int32_t head, stats;      // head of the resident tensor; the statistics' tile of streamed row `first` (dk, dv) or of the resident row (dq)
};

struct Range {
  int begin, end;
  __device__ __forceinline__ bool empty() const { return end <= begin; }
};
// Streamed rows that rows [0, rows) from position `at` meet.
__device__ __forceinline__ Range met(const Sides& s, int at, int rows, int length) {
  const int begin = s.before < 0 || at < s.before ? 0 : at - s.before, last = at + rows;
  return {begin, s.after < 0 || last + s.after > length ? length : last + s.after};
}
// The item's tiles that warpgroup `w` takes part in.
__device__ __forceinline__ Range own_tiles(const Item& it, const Sides& s, int w) {
  const int rows = it.rows - w * kRows;
  if (rows <= 0) return {0, 0};
  const Range r = met(s, it.position + w * kRows, rows < kRows ? rows : kRows, it.length);
  if (r.empty()) return {0, 0};
  return {(r.begin - it.first) / kRows, (r.end - it.first + kRows - 1) / kRows};
}

// Stages of a ring, in the order that all roles go through them.
template <int kStages>
struct Ring {
  int stage = 0, phase = 0;
  __device__ __forceinline__ void next() {
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
};

// Shared memory. kX, kY: columns of the resident tensors (kY 0: one only); kA, kB: of the streamed ones, each tile a Panels<kA + kB> whose
// first kA / 64 panels are the first tensor's. kCleanA, kCleanB: zeros past a document's end. kStats: 64 pairs of fp32 come with each tile.
template <int kX_, int kY_, int kA_, int kB_, int kGroups_, bool kCleanA_, bool kCleanB_, bool kStats_>
struct Shape {
  static constexpr int kX = kX_, kY = kY_, kA = kA_, kB = kB_, kGroups = kGroups_;
  static constexpr bool kCleanA = kCleanA_, kCleanB = kCleanB_, kStats = kStats_;
  static constexpr int kItems = 4;  // given out and not finished
  static constexpr int kThreads = (kGroups + 1) * kGroup;  // a warp of the last warpgroup feeds
  static constexpr int kResidentBytes = kGroups * kRows * (kX + kY) * 2, kStageBytes = kRows * (kA + kB) * 2 + (kStats ? kRows * 8 : 0);
  static constexpr int kFit = static_cast<int>((kSmemLimit - 512 - kResidentBytes) / kStageBytes), kStages = kFit < 8 ? kFit : 8;
  static_assert(kStages >= 3);
  // What a block is launched with, 65,536 over its threads in steps of eight, is all that its warpgroups can share out: more would wait for ever.
  static constexpr int kFeedRegisters = 56, kRegisters = kGroups == 2 ? 224 : 152;
  static_assert(kGroups * kRegisters + kFeedRegisters <= (kGroups + 1) * (65536 / kThreads / 8 * 8));
  struct Smem {
    bf16 resident[kGroups][kRows * (kX + kY)];
    bf16 tile[kStages][kRows * (kA + kB)];
    float2 stats[kStats ? kStages : 1][kRows];
    Item item[kItems];
    uint64_t item_full[kItems], item_free[kItems], resident_full[kGroups], resident_free[kGroups];
    uint64_t a_full[kStages], a_free[kStages], b_full[kStages], b_free[kStages];
  };
  static_assert(sizeof(Smem) <= kSmemLimit);
  static __device__ __forceinline__ void init(Smem& sm) {  // by all threads; ends with a barrier
    if (threadIdx.x == 0) {
      for (int i = 0; i < kItems; ++i) barrier_init(&sm.item_full[i], 1), barrier_init(&sm.item_free[i], kGroups * kGroup);
      for (int i = 0; i < kGroups; ++i) barrier_init(&sm.resident_full[i], 1), barrier_init(&sm.resident_free[i], kGroup);
      for (int i = 0; i < kStages; ++i) {
        barrier_init(&sm.a_full[i], 1), barrier_init(&sm.b_full[i], 1);
        barrier_init(&sm.a_free[i], 4 * kGroups), barrier_init(&sm.b_free[i], 4 * kGroups);  // a warp of theirs arrives once
      }
      fence_barrier_init();
    }
    __syncthreads();
  }
};

// A warp has read the tile by wgmma, and waited for that.
__device__ __forceinline__ void warp_arrive(uint64_t* barrier) {
  if (lane_id() == 0) barrier_arrive(barrier);
}

// Whether a warpgroup's 64 rows, the first of them at `position`, and the 64 streamed rows from `tile` on hold a pair that does not count.
__device__ __forceinline__ bool cuts(const Sides& s, int position, int tile, int length) {
  return (s.before >= 0 && position + kRows - 1 - s.before > tile) || (s.after >= 0 && position + s.after < tile + kRows - 1) || tile + kRows > length;
}
// visit(element, hidden) for the thread's 32 sums.
template <class Visit>
__device__ __forceinline__ void each_pair_at_edge(const Sides& s, int position, int tile, int length, Visit visit) {
  const int lane = lane_id(), row = (warp_id() & 3) * 16 + (lane >> 2), col = (lane & 3) * 2;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int at = position + row + 8 * h - tile - col;
    const int low = s.before < 0 ? -kRows : at - s.before, end = length - tile - col, high = s.after < 0 || at + s.after >= end ? end - 1 : at + s.after;
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) visit(4 * n + 2 * h + e, n * 8 + e < low || n * 8 + e > high);
  }
}

// Sums of a 64 x 64 product as the first operand of the next.
__device__ __forceinline__ void pack_operand(uint32_t (&to)[4][4], const float (&s)[32]) {
#pragma unroll
  for (int k = 0; k < 4; ++k)
#pragma unroll
    for (int e = 0; e < 4; ++e) to[k][e] = pack_bf16(s[8 * k + 2 * e], s[8 * k + 2 * e + 1]);
}

// d (+)= a b^T over kK columns: operands in shared memory, both K-major panels.
template <int kK>
__device__ __forceinline__ void multiply_rows(float (&d)[32], const bf16* a, const bf16* b) {
  const uint64_t da = k_major(a), db = k_major(b);
#pragma unroll
  for (int k = 0; k < kK / 16; ++k) {
    const uint64_t step = (k >> 2) * kPanelStep + (k & 3) * kStep16<false>;
    Wgmma<64>::template run<false, false>(d, da + step, db + step, k > 0);
  }
}
// The same, a from registers.
template <int kK>
__device__ __forceinline__ void multiply_rows(float (&d)[32], const uint32_t (&a)[kK / 16][4], const bf16* b) {
  const uint64_t db = k_major(b);
#pragma unroll
  for (int k = 0; k < kK / 16; ++k) Wgmma<64>::template run<false>(d, a[k], db + (k >> 2) * kPanelStep + (k & 3) * kStep16<false>, k > 0);
}
// d = keep d + a b: a 64 x 64 from registers, b 64 rows of kN columns.
template <int kN>
__device__ __forceinline__ void multiply_tile(float (&d)[kN / 2], const uint32_t (&a)[4][4], const bf16* b, int keep) {
  const uint64_t db = mn_major(b);
#pragma unroll
  for (int k = 0; k < 4; ++k) Wgmma<kN>::template run<true>(d, a[k], db + k * kStep16<true>, k > 0 ? 1 : keep);
}

// Resident rows as operands in registers.
template <int kK>
__device__ __forceinline__ void read_rows(uint32_t (&to)[kK / 16][4], const bf16* panels) {
  const int l = lane_id(), row = (warp_id() & 3) * 16 + (l & 15);
#pragma unroll
  for (int k = 0; k < kK / 16; ++k) ldmatrix_x4(to[k], smem_address(Panels<kK>{const_cast<bf16*>(panels)}.unit(row, k * 16 + (l >> 4) * 8)));
}

// The warpgroup's 64 x kN sums times `scale` (of the thread's two rows) as bf16: row r goes to out + r * stride; rows from `rows` on are left out.
template <int kN>
__device__ __forceinline__ void store_sums(bf16* out, int64_t stride, int rows, const float (&d)[kN / 2], float scale0, float scale1) {
  const int lane = lane_id(), row = (warp_id() & 3) * 16 + (lane >> 2);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float scale = h ? scale1 : scale0;
    bf16* to = out + (row + 8 * h) * stride + (lane & 3) * 8;
#pragma unroll
    for (int g = 0; g < kN / 32; ++g) {
      uint32_t v[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) v[j] = pack_bf16(d[4 * (4 * g + j) + 2 * h] * scale, d[4 * (4 * g + j) + 2 * h + 1] * scale);
      transpose_quad(v);
      if (row + 8 * h < rows) *reinterpret_cast<uint4*>(to + g * 32) = {v[0], v[1], v[2], v[3]};
    }
  }
}
template <int kN>
__device__ __forceinline__ void store_zeros(bf16* out, int64_t stride, int rows) {
#pragma unroll 1
  for (int u = fresh(static_cast<int>(threadIdx.x) % kGroup); u < kRows * kN / 8; u += kGroup)
    if (u / (kN / 8) < rows) *reinterpret_cast<uint4*>(out + u / (kN / 8) * stride + u % (kN / 8) * 8) = uint4{0, 0, 0, 0};
}

}  // namespace weft::kernels::band
