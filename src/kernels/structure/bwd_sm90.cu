// Sums of dy by class are a product, one-hot rows of ids times dy, on tensor cores: 16 classes of a stream are a tile, 64 columns and two tiles a
// block's. Products are exact (dy in fp32 is three bf16), sums fp32. More than kMostTiles of them, or no alignment: a block adds up a strip of
// tokens into a table of its own in shared memory, a thread a column. Sums of strips are added up in order.
#include "kernels/common/mma.cuh"
#include "kernels/structure/streams.cuh"

namespace weft::kernels {
namespace {

using namespace dev;
using namespace structure;

constexpr int kColumns = 64;  // of a block of the backward

constexpr int kGroup = 16, kMostTiles = 8, kTileThreads = 256;  // tokens of a product

struct Tiles {  // of 16 classes each
  int32_t num;
  int8_t stream[kMostTiles];
  int16_t first[kMostTiles];  // class of the stream
  int32_t row[kMostTiles];    // of the table
};

// Eight columns of two tokens to the words of eight products: word j holds column j of both. Of fp32, one of its three bf16.
__device__ __forceinline__ void interleave(const Vec8<bf16>& x, const Vec8<bf16>& y, uint32_t (&b)[1][8]) {
  const uint32_t p[4] = {x.raw.x, x.raw.y, x.raw.z, x.raw.w}, q[4] = {y.raw.x, y.raw.y, y.raw.z, y.raw.w};
#pragma unroll
  for (int j = 0; j < 4; ++j) b[0][2 * j] = (p[j] & 0xffffu) | q[j] << 16, b[0][2 * j + 1] = p[j] >> 16 | (q[j] & 0xffff0000u);
}
__device__ __forceinline__ void interleave(const Vec8<float>& x, const Vec8<float>& y, uint32_t (&b)[3][8]) {
  float p[8], q[8];
  unpack(x, p), unpack(y, q);
#pragma unroll
  for (int j = 0; j < 8; ++j)
#pragma unroll
    for (int part = 0; part < 3; ++part) {
      b[part][j] = pack2(p[j], q[j]);
      p[j] -= __uint_as_float(b[part][j] << 16), q[j] -= __uint_as_float(b[part][j] & 0xffff0000u);
    }
}

// Lane (q, r) = (lane / 4, lane % 4) holds tokens 4r to 4r + 3 of a group and columns 8q to 8q + 7; product j has columns j, 8 + j, 16 + j, ...
// Each warp asks for its own vectors kAhead groups ahead (cp.async) and reads back only those: the ring needs no barrier of the block. dim in eights, dy and
// ids aligned. parts [strips, rows * dim].
constexpr int kAhead = 3;
template <class T>
struct TileSlot {
  Vec8<T> dy[4][kTileThreads];
  int4 ids[kTileThreads / 32][2][4];  // of a warp's group: lanes of one column share them
};

template <class T>
__global__ void __launch_bounds__(kTileThreads, sizeof(T) == 2 ? 2 : 1) structure_bwd_tiles(StructureBwd a, Tiles tiles, int32_t rows, int64_t strip, float* parts, uint32_t* done) {
  constexpr int kParts = sizeof(T) == 2 ? 1 : 3, kWarps = kTileThreads / 32;
  WEFT_DYNAMIC_SMEM(structure_sums);
  TileSlot<T>* ring = reinterpret_cast<TileSlot<T>*>(structure_sums);
  if (blockIdx.x == 0 && blockIdx.y == 0 && blockIdx.z == 0 && threadIdx.x == 0) *done = 0;
  const int q = lane_id() / 4, r = lane_id() % 4, col = blockIdx.y * kColumns + q * 8, me = threadIdx.x;
  const int64_t first = blockIdx.x * strip, last = first + strip < a.tokens ? first + strip : a.tokens;
  const int32_t* ids[2];
  int32_t most[2], low[2], high[2];  // classes of rows q and q + 8 of a tile; a row of no class meets no id
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    const int tile = blockIdx.z * 2 + m;
    const bool here = tile < tiles.num;
    const int stream = here ? tiles.stream[tile] : 0, from = here ? tiles.first[tile] : 0;
    ids[m] = here ? a.streams.ids[stream] : nullptr, most[m] = a.streams.classes[stream] - 1;
    low[m] = from + q <= most[m] ? from + q : INT32_MAX, high[m] = from + q + 8 <= most[m] ? from + q + 8 : INT32_MAX;
  }
  auto ask = [&](int64_t t0, int stage) {
    TileSlot<T>& slot = ring[stage];
    const int64_t t = t0 + 4 * r;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const bool here = t + k < last && col < a.dim;
      const T* from = static_cast<const T*>(a.dy) + (here ? (t + k) * a.dim + col : 0);
#pragma unroll
      for (int h = 0; h < static_cast<int>(sizeof(T)) / 2; ++h) cp_async16(reinterpret_cast<uint4*>(&slot.dy[k][me]) + h, reinterpret_cast<const uint4*>(from) + h, here);
    }
    if (q < 2)
      if (const int32_t* from = q == 0 ? ids[0] : ids[1]; from != nullptr) cp_async16(&slot.ids[warp_id()][q][r], from + (t + 4 <= last ? t : 0), t + 4 <= last);
    cp_async_commit();
  };
  // Ids of four tokens; those of a strip's ragged end are read here.
  auto ids_of = [&](int m, int64_t t, int stage, int32_t(&id)[4]) {
    const bool whole = ids[m] != nullptr && t + 4 <= last;
    const int4 v = whole ? ring[stage].ids[warp_id()][m][r] : make_int4(-1, -1, -1, -1);
    id[0] = v.x, id[1] = v.y, id[2] = v.z, id[3] = v.w;
    if (ids[m] == nullptr || whole) return;
#pragma unroll
    for (int k = 0; k < 3; ++k)
      if (t + k < last) id[k] = ids[m][t + k];
  };
  float sums[2][8][4] = {};
#pragma unroll
  for (int k = 0; k < kAhead; ++k) ask(first + (warp_id() + k * kWarps) * kGroup, k);
  int stage = 0;
  for (int64_t t0 = first + warp_id() * kGroup; t0 < last; t0 += kWarps * kGroup) {
    cp_async_wait<kAhead - 1>();
    __syncwarp();  // other lanes' ids have come
    uint32_t onehot[2][4], b0[kParts][8], b1[kParts][8];
    bool present[4] = {};
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      int32_t id[4], v[4];
      ids_of(m, t0 + 4 * r, stage, id);
#pragma unroll
      for (int k = 0; k < 4; ++k) v[k] = id[k] < most[m] ? id[k] : most[m], present[k] = present[k] || v[k] >= 0;
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        onehot[m][2 * k] = (v[2 * k] == low[m] ? 0x3f80u : 0u) | (v[2 * k + 1] == low[m] ? 0x3f800000u : 0u);
        onehot[m][2 * k + 1] = (v[2 * k] == high[m] ? 0x3f80u : 0u) | (v[2 * k + 1] == high[m] ? 0x3f800000u : 0u);
      }
    }
    Vec8<T> dy[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      dy[k] = ring[stage].dy[k][me];
      if (!present[k]) dy[k] = Vec8<T>{};  // whatever a token of no class holds is not used: 0 times NaN would show
    }
    interleave(dy[0], dy[1], b0), interleave(dy[2], dy[3], b1);
    __syncwarp();
    ask(t0 + kAhead * kWarps * kGroup, stage);
    stage = stage + 1 == kAhead ? 0 : stage + 1;
#pragma unroll
    for (int p = 0; p < kParts; ++p)
#pragma unroll
      for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int m = 0; m < 2; ++m) mma_bf16(sums[m][j], onehot[m], b0[p][j], b1[p][j]);
  }
  cp_async_wait<0>();
  __syncthreads();  // the ring's place is taken by the warps' sums
  float* table = reinterpret_cast<float*>(structure_sums);  // [warps][32][kColumns]
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int k = 0; k < 4; ++k) table[(warp_id() * 32 + m * 16 + k / 2 * 8 + q) * kColumns + (2 * r + k % 2) * 8 + j] = sums[m][j][k];
  __syncthreads();
  for (int i = threadIdx.x; i < 32 * kColumns; i += kTileThreads) {
    const int tile = blockIdx.z * 2 + i / (16 * kColumns), in_tile = i / kColumns % 16, c = blockIdx.y * kColumns + i % kColumns;
    if (tile >= tiles.num || c >= a.dim || tiles.first[tile] + in_tile >= a.streams.classes[tiles.stream[tile]]) continue;
    float s = table[i];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) s += table[w * 32 * kColumns + i];
    parts[(static_cast<int64_t>(blockIdx.x) * rows + tiles.row[tile] + in_tile) * a.dim + c] = s;
  }
}

constexpr int kTile = 64, kBwdThreads = 256;  // tokens staged at once

// Threads are columns times groups of streams; streams own different rows of the table. parts [strips, rows * dim].
template <class T>
__global__ void __launch_bounds__(kBwdThreads) structure_bwd(StructureBwd a, int32_t rows, int64_t strip, float* parts, uint32_t* done) {
  WEFT_DYNAMIC_SMEM(structure_smem);
  if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) *done = 0;
  __shared__ int32_t ids[8][kTile];
  const int col0 = blockIdx.y * kColumns, width = a.dim - col0 < kColumns ? a.dim - col0 : kColumns;
  float* table = reinterpret_cast<float*>(structure_smem);  // [rows, width]
  float* dy = table + rows * width;                         // [kTile, width]
  for (int i = threadIdx.x; i < rows * width; i += kBwdThreads) table[i] = 0;
  const int64_t first = blockIdx.x * strip, last = first + strip < a.tokens ? first + strip : a.tokens;
  const int c = static_cast<int>(threadIdx.x) % kColumns, group = static_cast<int>(threadIdx.x) / kColumns;
  constexpr int kGroups = kBwdThreads / kColumns, kEach = kTile / kGroups, kIds = 8 * kTile / kBwdThreads;
  float next_dy[kEach];
  int32_t next_id[kIds];
  auto read = [&](int64_t t0) {
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const int64_t t = t0 + group + k * kGroups;
      next_dy[k] = t < last && c < width ? to_f32(static_cast<const T*>(a.dy)[t * a.dim + col0 + c]) : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < kIds; ++k) {
      const int i = static_cast<int>(threadIdx.x) + k * kBwdThreads, stream = i / kTile;
      const int64_t t = t0 + i % kTile;
      int32_t offset = 0;
      for (int s = 0; s < stream && s < a.streams.num; ++s) offset += a.streams.classes[s];
      next_id[k] = stream < a.streams.num && t < last ? row_of(a.streams, stream, offset, t) : -1;
    }
  };
  read(first);
  for (int64_t t0 = first; t0 < last; t0 += kTile) {
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kEach; ++k)
      if (c < width) dy[(group + k * kGroups) * width + c] = next_dy[k];
#pragma unroll
    for (int k = 0; k < kIds; ++k) {
      const int i = static_cast<int>(threadIdx.x) + k * kBwdThreads;
      ids[i / kTile][i % kTile] = next_id[k];
    }
    __syncthreads();
    read(t0 + kTile);
    if (c < width)
      for (int s = group; s < a.streams.num; s += kGroups)
#pragma unroll 4
        for (int t = 0; t < kTile; ++t)
          if (ids[s][t] >= 0) table[ids[s][t] * width + c] += dy[t * width + c];
  }
  __syncthreads();
  float* part = parts + static_cast<int64_t>(blockIdx.x) * rows * a.dim;
  for (int i = threadIdx.x; i < rows * width; i += kBwdThreads) part[static_cast<int64_t>(i / width) * a.dim + col0 + i % width] = table[i];
}

// dS = scale * (sum of dy), dscale = sum over the stream's rows of S * (sum of dy). A block a row of the table: 64 columns at a time by 16
// threads over every 16th strip, then those 16 in order. The last block to end adds up the rows of each stream.
template <class T>
__global__ void __launch_bounds__(1024) structure_finish(StructureBwd a, const float* parts, int64_t strips, float* of_rows, uint32_t* done) {
  __shared__ float sums[16][kColumns + 1], scratch[33];
  __shared__ bool is_last;
  const int row = blockIdx.x, c = threadIdx.x % kColumns, y = threadIdx.x / kColumns;
  int stream = 0;
  for (int32_t end = a.streams.classes[0]; stream + 1 < a.streams.num && row >= end; end += a.streams.classes[++stream]) {}
  const float scale = a.scale[stream];
  float product = 0;
  for (int col0 = 0; col0 < a.dim; col0 += kColumns) {
    const int64_t at = static_cast<int64_t>(row) * a.dim + col0 + c, stride = static_cast<int64_t>(gridDim.x) * a.dim;
    const bool here = col0 + c < a.dim;
    float s = 0;
    if (here) {
#pragma unroll 8
      for (int64_t p = y; p < strips; p += 16) s += parts[p * stride + at];
    }
    __syncthreads();
    sums[y][c] = s;
    __syncthreads();
    if (y != 0 || !here) continue;
#pragma unroll
    for (int i = 1; i < 16; ++i) s += sums[i][c];
    if (a.dtable != nullptr) a.dtable[at] += scale * s;
    product += to_f32(static_cast<const T*>(a.table)[at]) * s;
  }
  if (a.dscale == nullptr) return;
  __syncthreads();
  product = block_reduce(product, scratch);
  if (threadIdx.x == 0) {
    *static_cast<volatile float*>(of_rows + row) = product;
    __threadfence();
    is_last = atomicAdd(done, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!is_last || threadIdx.x >= 8 || static_cast<int>(threadIdx.x) >= a.streams.num) return;
  __threadfence();
  int32_t begin = 0;
  for (int s = 0; s < static_cast<int>(threadIdx.x); ++s) begin += a.streams.classes[s];
  float total = 0;
  for (int32_t i = begin; i < begin + a.streams.classes[threadIdx.x]; ++i) total += static_cast<volatile float*>(of_rows)[i];
  a.dscale[threadIdx.x] += total;
}

Tiles tiles_of(const StructureBwd& a) {  // num 0: too many, or not aligned
  Tiles t{};
  const StructureStreams& s = a.streams;
  int32_t row = 0;
  bool aligned = a.dim % 8 == 0 && is_aligned(a.dy, 16);
  for (const int32_t* ids : s.ids) aligned = aligned && is_aligned(ids, 16);
  if (!aligned) return t;
  for (int c = 0; c < s.num; row += s.classes[c++])
    for (int32_t first = 0; first < s.classes[c]; first += 16) {
      if (t.num == kMostTiles) return {};
      t.stream[t.num] = static_cast<int8_t>(c), t.first[t.num] = static_cast<int16_t>(first), t.row[t.num++] = row + first;
    }
  return t;
}
int64_t strip_of(const StructureBwd& a) {  // blocks: what the processors of an H200 hold at once
  const bool tiles = tiles_of(a).num > 0;
  const int64_t strip = tiles ? ceil_div(ceil_div(a.tokens, 264), kGroup) * kGroup : ceil_div(a.tokens, 528);
  return strip < 16 ? 16 : strip;
}
size_t smem_of(const StructureBwd& a) {
  if (tiles_of(a).num > 0) {
    const size_t ring = kAhead * (a.dtype == DType::kBf16 ? sizeof(TileSlot<bf16>) : sizeof(TileSlot<float>)), sums = sizeof(float) * kTileThreads * kColumns;
    return ring > sums ? ring : sums;
  }
  return sizeof(float) * (static_cast<size_t>(rows_of(a.streams)) + kTile) *
         static_cast<size_t>(a.dim < kColumns ? a.dim : kColumns);
}

}  // namespace

Support supports_structure_bwd_sm90(const StructureBwd& a, const Device& d) {
  if (smem_of(a) > 200 * 1024) return {"the table does not fit in shared memory"};
  return fits(a.streams, d, a.dtype);
}
size_t workspace_structure_bwd_sm90(const StructureBwd& a) {
  const size_t rows = static_cast<size_t>(rows_of(a.streams));
  return sizeof(float) * (static_cast<size_t>(ceil_div(a.tokens, strip_of(a))) * rows * static_cast<size_t>(a.dim) + rows + 1);
}

void structure_bwd_sm90(const StructureBwd& a, const Launch& launch) {
  if (a.tokens == 0 || a.dim == 0) return;
  const int32_t rows = rows_of(a.streams);
  if (rows == 0) return;
  const int64_t strip = strip_of(a), strips = ceil_div(a.tokens, strip), slices = ceil_div(a.dim, kColumns);
  float *parts = static_cast<float*>(launch.workspace), *of_rows = parts + strips * rows * a.dim;
  uint32_t* done = reinterpret_cast<uint32_t*>(of_rows + rows);
  const Tiles tiles = tiles_of(a);
  with_float_type(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (tiles.num > 0)
      launch_grid(structure_bwd_tiles<T>, dim3(static_cast<unsigned>(strips), static_cast<unsigned>(slices), static_cast<unsigned>(ceil_div(tiles.num, 2))),
                  dim3(kTileThreads), smem_of(a), launch.stream, a, tiles, rows, strip, parts, done);
    else
      launch_grid(structure_bwd<T>, dim3(static_cast<unsigned>(strips), static_cast<unsigned>(slices)), dim3(kBwdThreads), smem_of(a), launch.stream, a, rows,
                  strip, parts, done);
    launch_grid(structure_finish<T>, dim3(static_cast<unsigned>(rows)), dim3(1024), 0, launch.stream, a, parts, strips, of_rows, done);
  });
}

}  // namespace weft::kernels
