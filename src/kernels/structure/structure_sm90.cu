// Forward: a vector of eight columns a thread, the table in cache. Backward: a block adds up a strip of tokens into a table of
// its own in shared memory, a thread a column; strips are added up in order.
#include "kernels/structure/structure.h"

#include "kernels/common/column_sum.cuh"
#include "kernels/common/flat.cuh"

namespace weft::kernels {
namespace {

using namespace dev;

constexpr int kColumns = 64;  // of a block of the backward

// Row of the table for stream c at token t, or -1.
__device__ __forceinline__ int32_t row_of(const StructureStreams& s, int c, int32_t offset, int64_t t) {
  if (s.ids[c] == nullptr) return -1;
  const int32_t id = s.ids[c][t];
  return id < 0 || s.classes[c] == 0 ? -1 : offset + (id < s.classes[c] ? id : s.classes[c] - 1);
}

template <class T>
__global__ void __launch_bounds__(kFlatThreads)
    structure_fwd(StructureFwd a, int64_t first, FastDiv vecs, uint32_t total, bool aligned) {
  const uint32_t i = blockIdx.x * kFlatThreads + threadIdx.x;
  if (i >= total) return;
  const uint32_t local = vecs.div(i);
  const int64_t t = first + local;
  const int col = static_cast<int>(i - local * vecs.d) * 8, count = a.dim - col < 8 ? a.dim - col : 8;
  const bool full = aligned && count == 8;
  float sum[8] = {};
  int32_t offset = 0;
  for (int c = 0; c < a.streams.num; ++c) {
    const int32_t row = row_of(a.streams, c, offset, t);
    offset += a.streams.classes[c];
    if (row < 0) continue;
    float f[8];
    load_some(static_cast<const T*>(a.table) + static_cast<int64_t>(row) * a.dim + col, count, full, f);
    const float scale = a.scale[c];
#pragma unroll
    for (int j = 0; j < 8; ++j) sum[j] += scale * f[j];
  }
  store_some(static_cast<T*>(a.y) + t * a.dim + col, count, full, sum);
}

constexpr int kTile = 64, kBwdThreads = 256;  // tokens staged at once

// Threads are columns times groups of streams; streams own different rows of the table. parts [strips, rows * dim + 8 * slices].
template <class T>
__global__ void __launch_bounds__(kBwdThreads) structure_bwd(StructureBwd a, int32_t rows, int64_t strip, float* parts) {
  WEFT_DYNAMIC_SMEM(structure_smem);
  __shared__ float scratch[33];
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
  float* part = parts + static_cast<int64_t>(blockIdx.x) * (static_cast<int64_t>(rows) * a.dim + 8 * gridDim.y);
  // dS = scale * (sum of dy), dscale = sum over the stream's rows of S * (sum of dy).
  int32_t offset = 0;
  for (int s = 0; s < 8; ++s) {
    float dscale = 0;
    const int32_t end = s < a.streams.num ? offset + a.streams.classes[s] : offset;
    for (int i = offset * width + static_cast<int>(threadIdx.x); i < end * width; i += kBwdThreads) {
      const int64_t at = static_cast<int64_t>(i / width) * a.dim + col0 + i % width;
      dscale += table[i] * to_f32(static_cast<const T*>(a.table)[at]);
      part[at] = a.scale[s] * table[i];
    }
    offset = end;
    dscale = block_reduce(dscale, scratch);
    if (threadIdx.x == 0) part[static_cast<int64_t>(rows) * a.dim + blockIdx.y * 8 + s] = dscale;
  }
}

int32_t rows_of(const StructureStreams& s) {
  int32_t rows = 0;
  for (int c = 0; c < s.num; ++c) rows += s.classes[c];
  return rows;
}
int64_t strip_of(int64_t tokens) {
  const int64_t strip = ceil_div(tokens, 528);
  return strip < 16 ? 16 : strip;
}
size_t smem_of(const StructureBwd& a) {
  return sizeof(float) * (static_cast<size_t>(rows_of(a.streams)) + kTile) *
         static_cast<size_t>(a.dim < kColumns ? a.dim : kColumns);
}

Support fits(const StructureStreams& s, const Device& d, DType t) {
  if (s.num < 1 || s.num > 8) return {"streams are not 1 to 8"};
  return on_sm90(d, t);
}

}  // namespace

Support supports_structure_fwd_sm90(const StructureFwd& a, const Device& d) { return fits(a.streams, d, a.dtype); }
Support supports_structure_bwd_sm90(const StructureBwd& a, const Device& d) {
  if (smem_of(a) > 200 * 1024) return {"the table does not fit in shared memory"};
  return fits(a.streams, d, a.dtype);
}
size_t workspace_structure_bwd_sm90(const StructureBwd& a) {
  const size_t row =
      static_cast<size_t>(rows_of(a.streams)) * static_cast<size_t>(a.dim) + 8 * static_cast<size_t>(ceil_div(a.dim, kColumns));
  return sizeof(float) * static_cast<size_t>(ceil_div(a.tokens, strip_of(a.tokens))) * row;
}

void structure_fwd_sm90(const StructureFwd& a, const Launch& launch) {
  if (a.dim == 0) return;
  const int64_t vecs = ceil_div(a.dim, 8), step = kFlatMost / vecs;
  const bool aligned = a.dim % 8 == 0 && is_aligned(a.table, 16) && is_aligned(a.y, 16);
  for (int64_t first = 0; first < a.tokens; first += step) {
    const int64_t total = (a.tokens - first < step ? a.tokens - first : step) * vecs;
    with_float_type(a.dtype, [&](auto type) {
      launch_grid(structure_fwd<typename decltype(type)::type>, dim3(flat_grid(total, 1)), dim3(kFlatThreads), 0, launch.stream,
                  a, first, FastDiv(static_cast<uint32_t>(vecs)), static_cast<uint32_t>(total), aligned);
    });
  }
}

void structure_bwd_sm90(const StructureBwd& a, const Launch& launch) {
  if (a.tokens == 0 || a.dim == 0) return;
  const int32_t rows = rows_of(a.streams);
  const int64_t strip = strip_of(a.tokens), strips = ceil_div(a.tokens, strip), slices = ceil_div(a.dim, kColumns);
  float* parts = static_cast<float*>(launch.workspace);
  with_float_type(a.dtype, [&](auto type) {
    launch_grid(structure_bwd<typename decltype(type)::type>, dim3(static_cast<unsigned>(strips), static_cast<unsigned>(slices)),
                dim3(kBwdThreads), smem_of(a), launch.stream, a, rows, strip, parts);
  });
  const int64_t table = static_cast<int64_t>(rows) * a.dim, stride = table + 8 * slices;
  if (a.dtable != nullptr) add_column_sums(parts, strips, table, a.dtable, launch.stream, stride);
  if (a.dscale != nullptr)
    for (int64_t y = 0; y < slices; ++y)
      add_column_sums(parts + table + y * 8, strips, a.streams.num, a.dscale, launch.stream, stride);
}

}  // namespace weft::kernels
