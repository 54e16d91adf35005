// Sinkhorn and the mapping: a thread a token, everything in registers (Sinkhorn's backward keeps the sums of each half step in shared
// memory and walks them back). Bound: the chain of a half step, a sum of N, a reciprocal and a product, 2 iterations - 1 times.
#include "kernels/common/column_sum.cuh"
#include "kernels/common/device.cuh"
#include "kernels/mhc/mhc_map.h"

namespace weft::kernels {
namespace {

constexpr int kMostIterations = 64;

using dev::block_reduce;

// M = softmax of each row + eps; returns the softmax in p.
template <int N>
__device__ __forceinline__ void start(const float* logits, float eps, float (&p)[N][N], float (&m)[N][N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    float top = logits[i * N], sum = 0;
#pragma unroll
    for (int j = 1; j < N; ++j) top = dev::MaxOp{}(top, logits[i * N + j]);
#pragma unroll
    for (int j = 0; j < N; ++j) sum += p[i][j] = expf(logits[i * N + j] - top);
#pragma unroll
    for (int j = 0; j < N; ++j) p[i][j] /= sum, m[i][j] = p[i][j] + eps;
  }
}
// Divides lines by their sums + eps: columns where `columns`, else rows. The reciprocal is off by one bit at most.
template <int N>
__device__ __forceinline__ void normalize(float (&m)[N][N], bool columns, float eps, float (&divisors)[N]) {
#pragma unroll
  for (int l = 0; l < N; ++l) {
    float sum = eps;
#pragma unroll
    for (int i = 0; i < N; ++i) sum += columns ? m[i][l] : m[l][i];
    divisors[l] = sum;
    const float inverse = __fdividef(1.0f, sum);
#pragma unroll
    for (int i = 0; i < N; ++i) (columns ? m[i][l] : m[l][i]) *= inverse;
  }
}

constexpr int kSinkhornThreads = 64;

template <int N>
__global__ void __launch_bounds__(kSinkhornThreads) sinkhorn_fwd(MhcSinkhornFwd a) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kSinkhornThreads + threadIdx.x;
  if (t >= a.tokens) return;
  float p[N][N], m[N][N], unused[N];
  start<N>(a.logits + t * N * N, a.eps, p, m);
  normalize<N>(m, true, a.eps, unused);
  for (int k = 1; k < a.iterations; ++k) normalize<N>(m, false, a.eps, unused), normalize<N>(m, true, a.eps, unused);
#pragma unroll
  for (int i = 0; i < N * N; ++i) a.h[t * N * N + i] = m[i / N][i % N];
}

template <int N>
__global__ void __launch_bounds__(kSinkhornThreads) sinkhorn_bwd(MhcSinkhornBwd a) {
  WEFT_DYNAMIC_SMEM(sinkhorn_smem);
  const int64_t t = static_cast<int64_t>(blockIdx.x) * kSinkhornThreads + threadIdx.x;
  if (t >= a.tokens) return;
  float* kept = reinterpret_cast<float*>(sinkhorn_smem) + threadIdx.x * N;  // [step][thread][N]
  float p[N][N], m[N][N], g[N][N], divisors[N];
  start<N>(a.logits + t * N * N, a.eps, p, m);
  const int steps = 2 * a.iterations - 1;  // even: columns
  auto forth = [&](bool columns, int s) {
    normalize<N>(m, columns, a.eps, divisors);
#pragma unroll
    for (int l = 0; l < N; ++l) kept[s * (kSinkhornThreads * N) + l] = divisors[l];
  };
  forth(true, 0);
  for (int s = 1; s < steps; s += 2) forth(false, s), forth(true, s + 1);
#pragma unroll
  for (int i = 0; i < N * N; ++i) g[i / N][i % N] = a.dh[t * N * N + i];
  auto back = [&](bool columns, int s) {  // y = m / c: dm = (g - sum g y) / c, and m = y c
#pragma unroll
    for (int l = 0; l < N; ++l) {
      const float divisor = kept[s * (kSinkhornThreads * N) + l], inverse = __fdividef(1.0f, divisor);
      float dot = 0;
#pragma unroll
      for (int i = 0; i < N; ++i) dot += columns ? g[i][l] * m[i][l] : g[l][i] * m[l][i];
#pragma unroll
      for (int i = 0; i < N; ++i) {
        float &gv = columns ? g[i][l] : g[l][i], &mv = columns ? m[i][l] : m[l][i];
        gv = (gv - dot) * inverse, mv *= divisor;
      }
    }
  };
  for (int s = steps - 1; s > 0; s -= 2) back(true, s), back(false, s - 1);
  back(true, 0);
#pragma unroll
  for (int i = 0; i < N; ++i) {
    float dot = 0;
#pragma unroll
    for (int j = 0; j < N; ++j) dot += g[i][j] * p[i][j];
#pragma unroll
    for (int j = 0; j < N; ++j) a.dlogits[(t * N + i) * N + j] = p[i][j] * (g[i][j] - dot);
  }
}

__device__ __forceinline__ float sigmoid_of(float v) { return 1.0f / (1.0f + expf(-v)); }
__device__ __forceinline__ int part_of(int o, int n) { return o < n ? 0 : o < 2 * n ? 1 : 2; }

__global__ void __launch_bounds__(256) map_fwd(MhcMapFwd a) {
  const int outs = a.n * a.n + 2 * a.n;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= a.tokens * outs) return;
  const int64_t t = i / outs;
  const int o = static_cast<int>(i - t * outs), part = part_of(o, a.n);
  const float h = a.r[t] * a.proj[i] * a.alpha[part] + a.bias[o];
  if (part == 0)
    a.pre[t * a.n + o] = sigmoid_of(h) + a.pre_eps;
  else if (part == 1)
    a.post[t * a.n + o - a.n] = 2 * sigmoid_of(h);
  else
    a.res[t * a.n * a.n + o - 2 * a.n] = h;
}

// parts [blocks, outs + 3]: dbias, then dalpha.
__global__ void __launch_bounds__(256) map_bwd(MhcMapBwd a, float* parts) {
  __shared__ float scratch[33];
  const int outs = a.n * a.n + 2 * a.n;
  const int64_t t = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  const bool here = t < a.tokens;
  const float r = here ? a.r[t] : 0.0f;
  float dr = 0, dalpha[3] = {};
  float* out = parts + blockIdx.x * static_cast<int64_t>(outs + 3);
  for (int o = 0; o < outs; ++o) {
    const int part = part_of(o, a.n);
    float d = 0;
    if (here) {
      const float proj = a.proj[t * outs + o], alpha = a.alpha[part];
      if (part == 2) {
        d = a.dres[t * a.n * a.n + o - 2 * a.n];
      } else {
        const float s = sigmoid_of(r * proj * alpha + a.bias[o]);
        d = (part == 0 ? a.dpre[t * a.n + o] : 2 * a.dpost[t * a.n + o - a.n]) * s * (1 - s);
      }
      a.dproj[t * outs + o] = d * r * alpha;
      dr += d * alpha * proj, dalpha[part] += d * r * proj;
    }
    const float sum = block_reduce(d, scratch);
    if (threadIdx.x == 0) out[o] = sum;
  }
  if (here) a.dr[t] = dr;
  for (int k = 0; k < 3; ++k) {
    const float sum = block_reduce(dalpha[k], scratch);
    if (threadIdx.x == 0) out[outs + k] = sum;
  }
}

Support f32(DType t, const Device& d) {
  if (t != DType::kF32) return {"dtype is not f32"};
  return on_sm90(d);
}
Support fits(int n, int iterations, DType t, const Device& d) {
  if (n != 2 && n != 4) return {"n is not 2 or 4"};
  if (iterations < 1 || iterations > kMostIterations) return {"iterations is not in 1 .. 64"};
  return f32(t, d);
}

}  // namespace

Support supports_mhc_sinkhorn_fwd_sm90(const MhcSinkhornFwd& a, const Device& d) { return fits(a.n, a.iterations, a.dtype, d); }
Support supports_mhc_sinkhorn_bwd_sm90(const MhcSinkhornBwd& a, const Device& d) { return fits(a.n, a.iterations, a.dtype, d); }
Support supports_mhc_map_fwd_sm90(const MhcMapFwd& a, const Device& d) { return f32(a.dtype, d); }
Support supports_mhc_map_bwd_sm90(const MhcMapBwd& a, const Device& d) { return f32(a.dtype, d); }

size_t workspace_mhc_map_bwd_sm90(const MhcMapBwd& a) {
  return sizeof(float) * static_cast<size_t>(ceil_div(a.tokens, 256)) * static_cast<size_t>(a.n * a.n + 2 * a.n + 3);
}

void mhc_sinkhorn_fwd_sm90(const MhcSinkhornFwd& a, const Launch& launch) {
  if (a.tokens == 0) return;
  const dim3 grid(static_cast<unsigned>(ceil_div(a.tokens, kSinkhornThreads))), threads(kSinkhornThreads);
  if (a.n == 2)
    launch_grid(sinkhorn_fwd<2>, grid, threads, 0, launch.stream, a);
  else
    launch_grid(sinkhorn_fwd<4>, grid, threads, 0, launch.stream, a);
}

void mhc_sinkhorn_bwd_sm90(const MhcSinkhornBwd& a, const Launch& launch) {
  if (a.tokens == 0) return;
  const dim3 grid(static_cast<unsigned>(ceil_div(a.tokens, kSinkhornThreads))), threads(kSinkhornThreads);
  const size_t smem = sizeof(float) * kSinkhornThreads * static_cast<size_t>(a.n) * static_cast<size_t>(2 * a.iterations - 1);
  if (a.n == 2)
    launch_grid(sinkhorn_bwd<2>, grid, threads, smem, launch.stream, a);
  else
    launch_grid(sinkhorn_bwd<4>, grid, threads, smem, launch.stream, a);
}

void mhc_map_fwd_sm90(const MhcMapFwd& a, const Launch& launch) {
  const int64_t count = a.tokens * (a.n * a.n + 2 * a.n);
  if (count > 0) launch_grid(map_fwd, dim3(static_cast<unsigned>(ceil_div(count, 256))), dim3(256), 0, launch.stream, a);
}

void mhc_map_bwd_sm90(const MhcMapBwd& a, const Launch& launch) {
  if (a.tokens == 0) return;
  const int64_t blocks = ceil_div(a.tokens, 256), outs = a.n * a.n + 2 * a.n;
  float* parts = static_cast<float*>(launch.workspace);
  launch_grid(map_bwd, dim3(static_cast<unsigned>(blocks)), dim3(256), 0, launch.stream, a, parts);
  if (a.dbias != nullptr) add_column_sums(parts, blocks, outs, a.dbias, launch.stream, outs + 3);
  if (a.dalpha != nullptr) add_column_sums(parts + outs, blocks, 3, a.dalpha, launch.stream, outs + 3);
}

}  // namespace weft::kernels
