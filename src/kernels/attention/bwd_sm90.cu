// Backward for what has no tensor-core candidate. One kernel owns 32 queries and walks the keys (delta, then dQ); another owns 32 keys
// of a key head and walks the queries of its query heads in order (dK, dV): no sum depends on timing.
//   p = exp(scale q.k - lse), dp = do.v, ds = scale p (keep dp - delta), delta = o.do; dV += (keep p)^T dO, dK += ds^T Q, dQ += ds K
// An output rounded to bf16 would leave its error in delta, where dp - delta may cancel: there delta = sum_j keep p_j dp_j, from a
// walk of its own.
#include "kernels/attention/documents.cuh"

namespace weft::kernels {
namespace {

constexpr int kTile = kAttentionTile;

template <class T>
__global__ void __launch_bounds__(256) deltas(const T* o, const T* d_o, float* out, int64_t rows, int dim) {  // a warp a row
  const int64_t row = static_cast<int64_t>(blockIdx.x) * 8 + warp_id();
  if (row >= rows) return;
  float sum = 0;
  for (int c = lane_id(); c < dim; c += 32) sum += dev::to_f32(o[row * dim + c]) * dev::to_f32(d_o[row * dim + c]);
  sum = warp_sum(sum);
  if (lane_id() == 0) out[row] = sum;
}

// d_sinks[h] -= sum_t exp(sink - lse) delta: a block a head.
__global__ void __launch_bounds__(256) sink_sums(const float* sinks, const float* lse, const float* delta, float* d_sinks, int64_t tokens, int heads) {
  __shared__ float scratch[33];
  float sum = 0;
  for (int64_t t = threadIdx.x; t < tokens; t += 256) sum += expf(sinks[blockIdx.x] - lse[t * heads + blockIdx.x]) * delta[t * heads + blockIdx.x];
  sum = dev::block_reduce(sum, scratch);
  if (threadIdx.x == 0) d_sinks[blockIdx.x] -= sum;
}

template <class T>
__global__ void __launch_bounds__(256) zero(T* p, int64_t count) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x; i < count; i += static_cast<int64_t>(gridDim.x) * 256) p[i] = dev::from_f32<T>(0.0f);
}

struct Pair {
  float kept, ds;
};
__device__ __forceinline__ Pair pair(const AttentionShape& s, const Dropping& drop, uint32_t seed, int64_t query, int64_t key, bool seen, float dot, float dp, float lse,
                                     float delta) {
  if (!seen) return {0, 0};
  const float p = expf(dot * s.scale - lse);
  const float keep = drop.threshold == 0 ? 1.0f
                     : attention_hash(seed, static_cast<uint32_t>(query), static_cast<uint32_t>(key)) < drop.threshold ? 0.0f : drop.keep;
  return {p * keep, s.scale * p * (keep * dp - delta)};
}

template <class T, int kChunks>
__global__ void __launch_bounds__(kAttentionThreads) key_grads(AttentionBwd a, const float* delta, int k_blocks, Dropping drop) {
  WEFT_DYNAMIC_SMEM(raw);
  const AttentionShape& s = a.s;
  const int doc = static_cast<int>(blockIdx.x) / k_blocks, k0 = static_cast<int>(blockIdx.x) % k_blocks * kTile, group = static_cast<int>(blockIdx.y);
  const int first = s.cu_q[doc], queries = s.cu_q[doc + 1] - first, keys = s.kv_lens[doc];
  if (k0 >= keys) return;
  const int64_t key0 = s.k_starts[doc];
  const int valid = keys - k0 < kTile ? keys - k0 : kTile, per_group = s.heads / s.groups;
  const int ld = tile_stride(s.dim), ld_v = tile_stride(s.dim_v), r = static_cast<int>(threadIdx.x) / 4, sub = static_cast<int>(threadIdx.x) % 4;
  float* k = reinterpret_cast<float*>(raw);
  float *q = k + kTile * ld, *v = q + kTile * ld, *d_o = v + kTile * ld_v, *lse = d_o + kTile * ld_v, *del = lse + kTile;
  float *p = del + kTile + r * 33, *ds = p + kTile * 33;
  load_rows(k, static_cast<const T*>(a.k) + (key0 + k0) * s.k_stride + static_cast<int64_t>(group) * s.dim, s.k_stride, valid, s.dim);
  load_rows(v, static_cast<const T*>(a.v) + (key0 + k0) * s.v_stride + static_cast<int64_t>(group) * s.dim_v, s.v_stride, valid, s.dim_v);
  const Span walk = seeing_queries(s, k0, k0 + valid, queries, keys);
  float4 dk[kChunks] = {}, dv[kChunks] = {};
  for (int h = group * per_group; h < (group + 1) * per_group; ++h) {
    const uint32_t seed = attention_head_seed(s.seed, h);
    for (int q0 = walk.begin / kTile * kTile; q0 < walk.end; q0 += kTile) {
      const int64_t row = int64_t{first} + q0;
      const int rows = queries - q0;
      __syncthreads();
      load_rows(q, static_cast<const T*>(a.q) + row * s.q_stride + static_cast<int64_t>(h) * s.dim, s.q_stride, rows, s.dim);
      load_rows(d_o, static_cast<const T*>(a.d_o) + (row * s.heads + h) * s.dim_v, static_cast<int64_t>(s.heads) * s.dim_v, rows, s.dim_v);
      if (threadIdx.x < kTile) {
        const bool real = static_cast<int>(threadIdx.x) < rows;
        lse[threadIdx.x] = real ? a.lse[(row + threadIdx.x) * s.heads + h] : 0.0f;
        del[threadIdx.x] = real ? delta[(row + threadIdx.x) * s.heads + h] : 0.0f;
      }
      __syncthreads();
      float dot[8], dp[8];
      dot_rows(dot, k + r * ld, q, ld, sub);
      dot_rows(dp, v + r * ld_v, d_o, ld_v, sub);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const int i = sub + 4 * j;
        const Span see = i < rows ? seen_keys(s, q0 + i, queries, keys) : Span{0, 0};
        const Pair x = pair(s, drop, seed, row + i, key0 + k0 + r, k0 + r >= see.begin && k0 + r < see.end, dot[j], dp[j], lse[i], del[i]);
        p[i] = x.kept, ds[i] = x.ds;
      }
      __syncwarp();
      add_rows(dv, p, d_o, ld_v, sub);
      add_rows(dk, ds, q, ld, sub);
      __syncwarp();
    }
  }
  if (r >= valid) return;
  store_row(dk, static_cast<T*>(a.dk) + ((key0 + k0 + r) * s.groups + group) * s.dim, s.dim, sub, 1.0f);
  store_row(dv, static_cast<T*>(a.dv) + ((key0 + k0 + r) * s.groups + group) * s.dim_v, s.dim_v, sub, 1.0f);
}

template <class T>
constexpr bool kDeltaOfOutput = std::is_same_v<T, float>;

template <class T, int kChunks>
__global__ void __launch_bounds__(kAttentionThreads) query_grads(AttentionBwd a, float* delta, int q_blocks, Dropping drop) {
  WEFT_DYNAMIC_SMEM(raw);
  const AttentionShape& s = a.s;
  const int doc = static_cast<int>(blockIdx.x) / q_blocks, q0 = static_cast<int>(blockIdx.x) % q_blocks * kTile, head = static_cast<int>(blockIdx.y);
  const int first = s.cu_q[doc], queries = s.cu_q[doc + 1] - first, keys = s.kv_lens[doc], group = head / (s.heads / s.groups);
  if (q0 >= queries) return;
  const int64_t key0 = s.k_starts[doc], row = int64_t{first} + q0;
  const int rows = queries - q0 < kTile ? queries - q0 : kTile;
  const int ld = tile_stride(s.dim), ld_v = tile_stride(s.dim_v), r = static_cast<int>(threadIdx.x) / 4, sub = static_cast<int>(threadIdx.x) % 4;
  float* q = reinterpret_cast<float*>(raw);
  float *k = q + kTile * ld, *d_o = k + kTile * ld, *v = d_o + kTile * ld_v, *ds = v + kTile * ld_v + r * 33;
  load_rows(q, static_cast<const T*>(a.q) + row * s.q_stride + static_cast<int64_t>(head) * s.dim, s.q_stride, rows, s.dim);
  load_rows(d_o, static_cast<const T*>(a.d_o) + (row * s.heads + head) * s.dim_v, static_cast<int64_t>(s.heads) * s.dim_v, rows, s.dim_v);
  const Span mine = r < rows ? seen_keys(s, q0 + r, queries, keys) : Span{0, 0};
  const float lse = r < rows ? a.lse[(row + r) * s.heads + head] : 0.0f;
  const uint32_t seed = attention_head_seed(s.seed, head);
  const int begin = seen_keys(s, q0, queries, keys).begin / kTile * kTile, end = seen_keys(s, q0 + rows - 1, queries, keys).end;
  float dot[8], dp[8];
  const auto products = [&](int k0) {  // of this thread's query with keys k0 + sub, + 4, ...
    __syncthreads();
    load_rows(k, static_cast<const T*>(a.k) + (key0 + k0) * s.k_stride + static_cast<int64_t>(group) * s.dim, s.k_stride, keys - k0, s.dim);
    load_rows(v, static_cast<const T*>(a.v) + (key0 + k0) * s.v_stride + static_cast<int64_t>(group) * s.dim_v, s.v_stride, keys - k0, s.dim_v);
    __syncthreads();
    dot_rows(dot, q + r * ld, k, ld, sub);
    dot_rows(dp, d_o + r * ld_v, v, ld_v, sub);
  };
  const auto sees = [&](int key) { return key >= mine.begin && key < mine.end; };
  const auto pair_with = [&](int key, int j, float d) { return pair(s, drop, seed, row + r, key0 + key, sees(key), dot[j], dp[j], lse, d); };
  float del = 0;
  if constexpr (kDeltaOfOutput<T>) {
    if (r < rows) del = delta[(row + r) * s.heads + head];
  } else {
    for (int k0 = begin; k0 < end; k0 += kTile) {
      products(k0);
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if (sees(k0 + sub + 4 * j)) del += pair_with(k0 + sub + 4 * j, j, 0.0f).kept * dp[j];
    }
    del += __shfl_xor_sync(0xffffffffu, del, 1), del += __shfl_xor_sync(0xffffffffu, del, 2);  // the four threads of a query
    if (r < rows && sub == 0) delta[(row + r) * s.heads + head] = del;
  }
  float4 dq[kChunks] = {};
  for (int k0 = begin; k0 < end; k0 += kTile) {
    products(k0);
#pragma unroll
    for (int j = 0; j < 8; ++j) ds[sub + 4 * j] = pair_with(k0 + sub + 4 * j, j, del).ds;
    __syncwarp();
    add_rows(dq, ds, k, ld, sub);
    __syncwarp();
  }
  if (r < rows) store_row(dq, static_cast<T*>(a.dq) + ((row + r) * s.heads + head) * s.dim, s.dim, sub, 1.0f);
}

}  // namespace

Support supports_attention_bwd_sm90(const AttentionBwd& a, const Device& d) {
  if (a.s.dim > kAttentionMostDim || a.s.dim_v > kAttentionMostDim) return {"dim is above 256"};
  if (a.s.heads > 65535) return {"more than 65535 heads"};
  return on_sm90(d, a.s.dtype);
}

size_t workspace_attention_bwd_sm90(const AttentionBwd& a) { return static_cast<size_t>(a.s.tokens) * static_cast<size_t>(a.s.heads) * sizeof(float); }

void attention_bwd_sm90(const AttentionBwd& a, const Launch& launch) {
  const AttentionShape& s = a.s;
  float* delta = static_cast<float*>(launch.workspace);
  const int q_blocks = static_cast<int>(ceil_div(s.max_q, kTile)), k_blocks = static_cast<int>(ceil_div(s.max_kv, kTile));
  const int most = s.dim > s.dim_v ? s.dim : s.dim_v;
  const size_t tiles = static_cast<size_t>(2 * (tile_stride(s.dim) + tile_stride(s.dim_v)));
  const size_t key_smem = kTile * (tiles + 2 + 2 * 33) * sizeof(float), query_smem = kTile * (tiles + 33) * sizeof(float);
  with_float_type(s.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const int64_t rows = s.tokens * s.heads;
    if constexpr (kDeltaOfOutput<T>)
      launch_grid(deltas<T>, dim3(static_cast<unsigned>(ceil_div(rows, 8))), dim3(256), 0, launch.stream, static_cast<const T*>(a.o), static_cast<const T*>(a.d_o), delta,
                  rows, s.dim_v);
    if (!covers_keys(s)) {
      launch_grid(zero<T>, dim3(s.key_rows > 0 ? 264 : 0), dim3(256), 0, launch.stream, static_cast<T*>(a.dk), s.key_rows * s.groups * s.dim);
      launch_grid(zero<T>, dim3(s.key_rows > 0 ? 264 : 0), dim3(256), 0, launch.stream, static_cast<T*>(a.dv), s.key_rows * s.groups * s.dim_v);
    }
    const auto go = [&](auto keys, auto queries) {
      launch_grid(queries, dim3(static_cast<unsigned>(s.documents * q_blocks), static_cast<unsigned>(s.heads)), dim3(kAttentionThreads), query_smem, launch.stream, a,
                  delta, q_blocks, Dropping(s.dropout));
      launch_grid(keys, dim3(static_cast<unsigned>(s.documents * k_blocks), static_cast<unsigned>(s.groups)), dim3(kAttentionThreads), key_smem, launch.stream, a,
                  static_cast<const float*>(delta), k_blocks, Dropping(s.dropout));
    };
    if (most <= 64) go(key_grads<T, 4>, query_grads<T, 4>);
    else if (most <= 128) go(key_grads<T, 8>, query_grads<T, 8>);
    else go(key_grads<T, 16>, query_grads<T, 16>);
  });
  if (a.sinks != nullptr && a.d_sinks != nullptr)
    launch_grid(sink_sums, dim3(static_cast<unsigned>(s.heads)), dim3(256), 0, launch.stream, a.sinks, a.lse, static_cast<const float*>(delta), a.d_sinks, s.tokens, s.heads);
}

}  // namespace weft::kernels
