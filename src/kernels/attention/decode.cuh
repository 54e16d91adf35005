// What the kernels for few queries against many keys share: how a block's slots (lanes or warps that went through keys of their own) become
// rows of the output or of a split's part, and how splits merge, in order.
#pragma once
#include "kernels/attention/documents.cuh"

namespace weft::kernels {

constexpr int kDecodeThreads = 128, kDecodeMostQueries = 8, kDecodeMostSplits = 128;

struct Parts {      // null while there is one split
  float *max, *sum, *o;  // [tokens, heads, splits], the same, [tokens, heads, splits, dim_v]
};
inline size_t decode_workspace(const AttentionShape& s, int splits) {
  return splits == 1 ? 0 : static_cast<size_t>(s.tokens) * static_cast<size_t>(s.heads) * static_cast<size_t>(splits) * static_cast<size_t>(2 + s.dim_v) * sizeof(float);
}
inline Parts decode_parts(const AttentionShape& s, int splits, void* workspace) {
  const int64_t cells = s.tokens * s.heads * splits;
  float* w = static_cast<float*>(workspace);  // o first: read by 16 bytes
  return splits == 1 ? Parts{nullptr, nullptr, nullptr} : Parts{w + cells * s.dim_v, w + cells * (s.dim_v + 1), w};
}

// Rows of a block: query heads of one key head, times queries of a document.
struct DecodeRows {
  int first;        // token of the document's first query
  int group, row0;  // key head; number of the first row among the document's rows of that key head
  int rows, splits, split;
};
// slot_max and slot_sum [slots, rows], slot_o [slots, rows, width]: natural logarithm's maxima, sums of exp(s - max), weighted values.
template <class T, int kSlots, int kRows, int kWidth>
__device__ __forceinline__ void finish_rows(const AttentionFwd& a, const DecodeRows& x, const float* slot_max, const float* slot_sum, const float* slot_o, const Parts& parts) {
  const AttentionShape& s = a.s;
  const int per_group = s.heads / s.groups;
  for (int r = 0; r < x.rows; ++r) {
    const int head = x.group * per_group + (x.row0 + r) % per_group;
    const int64_t row = (int64_t{x.first} + (x.row0 + r) / per_group) * s.heads + head;
    float top = -INFINITY, total = 0;
    for (int i = 0; i < kSlots; ++i) top = fmaxf(top, slot_max[i * kRows + r]);
    const float base = top == -INFINITY ? 0.0f : top;
    for (int i = 0; i < kSlots; ++i) total += slot_sum[i * kRows + r] * expf(slot_max[i * kRows + r] - base);
    float factor = 1;
    if (parts.max == nullptr && a.sinks != nullptr) factor = add_sink(a.sinks[head], &top, &total);
    const float scale = parts.max != nullptr ? 1.0f : total == 0 ? 0.0f : factor / total;
    for (int c = static_cast<int>(threadIdx.x); c < s.dim_v; c += kDecodeThreads) {
      float o = 0;
      for (int i = 0; i < kSlots; ++i) o += slot_o[(i * kRows + r) * kWidth + c] * expf(slot_max[i * kRows + r] - base);
      if (parts.max != nullptr) parts.o[(row * x.splits + x.split) * s.dim_v + c] = o;
      else static_cast<T*>(a.o)[row * s.dim_v + c] = dev::from_f32<T>(o * scale);
    }
    if (threadIdx.x != 0) continue;
    if (parts.max != nullptr) parts.max[row * x.splits + x.split] = top, parts.sum[row * x.splits + x.split] = total;
    else a.lse[row] = total == 0 ? -INFINITY : top + logf(total);
  }
}

// kWarps warps a row, each of which adds every kWarps-th split, at most eight; four columns a lane. It may be started before the parts are there.
template <class T, int kWarps>
__global__ static void __launch_bounds__(kWarps == 1 ? kDecodeThreads : kWarps * 32) merge_kernel(AttentionFwd a, int splits, Parts parts) {
  constexpr int kMine = kDecodeMostSplits / 16, kEach = (kWarps * kMine + 31) / 32, kColumns = kAttentionMostDim / 128;
  __shared__ float4 sums[kWarps][kWarps == 1 ? 1 : kAttentionMostDim / 4];
#if defined(__CUDA_ARCH__)
  asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
  const int lane = lane_id(), warp = kWarps == 1 ? 0 : warp_id(), dim_v = a.s.dim_v;
  const int64_t row = kWarps == 1 ? static_cast<int64_t>(blockIdx.x) * (kDecodeThreads / 32) + warp_id() : blockIdx.x;
  if (row >= a.s.tokens * a.s.heads) return;
  float4 o[kMine][kColumns];
#pragma unroll
  for (int j = 0; j < kMine; ++j)
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int i = warp + j * kWarps, col = c * 128 + lane * 4;
      o[j][c] = i < splits && col < dim_v ? *reinterpret_cast<const float4*>(parts.o + (row * splits + i) * dim_v + col) : float4{0, 0, 0, 0};
    }
  float weight[kEach], top = -INFINITY, total = 0;
#pragma unroll
  for (int e = 0; e < kEach; ++e) weight[e] = e * 32 + lane < splits ? parts.max[row * splits + e * 32 + lane] : -INFINITY, top = fmaxf(top, weight[e]);
  top = dev::lanes_reduce(top, 32, dev::MaxOp{});
  const float base = top == -INFINITY ? 0.0f : top;
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    weight[e] = expf(weight[e] - base);
    if (e * 32 + lane < splits) total += parts.sum[row * splits + e * 32 + lane] * weight[e];
  }
  total = dev::lanes_reduce(total);
  const float factor = a.sinks == nullptr ? 1.0f : add_sink(a.sinks[row % a.s.heads], &top, &total);
  const float scale = total == 0 ? 0.0f : factor / total;
  float4 x[kColumns] = {};
#pragma unroll
  for (int j = 0; j < kMine; ++j) {
    const float w = __shfl_sync(0xffffffffu, weight[j * kWarps / 32], (warp + j * kWarps) & 31) * scale;
#pragma unroll
    for (int c = 0; c < kColumns; ++c) x[c].x += w * o[j][c].x, x[c].y += w * o[j][c].y, x[c].z += w * o[j][c].z, x[c].w += w * o[j][c].w;
  }
  T* to = static_cast<T*>(a.o) + row * dim_v;
  if constexpr (kWarps == 1) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c)
      if (const int col = c * 128 + lane * 4; col < dim_v) to[col] = dev::from_f32<T>(x[c].x), to[col + 1] = dev::from_f32<T>(x[c].y), to[col + 2] = dev::from_f32<T>(x[c].z), to[col + 3] = dev::from_f32<T>(x[c].w);
  } else {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) sums[warp][c * 32 + lane] = x[c];
    __syncthreads();
    for (int c = static_cast<int>(threadIdx.x); c < dim_v; c += kWarps * 32) {
      float y = 0;
#pragma unroll
      for (int i = 0; i < kWarps; ++i) y += reinterpret_cast<const float*>(sums[i])[c];
      to[c] = dev::from_f32<T>(y);
    }
  }
  if (lane == 0 && warp == 0) a.lse[row] = total == 0 ? -INFINITY : top + logf(total);
}
template <class T>
void merge_splits(const AttentionFwd& a, int splits, const Parts& parts, const Launch& launch) {
  const int64_t rows = a.s.tokens * a.s.heads;
  if (splits == 1 || rows == 0) return;
  const bool few = splits <= kDecodeMostSplits / 16;
  const dim3 grid(static_cast<unsigned>(few ? ceil_div(rows, kDecodeThreads / 32) : rows)), block(few ? kDecodeThreads : 16 * 32);
  const auto kernel = few ? merge_kernel<T, 1> : merge_kernel<T, 16>;
#if defined(WEFT_EMULATE)
  launch_grid(kernel, grid, block, 0, launch.stream, a, splits, parts);
#else
  cudaLaunchAttribute early{};  // its blocks come up while the splits end
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization, early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = block, config.stream = launch.stream, config.attrs = &early, config.numAttrs = 1;
  cudaLaunchKernelEx(&config, kernel, a, splits, parts);
  check_launch("merge of attention splits");
#endif
}

}  // namespace weft::kernels
