// What the attention kernels share: which keys a query sees, tiles of 32 rows in shared memory, and the statistic over rows.
#pragma once
#include "kernels/attention/attention.h"
#include "kernels/common/device.cuh"

namespace weft::kernels {

constexpr int kAttentionTile = 32, kAttentionThreads = 128, kAttentionMostDim = 256;

struct Span {
  int begin, end;
};
__device__ __forceinline__ Span seen_keys(const AttentionShape& s, int query, int queries, int keys) {
  const int at = query + keys - queries;
  return {s.left < 0 || at < s.left ? 0 : at - s.left, s.right < 0 || at + s.right + 1 > keys ? keys : (at + s.right + 1 < 0 ? 0 : at + s.right + 1)};
}
// Queries of a document that see any key of [first, last).
__device__ __forceinline__ Span seeing_queries(const AttentionShape& s, int first, int last, int queries, int keys) {
  const int shift = keys - queries;
  const int begin = s.right < 0 ? 0 : first - s.right - shift, end = s.left < 0 ? queries : last - 1 + s.left - shift + 1;
  return {begin < 0 ? 0 : begin, end > queries ? queries : end};
}

// Row stride in floats of a tile of `dim` columns: 16-byte rows that start four banks apart.
constexpr int tile_stride(int dim) { return (dim + 3) / 4 * 4 + 4; }

// Rows [0, 32) of a global matrix as fp32; rows from `valid` on, and columns from `dim` to the next multiple of 4, are zeros.
template <class T>
__device__ __forceinline__ void load_rows(float* tile, const T* global, int64_t stride, int valid, int dim) {
  const int ld = tile_stride(dim), padded = ld - 4;
  for (int r = warp_id(); r < kAttentionTile; r += kAttentionThreads / 32)
    for (int c = lane_id(); c < padded; c += 32) tile[r * ld + c] = r < valid && c < dim ? dev::to_f32(global[r * stride + c]) : 0.0f;
}

// out[j] = row . rows of b number sub, sub + 4, ...
__device__ __forceinline__ void dot_rows(float (&out)[8], const float* row, const float* b, int ld, int sub) {
#pragma unroll
  for (int j = 0; j < 8; ++j) out[j] = 0;
  for (int c = 0; c < ld - 4; c += 4) {
    const float4 x = *reinterpret_cast<const float4*>(row + c);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float4 y = *reinterpret_cast<const float4*>(b + (sub + 4 * j) * ld + c);
      out[j] += x.x * y.x, out[j] += x.y * y.y, out[j] += x.z * y.z, out[j] += x.w * y.w;
    }
  }
}

// acc[j] (columns 4 (sub + 4 j)..) += sum_i w[i] b[i, :] over the 32 rows of b.
template <int kChunks>
__device__ __forceinline__ void add_rows(float4 (&acc)[kChunks], const float* w, const float* b, int ld, int sub) {
  for (int i = 0; i < kAttentionTile; ++i) {
    const float x = w[i];
#pragma unroll
    for (int j = 0; j < kChunks; ++j) {
      const int c = 4 * (sub + 4 * j);
      if (c >= ld - 4) continue;
      const float4 y = *reinterpret_cast<const float4*>(b + i * ld + c);
      acc[j].x += x * y.x, acc[j].y += x * y.y, acc[j].z += x * y.z, acc[j].w += x * y.w;
    }
  }
}
template <int kChunks, class T>
__device__ __forceinline__ void store_row(const float4 (&acc)[kChunks], T* out, int dim, int sub, float scale) {
#pragma unroll
  for (int j = 0; j < kChunks; ++j) {
    const float f[4] = {acc[j].x, acc[j].y, acc[j].z, acc[j].w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int c = 4 * (sub + 4 * j) + i;
      if (c < dim) out[c] = dev::from_f32<T>(f[i] * scale);
    }
  }
}

struct Dropping {
  uint32_t threshold = 0;
  float keep = 1;
  explicit Dropping(float p) : threshold(static_cast<uint32_t>(static_cast<double>(p) * 4294967296.0)), keep(1 / (1 - p)) {}
};

// The largest of each head: a block a head. `rows` > 0: row_max is [documents, heads, rows], else [tokens, heads].
__global__ static void __launch_bounds__(256) head_max(const float* row_max, float* out, int64_t tokens, int heads, int rows) {
  __shared__ float scratch[33];
  float top = -INFINITY;
  for (int64_t t = threadIdx.x; t < tokens; t += 256)
    top = dev::MaxOp{}(top, rows > 0 ? row_max[(t / rows * heads + blockIdx.x) * rows + t % rows] : row_max[t * heads + blockIdx.x]);
  top = dev::block_reduce(top, scratch, -INFINITY, dev::MaxOp{});
  if (threadIdx.x == 0) out[blockIdx.x] = top;
}

// The sink joins the sum: changes max and sum, and returns what the gathered values are multiplied with.
__device__ __forceinline__ float add_sink(float sink, float* max, float* sum) {
  const float top = fmaxf(*max, sink), factor = *max == -INFINITY ? 0.0f : expf(*max - top);
  *sum = *sum * factor + expf(sink - top), *max = top;
  return factor;
}

inline bool covers_keys(const AttentionShape& s) {  // every row of k belongs to a document
  if (s.host_kv_lens == nullptr || s.host_k_starts == nullptr) return false;
  int64_t next = 0;
  for (int32_t d = 0; d < s.documents; ++d) {
    if (s.host_k_starts[d] != next) return false;
    next += s.host_kv_lens[d];
  }
  return next == s.key_rows;
}

}  // namespace weft::kernels
