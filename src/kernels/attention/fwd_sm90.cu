// Forward for what has no tensor-core candidate: a block is 32 queries of one head against tiles of 32 keys with a running maximum; four
// threads a query. Bound: the fp32 units.
#include "kernels/attention/documents.cuh"

namespace weft::kernels {
namespace {

template <class T, int kChunks>
__global__ void __launch_bounds__(kAttentionThreads) forward(AttentionFwd a, int q_blocks, Dropping drop, float* row_max) {
  WEFT_DYNAMIC_SMEM(raw);
  const AttentionShape& s = a.s;
  const int doc = static_cast<int>(blockIdx.x) / q_blocks, q0 = static_cast<int>(blockIdx.x) % q_blocks * kAttentionTile, head = static_cast<int>(blockIdx.y);
  const int first = s.cu_q[doc], queries = s.cu_q[doc + 1] - first, keys = s.kv_lens[doc], group = head / (s.heads / s.groups);
  if (q0 >= queries) return;
  const int64_t key0 = s.k_starts[doc];
  const int rows = queries - q0 < kAttentionTile ? queries - q0 : kAttentionTile;
  const int ld = tile_stride(s.dim), ld_v = tile_stride(s.dim_v), r = static_cast<int>(threadIdx.x) / 4, sub = static_cast<int>(threadIdx.x) % 4;
  float* q = reinterpret_cast<float*>(raw);
  float *k = q + kAttentionTile * ld, *v = k + kAttentionTile * ld, *p = v + kAttentionTile * ld_v + r * 33;
  load_rows(q, static_cast<const T*>(a.q) + (int64_t{first} + q0) * s.q_stride + static_cast<int64_t>(head) * s.dim, s.q_stride, rows, s.dim);

  const Span mine = r < rows ? seen_keys(s, q0 + r, queries, keys) : Span{0, 0};
  const int begin = seen_keys(s, q0, queries, keys).begin / kAttentionTile * kAttentionTile, end = seen_keys(s, q0 + rows - 1, queries, keys).end;
  const uint32_t seed = attention_head_seed(s.seed, head);
  float max = -INFINITY, sum = 0;
  float4 o[kChunks] = {};
  for (int k0 = begin; k0 < end; k0 += kAttentionTile) {
    const int valid = keys - k0;
    __syncthreads();
    load_rows(k, static_cast<const T*>(a.k) + (key0 + k0) * s.k_stride + static_cast<int64_t>(group) * s.dim, s.k_stride, valid, s.dim);
    load_rows(v, static_cast<const T*>(a.v) + (key0 + k0) * s.v_stride + static_cast<int64_t>(group) * s.dim_v, s.v_stride, valid, s.dim_v);
    __syncthreads();
    float x[8], top = max;
    dot_rows(x, q + r * ld, k, ld, sub);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int key = k0 + sub + 4 * j;
      x[j] = key >= mine.begin && key < mine.end ? x[j] * s.scale : -INFINITY;
      top = fmaxf(top, x[j]);
    }
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    const float base = top == -INFINITY ? 0.0f : top, before = max == -INFINITY ? 0.0f : expf(max - base);
    float total = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      float e = x[j] == -INFINITY ? 0.0f : expf(x[j] - base);
      total += e;
      if (drop.threshold != 0)
        e = attention_hash(seed, static_cast<uint32_t>(first + q0 + r), static_cast<uint32_t>(key0 + k0 + sub + 4 * j)) < drop.threshold ? 0.0f : e * drop.keep;
      p[sub + 4 * j] = e;
    }
    sum = sum * before + total, max = top;
#pragma unroll
    for (int j = 0; j < kChunks; ++j) o[j].x *= before, o[j].y *= before, o[j].z *= before, o[j].w *= before;
    __syncwarp();
    add_rows(o, p, v, ld_v, sub);
  }
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  sum += __shfl_xor_sync(0xffffffffu, sum, 2);
  if (r >= rows) return;
  const int64_t row = int64_t{first} + q0 + r;
  if (row_max != nullptr && sub == 0) row_max[row * s.heads + head] = max;
  const float factor = a.sinks == nullptr ? 1.0f : add_sink(a.sinks[head], &max, &sum);
  if (sub == 0) a.lse[row * s.heads + head] = sum == 0 ? -INFINITY : max + logf(sum);
  store_row(o, static_cast<T*>(a.o) + (row * s.heads + head) * s.dim_v, s.dim_v, sub, sum == 0 ? 0.0f : factor / sum);
}

size_t smem_bytes(const AttentionShape& s) {
  return static_cast<size_t>(kAttentionTile) * static_cast<size_t>(2 * tile_stride(s.dim) + tile_stride(s.dim_v) + 33) * sizeof(float);
}

}  // namespace

Support supports_attention_fwd_sm90(const AttentionFwd& a, const Device& d) {
  if (a.s.dim > kAttentionMostDim || a.s.dim_v > kAttentionMostDim) return {"dim is above 256"};
  if (a.s.heads > 65535) return {"more than 65535 heads"};
  return on_sm90(d, a.s.dtype);
}

size_t workspace_attention_fwd_sm90(const AttentionFwd& a) {
  return a.max_logit == nullptr ? 0 : static_cast<size_t>(a.s.tokens) * static_cast<size_t>(a.s.heads) * sizeof(float);
}

void attention_fwd_sm90(const AttentionFwd& a, const Launch& launch) {
  const AttentionShape& s = a.s;
  const int blocks = static_cast<int>(ceil_div(s.max_q, kAttentionTile));
  float* row_max = a.max_logit == nullptr ? nullptr : static_cast<float*>(launch.workspace);
  with_float_type(s.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto go = [&](auto kernel) {
      launch_grid(kernel, dim3(static_cast<unsigned>(s.documents * blocks), static_cast<unsigned>(s.heads)), dim3(kAttentionThreads), smem_bytes(s), launch.stream, a,
                  blocks, Dropping(s.dropout), row_max);
    };
    if (s.dim_v <= 64) go(forward<T, 4>);
    else if (s.dim_v <= 128) go(forward<T, 8>);
    else go(forward<T, 16>);
  });
  if (row_max != nullptr)
    launch_grid(head_max, dim3(static_cast<unsigned>(s.heads)), dim3(256), 0, launch.stream, static_cast<const float*>(row_max), a.max_logit, s.tokens, s.heads, 0);
}

}  // namespace weft::kernels
