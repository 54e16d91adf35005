// A block a token, 64 keys at a time in shared memory as fp32, four threads a key that share the heads. Three walks over the keys: maxima
// and sums of the target's heads with the indexer's scores; the target's mean; the gradients. Bound: fp32 FMA; in the dense phase also
// L2, since every token reads all keys before it.
#include "kernels/common/device.cuh"
#include "kernels/indexer/chosen_loss.cuh"
#include "kernels/indexer/loss.h"

namespace weft::kernels {
namespace {

constexpr int kThreads = 256, kTile = 64, kShare = kThreads / kTile;

__device__ __forceinline__ float at(const void* p, DType t, int64_t i) {
  return t == DType::kBf16 ? __bfloat162float(static_cast<const dev::bf16*>(p)[i]) : static_cast<const float*>(p)[i];
}

struct Places {  // of shared memory, in floats
  int target_q, q, gate, tile, max, sum, partial, dx, scratch, p, scores, keys, all;
  __host__ __device__ Places(const IndexerLoss& a, int most) {
    int next = 0;
    auto take = [&](int n) { next += n; return next - n; };
    target_q = take(a.target_heads * a.target_dim), q = take(a.heads * a.dim), gate = take(a.heads);
    tile = take(kTile * ((a.target_dim > a.dim ? a.target_dim : a.dim) + 1));
    max = take(a.target_heads * kTile > a.heads ? a.target_heads * kTile : a.heads), sum = take(a.target_heads * kTile);
    partial = take(kThreads), dx = take(a.heads * kTile), scratch = take(33), p = take(most), scores = take(most), keys = take(most), all = next;
  }
};
// Keys that one token may see, rounded up to whole tiles.
__host__ __device__ int most_keys(const IndexerLoss& a) {
  const int n = a.indices != nullptr ? a.top_k : a.longest;
  return (n + kTile - 1) / kTile * kTile;
}

__global__ void __launch_bounds__(kThreads) loss_kernel(const IndexerLoss a) {
  WEFT_DYNAMIC_SMEM(raw);
  float* sm = reinterpret_cast<float*>(raw);
  const Places place(a, most_keys(a));
  const int64_t t = blockIdx.x;
  const int J = a.heads, D = a.dim, H = a.target_heads, E = a.target_dim, tid = threadIdx.x, slot = tid % kTile, part = tid / kTile;
  int64_t low = 0, high = a.documents - 1;  // the last document that starts at or before t
  while (low < high) {
    const int64_t mid = (low + high + 1) / 2;
    if (a.cu_seqlens[mid] <= t) low = mid; else high = mid - 1;
  }
  const int64_t start = a.cu_seqlens[low];
  const int n = a.indices ? a.top_k : static_cast<int>(t - start) + 1, tiles = (n + kTile - 1) / kTile;
  float *target_q = sm + place.target_q, *q = sm + place.q, *gate = sm + place.gate, *tile = sm + place.tile, *top = sm + place.max, *sum = sm + place.sum;
  float *partial = sm + place.partial, *dx = sm + place.dx, *scratch = sm + place.scratch, *p = sm + place.p, *scores = sm + place.scores;
  int* keys = reinterpret_cast<int*>(sm + place.keys);  // offset of the key's token from t, or -1: none
  for (int i = tid; i < H * E; i += kThreads) target_q[i] = a.scale * at(a.target_q, a.target_dtype, t * H * E + i);
  for (int i = tid; i < J * D; i += kThreads) q[i] = at(a.q, a.dtype, t * J * D + i);
  for (int i = tid; i < J; i += kThreads) gate[i] = a.gate[t * J + i];
  for (int i = tid; i < H * kTile; i += kThreads) top[i] = -INFINITY, sum[i] = 0;
  for (int i = tid; i < tiles * kTile; i += kThreads) {
    int back = -1;
    if (i < n) {
      const int64_t s = a.indices ? a.indices[t * a.top_k + i] : start + i;
      if (s >= start && s <= t) back = static_cast<int>(t - s);
      for (int j = 0; a.indices && back >= 0 && j < i; ++j)
        if (a.indices[t * a.top_k + j] == s) back = -1;  // named before
    }
    keys[i] = back, p[i] = 0, scores[i] = -INFINITY;
  }
  __syncthreads();
  auto load_tile = [&](int first, const void* from, DType type, int64_t row, int64_t offset, int dim) {
    __syncthreads();
    for (int i = tid; i < kTile * dim; i += kThreads) {
      const int back = keys[first + i / dim];
      tile[i / dim * (dim + 1) + i % dim] = back < 0 ? 0.f : at(from, type, (t - back) * row + offset + i % dim);
    }
    __syncthreads();
  };
  auto dot = [&](const float* left, int dim) {
    float s = 0;
    for (int d = 0; d < dim; ++d) s += left[d] * tile[slot * (dim + 1) + d];
    return s;
  };
  auto each_target_head = [&](int first, auto visit) {  // visit(head, score) of this thread's key
    const int heads = H / a.target_groups;
    for (int g = 0; g < a.target_groups; ++g) {
      load_tile(first, a.target_k, a.target_dtype, static_cast<int64_t>(a.target_groups) * E, static_cast<int64_t>(g) * E, E);
      for (int h = g * heads + part; h < (g + 1) * heads; h += kShare) visit(h, dot(target_q + h * E, E));
    }
  };
  for (int first = 0; first < tiles * kTile; first += kTile) {
    const bool real = keys[first + slot] >= 0;
    each_target_head(first, [&](int h, float s) {
      if (!real) return;
      float &m = top[h * kTile + slot], &z = sum[h * kTile + slot];
      const float now = fmaxf(m, s);
      z = (m == -INFINITY ? 0.f : z * __expf(m - now)) + __expf(s - now), m = now;
    });
    load_tile(first, a.k, a.dtype, D, 0, D);
    float s = 0;
    for (int j = part; j < J; j += kShare) {
      const float x = dot(q + j * D, D);
      s += gate[j] * (a.relu ? (x > 0.f || x != x ? x : 0.f) : x);
    }
    partial[tid] = s;
    __syncthreads();
    if (tid < kTile && real) {
      s = 0;
      for (int w = 0; w < kShare; ++w) s += partial[w * kTile + tid];
      scores[first + tid] = s;
    }
  }
  __syncthreads();
  for (int h = warp_id(); h < H; h += kThreads / 32) {  // the slots of a head together
    const float m0 = top[h * kTile + lane_id()], m1 = top[h * kTile + 32 + lane_id()], m = warp_max(fmaxf(m0, m1));
    const float z = warp_sum((m0 == -INFINITY ? 0.f : sum[h * kTile + lane_id()] * __expf(m0 - m)) + (m1 == -INFINITY ? 0.f : sum[h * kTile + 32 + lane_id()] * __expf(m1 - m)));
    __syncwarp();
    if (lane_id() == 0) top[h * kTile] = m, sum[h * kTile] = z;
  }
  for (int first = 0; first < tiles * kTile; first += kTile) {
    float s = 0;
    each_target_head(first, [&](int h, float score) { s += __expf(score - top[h * kTile]) / sum[h * kTile]; });
    partial[tid] = s;
    __syncthreads();
    if (tid < kTile && keys[first + tid] >= 0) {
      s = 0;
      for (int w = 0; w < kShare; ++w) s += partial[w * kTile + tid];
      p[first + tid] = s;
    }
  }
  __syncthreads();
  float mass = 0, most = -INFINITY;
  for (int i = tid; i < n; i += kThreads) mass += p[i], most = dev::MaxOp()(most, scores[i]);
  mass = dev::block_reduce(mass, scratch), most = dev::block_reduce(most, scratch, -INFINITY, dev::MaxOp());
  const bool empty = most == -INFINITY && mass == 0.f;
  float z = 0;
  for (int i = tid; i < n; i += kThreads) z += keys[i] < 0 ? 0.f : __expf(scores[i] - most);
  z = dev::block_reduce(z, scratch);
  const float log_z = most + logf(z), weight = a.weights ? a.weights[t] : 1.f, w = empty ? 0.f : weight * (a.coeff / fmaxf(*a.total_weight, 1e-20f));
  float loss = 0;
  for (int i = tid; i < n; i += kThreads) {
    if (keys[i] < 0) continue;
    const float share = p[i] / fmaxf(mass, 1e-20f), log_q = scores[i] - log_z;
    if (share > 0.f || share != share) loss += share * (logf(share) - log_q);
    scores[i] = w * (__expf(log_q) - share);  // dI from here on
  }
  loss = dev::block_reduce(loss, scratch);
  if (tid == 0) a.loss[t] = empty ? 0.f : w * loss;
  if (a.dq == nullptr) return;
  // Gradients: a thread adds up every kThreads-th element of dq in shared memory, over target_q, which is no longer read.
  float *dq = sm + place.target_q, *d_gate = top;
  const bool fits = H * E >= J * D;
  if (!fits) dq = a.dq + t * J * D;
  __syncthreads();
  for (int i = tid; i < J * D; i += kThreads) dq[i] = 0;
  for (int i = tid; i < J; i += kThreads) d_gate[i] = 0;
  for (int first = 0; first < tiles * kTile; first += kTile) {
    load_tile(first, a.k, a.dtype, D, 0, D);
    const float dI = keys[first + slot] < 0 || empty ? 0.f : scores[first + slot];
    for (int j = part; j < J; j += kShare) {
      const float x = dot(q + j * D, D);
      const bool on = !a.relu || !(x <= 0.f);
      dx[j * kTile + slot] = on ? dI * gate[j] : 0.f;
      const float along = warp_sum(on ? dI * x : 0.f);  // the two warps of a slot row add in order below
      if (lane_id() == 0) partial[(slot / 32) * J + j] = along;
    }
    __syncthreads();
    for (int j = tid; j < J; j += kThreads) d_gate[j] += partial[j] + partial[J + j];
    for (int i = tid; i < J * D; i += kThreads) {
      const float *row = dx + i / D * kTile, *column = tile + i % D;
      float s = 0;
      for (int x = 0; x < kTile; ++x) s += row[x] * column[x * (D + 1)];
      dq[i] += s;
    }
    for (int i = tid; i < kTile * D; i += kThreads) {
      const int x = i / D, d = i % D, back = keys[first + x];
      if (back < 0) continue;
      float s = 0;
      for (int j = 0; j < J; ++j) s += dx[j * kTile + x] * q[j * D + d];
      if (s != 0.f) atomicAdd(a.dk + (t - back) * D + d, s);
    }
  }
  __syncthreads();
  if (fits)
    for (int i = tid; i < J * D; i += kThreads) a.dq[t * J * D + i] = dq[i];
  for (int j = tid; j < J; j += kThreads) a.d_gate[t * J + j] = d_gate[j];
}

}  // namespace

Support supports_indexer_loss_sm90(const IndexerLoss& a, const Device& d) {
  if (const Support s = on_sm90(d, a.dtype); !s) return s;
  if (a.target_dtype != DType::kF32 && a.target_dtype != DType::kBf16) return {"the target is not f32 or bf16"};
  if (indexer::takes_chosen_loss(a)) return {};
  if (a.heads < 1 || 2 * a.heads > kThreads) return {"indexer heads are not in 1 .. 128"};
  if (a.target_heads < 1 || a.dim < 1 || a.target_dim < 1) return {"no heads or no dims"};
  if ((static_cast<int64_t>(Places(a, 0).all) + 3 * int64_t{most_keys(a)}) * 4 > d.smem_bytes) return {"a token's keys and heads do not fit in shared memory"};
  return {};
}

void indexer_loss_sm90(const IndexerLoss& a, const Launch& l) {
  if (a.tokens == 0) return;
  if (indexer::takes_chosen_loss(a)) return indexer::chosen_loss(a, l.stream);
  launch_grid(loss_kernel, dim3(static_cast<unsigned>(a.tokens)), dim3(kThreads), static_cast<size_t>(Places(a, most_keys(a)).all) * sizeof(float), l.stream, a);
}

}  // namespace weft::kernels
