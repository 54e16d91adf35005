// The feeding warp of the wgmma attention kernels: takes items off the work list, says what they are, and keeps the ring of streamed tiles
// full by bulk tensor copies. A streamed tile that reaches past its document's end holds rows of others there: where it is multiplied by
// probabilities (0 times NaN would be NaN) the warp copies it itself, with zeros in their place.
#pragma once
#include <initializer_list>

#include "kernels/attention/band.cuh"
#include "kernels/common/device.cuh"

namespace weft::kernels::band {

// How an item is made of a document: what is resident and what is streamed.
struct Documents {
  const int32_t *row_cu, *row_starts, *row_lens;           // resident rows: first row of each document; rows, from cu where lens is null
  const int32_t *stream_cu, *stream_starts, *stream_lens;  // streamed rows, the same way
  Sides sides;
  int32_t tile_rows;    // resident rows of an item
  bool last_first;      // the last tile of a document first: under a causal mask it meets most
};
__device__ __forceinline__ int length_of(const int32_t* cu, const int32_t* lens, int d) { return lens == nullptr ? cu[d + 1] - cu[d] : lens[d]; }

// first_slot of packed.cuh for chunks of 64 rows: where a document's statistics begin.
__device__ __forceinline__ int stats_tile(int document_start, int document) { return document_start / kRows + document; }

__device__ __forceinline__ Item item_of(const Documents& docs, const Work& work, int number, bool stats_of_stream) {
  Item it{};
  if (number >= static_cast<int64_t>(work.next[1]) * work.heads) {
    it.tiles = -1;
    return it;
  }
  const WorkTile t = work.tiles[number / work.heads];
  const int in = number - t.base * work.heads, d = t.document, tile = in % t.count, r0 = (docs.last_first ? t.count - 1 - tile : tile) * docs.tile_rows;
  const int rows = length_of(docs.row_cu, docs.row_lens, d);
  const int row0 = docs.row_starts == nullptr ? docs.row_cu[d] : docs.row_starts[d];
  it.head = in / t.count;
  it.row = row0 + r0, it.rows = rows - r0;
  it.stream = docs.stream_starts == nullptr ? docs.stream_cu[d] : docs.stream_starts[d];
  it.length = length_of(docs.stream_cu, docs.stream_lens, d);
  it.position = r0 + it.length - rows;
  const Range r = met(docs.sides, it.position, it.rows < docs.tile_rows ? it.rows : docs.tile_rows, it.length);
  it.first = r.empty() ? 0 : r.begin / kRows * kRows;
  it.tiles = r.empty() ? 0 : (r.end - it.first + kRows - 1) / kRows;
  it.stats = stats_of_stream ? stats_tile(it.stream, d) + it.first / kRows : stats_tile(row0, d) + r0 / kRows;
  return it;
}

// Rows of queries that meet keys.
inline Documents query_documents(const AttentionShape& s, int tile_rows) {
  return {s.cu_q, nullptr, nullptr, nullptr, s.k_starts, s.kv_lens, {s.left, s.right}, tile_rows, s.right >= 0};
}
// Rows of keys that queries meet.
inline Documents key_documents(const AttentionShape& s, int tile_rows) {
  return {nullptr, s.k_starts, s.kv_lens, s.cu_q, nullptr, nullptr, {s.right, s.left}, tile_rows, false};
}
inline int64_t most_tiles(const AttentionShape& s, int tile_rows) { return s.tokens / tile_rows + s.documents; }  // of queries

// What all of these kernels refuse.
inline Support takes(const AttentionShape& s, const Device& d, std::initializer_list<const void*> tensors) {
  if (s.dtype != DType::kBf16) return {"dtype is not bf16"};
  if (s.dropout > 0) return {"no dropout"};
  if (s.documents == 0 || s.tokens == 0 || s.key_rows == 0) return {"no tokens"};
  if (!(s.scale > 0)) return {"scale is not above zero"};
  if (s.left > (1 << 30) || s.right > (1 << 30)) return {"a window of more than 2^30"};
  if (s.tokens >= (int64_t{1} << 30) || s.key_rows >= (int64_t{1} << 30) || (s.tokens / kRows + s.documents) * s.heads >= (int64_t{1} << 31)) return {"2^30 rows or 2^31 tiles"};
  if (s.q_stride % 8 != 0 || s.k_stride % 8 != 0 || s.v_stride % 8 != 0) return {"strides are not multiples of 8"};
  for (const void* p : tensors)
    if (!is_aligned(p, 16)) return {"a tensor is not aligned to 16 bytes"};
  return on_sm90(d);
}

struct Streams {  // the tensors behind the maps, for what the warp copies itself
  const bf16 *a, *b;
  int64_t a_stride, b_stride;
  const float2* stats;     // [stream heads][stats_rows]
  int64_t stats_rows;
  int32_t heads_per_item, heads_per_stream;  // dk, dv: streamed heads of an item (one after the other); else resident heads that share a streamed one
};

template <class S>
struct Feed {
  using Smem = typename S::Smem;
  Smem& sm;
  const CUtensorMap *map_x, *map_y, *map_a, *map_b;
  const Documents& docs;
  const Streams& from;
  const Work& work;
  Ring<S::kStages> ring = {};
  unsigned filled = 0;  // bit w: whether warpgroup w's resident rows have been loaded an odd number of times

  __device__ __forceinline__ void run() {
    int number = static_cast<int>(blockIdx.x);  // of lane 0
    for (Ring<S::kItems> slot;; slot.next()) {
      barrier_wait(&sm.item_free[slot.stage], slot.phase ^ 1);
      Item& it = sm.item[slot.stage];
      if (lane_id() == 0) it = item_of(docs, work, number, S::kStats);
      __syncwarp();
      if (lane_id() == 0) barrier_arrive(&sm.item_full[slot.stage]);
      const int tiles = it.tiles;
      if (tiles < 0) break;
      if (lane_id() == 0) number = static_cast<int>(gridDim.x) + atomicAdd(work.next, 1);
      load_resident(it);
      const int first = it.head * from.heads_per_item / from.heads_per_stream;
      for (int head = first; head < first + from.heads_per_item; ++head)
        for (int j = 0; j < tiles; ++j) load_tile(it, head, j);
    }
  }

 private:
  __device__ __forceinline__ void load_resident(const Item& it) {
#pragma unroll
    for (int w = 0; w < S::kGroups; ++w) {
      if (own_tiles(it, docs.sides, w).empty()) continue;
      barrier_wait(&sm.resident_free[w], static_cast<int>(~filled >> w & 1));
      filled ^= 1u << w;
      if (lane_id() != 0) continue;
      barrier_expect(&sm.resident_full[w], kRows * (S::kX + S::kY) * 2);
#pragma unroll
      for (int p = 0; p < S::kX / 64; ++p) tma_load(sm.resident[w] + p * 4096, map_x, &sm.resident_full[w], it.head * S::kX + p * 64, it.row + w * kRows, 0);
#pragma unroll
      for (int p = 0; p < S::kY / 64; ++p)
        tma_load(sm.resident[w] + (S::kX / 64 + p) * 4096, map_y, &sm.resident_full[w], it.head * S::kY + p * 64, it.row + w * kRows, 0);
    }
  }
  __device__ __forceinline__ void load_tile(const Item& it, int head, int j) {
    const int s = ring.stage, row = it.stream + it.first + j * kRows, valid = it.length - it.first - j * kRows;
    bf16 *a = sm.tile[s], *b = a + S::kA / 64 * 4096;
    barrier_wait(&sm.a_free[s], ring.phase ^ 1);
    const float2* stats = from.stats + head * from.stats_rows + (it.stats + j) * kRows;
    load<S::kA, S::kCleanA, S::kStats>(a, map_a, &sm.a_full[s], from.a, from.a_stride, head, row, valid, sm.stats[S::kStats ? s : 0], stats);
    barrier_wait(&sm.b_free[s], ring.phase ^ 1);
    load<S::kB, S::kCleanB, false>(b, map_b, &sm.b_full[s], from.b, from.b_stride, head, row, valid, nullptr, nullptr);
    ring.next();
  }
  template <int kCols, bool kClean, bool kWithStats>
  __device__ __forceinline__ void load(bf16* to, const CUtensorMap* map, uint64_t* full, const bf16* data, int64_t stride, int head, int row, int valid, float2* stats_to,
                                       const float2* stats) {
    constexpr int kStatsBytes = kWithStats ? kRows * 8 : 0;
    if (valid >= kRows || !kClean) {
      if (lane_id() != 0) return;
      barrier_expect(full, kRows * kCols * 2 + kStatsBytes);
      if constexpr (kWithStats) bulk_load(stats_to, stats, kStatsBytes, full);
#pragma unroll
      for (int p = 0; p < kCols / 64; ++p) tma_load(to + p * 4096, map, full, head * kCols + p * 64, row, 0);
      return;
    }
    const int unit = lane_id() & 7, r0 = lane_id() >> 3;
    const bf16* begin = data + row * stride + head * kCols + unit * 8;
#pragma unroll 1
    for (int p = 0; p < kCols / 64; ++p)
#pragma unroll 1
      for (int r = r0; r < kRows; r += 4)
        cp_async16(to + p * 4096 + r * 64 + ((unit ^ r) & 7) * 8, r < valid ? begin + p * 64 + r * stride : begin, r < valid);
    cp_async_commit();
    cp_async_wait<0>();
    fence_async_proxy();
    __syncwarp();
    if (lane_id() != 0) return;
    if constexpr (kWithStats) {
      barrier_expect(full, kStatsBytes);
      bulk_load(stats_to, stats, kStatsBytes, full);
    } else {
      barrier_arrive(full);
    }
  }
};

// Streamed tiles that others of the block work on.
template <class S>
__device__ __forceinline__ void pass(typename S::Smem& sm, Ring<S::kStages>& ring, int tiles) {
#pragma unroll 1
  for (int j = 0; j < tiles; ++j) {
    barrier_wait(&sm.a_full[ring.stage], ring.phase);
    warp_arrive(&sm.a_free[ring.stage]);
    barrier_wait(&sm.b_full[ring.stage], ring.phase);
    warp_arrive(&sm.b_free[ring.stage]);
    ring.next();
  }
}

}  // namespace weft::kernels::band
