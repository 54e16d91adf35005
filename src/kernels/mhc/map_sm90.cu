// Sinkhorn and the mapping: a thread a token, everything in registers (Sinkhorn's backward keeps the sums of each half step and
// walks them back). Projection: forward on mma.sync, the fp32 weights as two bf16 addends, a warp 16 tokens; backward in one pass
// over x, a thread two columns with their weights and weight gradients in registers.
#include "kernels/common/column_sum.cuh"
#include "kernels/common/device.cuh"
#include "kernels/common/mma.cuh"
#include "kernels/mhc/mhc_map.h"

namespace weft::kernels {
namespace {

constexpr int kMostIterations = 64, kOut = 24;

using dev::block_reduce;
using dev::lanes_reduce;
using dev::load_some;
using dev::to_f32;

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
// Divides lines by their sums + eps: columns where `columns`, else rows.
template <int N>
__device__ __forceinline__ void normalize(float (&m)[N][N], bool columns, float eps, float* divisors) {
#pragma unroll
  for (int l = 0; l < N; ++l) {
    float sum = eps;
#pragma unroll
    for (int i = 0; i < N; ++i) sum += columns ? m[i][l] : m[l][i];
    divisors[l] = sum;
#pragma unroll
    for (int i = 0; i < N; ++i) (columns ? m[i][l] : m[l][i]) /= sum;
  }
}

template <int N>
__global__ void __launch_bounds__(128) sinkhorn_fwd(MhcSinkhornFwd a) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * 128 + threadIdx.x;
  if (t >= a.tokens) return;
  float p[N][N], m[N][N], unused[N];
  start<N>(a.logits + t * N * N, a.eps, p, m);
  normalize<N>(m, true, a.eps, unused);
  for (int k = 1; k < a.iterations; ++k) normalize<N>(m, false, a.eps, unused), normalize<N>(m, true, a.eps, unused);
#pragma unroll
  for (int i = 0; i < N * N; ++i) a.h[t * N * N + i] = m[i / N][i % N];
}

template <int N>
__global__ void __launch_bounds__(128) sinkhorn_bwd(MhcSinkhornBwd a) {
  const int64_t t = static_cast<int64_t>(blockIdx.x) * 128 + threadIdx.x;
  if (t >= a.tokens) return;
  float p[N][N], m[N][N], g[N][N], divisors[(2 * kMostIterations - 1) * N];
  start<N>(a.logits + t * N * N, a.eps, p, m);
  const int steps = 2 * a.iterations - 1;  // even: columns
  for (int s = 0; s < steps; ++s) {
    if (s % 2 == 0)
      normalize<N>(m, true, a.eps, divisors + s * N);
    else
      normalize<N>(m, false, a.eps, divisors + s * N);
  }
#pragma unroll
  for (int i = 0; i < N * N; ++i) g[i / N][i % N] = a.dh[t * N * N + i];
  auto back = [&](bool columns, const float* divisor) {  // y = m / c: dm = (g - sum g y) / c, and m = y c
#pragma unroll
    for (int l = 0; l < N; ++l) {
      float dot = 0;
#pragma unroll
      for (int i = 0; i < N; ++i) dot += columns ? g[i][l] * m[i][l] : g[l][i] * m[l][i];
#pragma unroll
      for (int i = 0; i < N; ++i) {
        float &gv = columns ? g[i][l] : g[l][i], &mv = columns ? m[i][l] : m[l][i];
        gv = (gv - dot) / divisor[l], mv *= divisor[l];
      }
    }
  };
  for (int s = steps - 1; s >= 0; --s) {
    if (s % 2 == 0)
      back(true, divisors + s * N);
    else
      back(false, divisors + s * N);
  }
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

// Any K and dtype: a block a token.
template <class T>
__global__ void __launch_bounds__(256) project_plain(MhcProjectFwd a) {
  __shared__ float scratch[33];
  const T* x = static_cast<const T*>(a.x) + blockIdx.x * static_cast<int64_t>(a.k);
  float square = 0;
  for (int c = threadIdx.x; c < a.k; c += 256) square += to_f32(x[c]) * to_f32(x[c]);
  const float norm = sqrtf(block_reduce(square, scratch));
  for (int o = 0; o < a.num_out; ++o) {
    float sum = 0;
    for (int c = threadIdx.x; c < a.k; c += 256) sum += to_f32(x[c]) * a.w[o * static_cast<int64_t>(a.k) + c];
    sum = block_reduce(sum, scratch);
    if (threadIdx.x == 0) a.proj[blockIdx.x * static_cast<int64_t>(a.num_out) + o] = sum;
  }
  if (threadIdx.x == 0) a.norm[blockIdx.x] = norm, a.r[blockIdx.x] = 1.0f / (norm / sqrtf(static_cast<float>(a.k)) + a.eps);
}

// Weights in the order in which lanes need them: [K / 32][tile of 8 outputs][k half][addend][lane] pairs of words. Lane (q, r)
// holds for output q the columns 8 r + 4 half + {0, 1} and {2, 3} of the chunk: the same permutation of K as the 16-byte loads of
// x give.
__global__ void __launch_bounds__(256) pack_weights(const float* w, int32_t k, int32_t num_out, uint2* packed) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= static_cast<int64_t>(k) / 32 * 3 * 2 * 32) return;
  const int lane = i % 32, half = i / 32 % 2, tile = i / 64 % 3, out = tile * 8 + lane / 4;
  const int64_t chunk = i / 192, col = chunk * 32 + lane % 4 * 8 + half * 4;
  float v[4], rest[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    v[j] = out < num_out ? w[static_cast<int64_t>(out) * k + col + j] : 0.0f;
    rest[j] = v[j] - __bfloat162float(__float2bfloat16_rn(v[j]));
  }
  uint2* to = packed + ((chunk * 3 + tile) * 2 + half) * 64 + lane;
  to[0] = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
  to[32] = make_uint2(pack_bf16(rest[0], rest[1]), pack_bf16(rest[2], rest[3]));
}

__global__ void __launch_bounds__(256) project_fwd(MhcProjectFwd a, const uint2* packed) {
  const int lane = threadIdx.x & 31, q = lane / 4, r = lane % 4;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * 8 + (threadIdx.x >> 5)) * 16 + q;
  const bool low = row < a.tokens, high = row + 8 < a.tokens;
  const bf16 *x_low = static_cast<const bf16*>(a.x) + row * a.k + r * 8, *x_high = x_low + 8 * static_cast<int64_t>(a.k);
  float acc[3][4] = {}, square[2] = {};
  constexpr int kAhead = 4;
  const int chunks = a.k / 32;
  for (int c0 = 0; c0 < chunks; c0 += kAhead) {
    uint4 v[kAhead][2];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      v[u][0] = low && c0 + u < chunks ? *reinterpret_cast<const uint4*>(x_low + (c0 + u) * 32) : make_uint4(0, 0, 0, 0);
      v[u][1] = high && c0 + u < chunks ? *reinterpret_cast<const uint4*>(x_high + (c0 + u) * 32) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (c0 + u >= chunks) break;
      const uint2* w = packed + static_cast<int64_t>(c0 + u) * 384 + lane;
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        const uint32_t words[4] = {v[u][s].x, v[u][s].y, v[u][s].z, v[u][s].w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float2 f = unpack_bf16(words[j]);
          square[s] += f.x * f.x + f.y * f.y;
        }
      }
      const uint32_t first[4] = {v[u][0].x, v[u][1].x, v[u][0].y, v[u][1].y},
                     second[4] = {v[u][0].z, v[u][1].z, v[u][0].w, v[u][1].w};
#pragma unroll
      for (int tile = 0; tile < 3; ++tile)
#pragma unroll
        for (int addend = 1; addend >= 0; --addend) {
          const uint2 b0 = w[(tile * 2) * 64 + addend * 32], b1 = w[(tile * 2 + 1) * 64 + addend * 32];
          mma_bf16(acc[tile], first, b0.x, b0.y);
          mma_bf16(acc[tile], second, b1.x, b1.y);
        }
    }
  }
#pragma unroll
  for (int s = 0; s < 2; ++s) {
    square[s] = lanes_reduce(square[s], 4);
    const int64_t t = row + 8 * s;
    if (t >= a.tokens) continue;
    if (r == 0) {
      const float norm = sqrtf(square[s]);
      a.norm[t] = norm, a.r[t] = 1.0f / (norm / sqrtf(static_cast<float>(a.k)) + a.eps);
    }
#pragma unroll
    for (int tile = 0; tile < 3; ++tile)
#pragma unroll
      for (int e = 0; e < 2; ++e)
        if (tile * 8 + 2 * r + e < a.num_out) a.proj[t * a.num_out + tile * 8 + 2 * r + e] = acc[tile][2 * s + e];
  }
}

constexpr int kTokens = 32;  // of dproj in shared memory at a time

template <class T>
__global__ void __launch_bounds__(128) project_bwd(MhcProjectBwd a, int64_t strip, float* parts) {
  __shared__ float dproj[kTokens][kOut];
  __shared__ float coefficient[kTokens];
  const int col = (blockIdx.y * 128 + threadIdx.x) * 2;
  const bool two = col + 1 < a.k, one = col < a.k;
  float w[kOut][2], dw[kOut][2] = {};
#pragma unroll
  for (int o = 0; o < kOut; ++o) {
    w[o][0] = one && o < a.num_out ? a.w[static_cast<int64_t>(o) * a.k + col] : 0.0f;
    w[o][1] = two && o < a.num_out ? a.w[static_cast<int64_t>(o) * a.k + col + 1] : 0.0f;
  }
  const float root = sqrtf(static_cast<float>(a.k));
  const int64_t first = blockIdx.x * strip, last = first + strip < a.tokens ? first + strip : a.tokens;
  for (int64_t t0 = first; t0 < last; t0 += kTokens) {
    __syncthreads();
    for (int i = threadIdx.x; i < kTokens * kOut; i += 128) {
      const int64_t t = t0 + i / kOut;
      dproj[i / kOut][i % kOut] = t < last && i % kOut < a.num_out ? a.dproj[t * a.num_out + i % kOut] : 0.0f;
    }
    if (threadIdx.x < kTokens && t0 + threadIdx.x < last) {
      const int64_t t = t0 + threadIdx.x;
      const float r = a.r[t], norm = a.norm[t];
      coefficient[threadIdx.x] = norm > 0 ? a.dr[t] * r * r / (root * norm) : 0.0f;
    }
    __syncthreads();
    const int count = last - t0 < kTokens ? static_cast<int>(last - t0) : kTokens;
#pragma unroll 2
    for (int i = 0; i < count; ++i) {
      const int64_t at = (t0 + i) * a.k + col;
      const float x0 = one ? to_f32(static_cast<const T*>(a.x)[at]) : 0.0f,
                  x1 = two ? to_f32(static_cast<const T*>(a.x)[at + 1]) : 0.0f;
      float d0 = -coefficient[i] * x0, d1 = -coefficient[i] * x1;
      if (a.dx_in != nullptr) {
        if (one) d0 += to_f32(static_cast<const T*>(a.dx_in)[at]);
        if (two) d1 += to_f32(static_cast<const T*>(a.dx_in)[at + 1]);
      }
#pragma unroll
      for (int o = 0; o < kOut; ++o) {
        const float g = dproj[i][o];
        d0 += g * w[o][0], d1 += g * w[o][1];
        dw[o][0] += g * x0, dw[o][1] += g * x1;
      }
      if (one) static_cast<T*>(a.dx)[at] = dev::from_f32<T>(d0);
      if (two) static_cast<T*>(a.dx)[at + 1] = dev::from_f32<T>(d1);
    }
  }
#pragma unroll
  for (int o = 0; o < kOut; ++o) {
    if (o >= a.num_out) continue;
    float* part = parts + (blockIdx.x * static_cast<int64_t>(a.num_out) + o) * a.k + col;
    if (one) part[0] = dw[o][0];
    if (two) part[1] = dw[o][1];
  }
}

int64_t strip_of(int64_t tokens) {
  const int64_t strip = ceil_div(tokens, 12);
  return strip < kTokens ? kTokens : strip;
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
Support supports_mhc_project_fwd_sm90(const MhcProjectFwd& a, const Device& d) {
  if (a.num_out < 1 || a.num_out > kOut) return {"num_out is not in 1 .. 24"};
  return on_sm90(d, a.dtype);
}
Support supports_mhc_project_bwd_sm90(const MhcProjectBwd& a, const Device& d) {
  if (a.num_out < 1 || a.num_out > kOut) return {"num_out is not in 1 .. 24"};
  return on_sm90(d, a.dtype);
}
Support supports_mhc_map_fwd_sm90(const MhcMapFwd& a, const Device& d) { return f32(a.dtype, d); }
Support supports_mhc_map_bwd_sm90(const MhcMapBwd& a, const Device& d) { return f32(a.dtype, d); }

size_t workspace_mhc_project_fwd_sm90(const MhcProjectFwd& a) { return static_cast<size_t>(a.k / 32) * 384 * sizeof(uint2); }
size_t workspace_mhc_project_bwd_sm90(const MhcProjectBwd& a) {
  return sizeof(float) * static_cast<size_t>(ceil_div(a.tokens, strip_of(a.tokens))) * static_cast<size_t>(a.num_out) *
         static_cast<size_t>(a.k);
}
size_t workspace_mhc_map_bwd_sm90(const MhcMapBwd& a) {
  return sizeof(float) * static_cast<size_t>(ceil_div(a.tokens, 256)) * static_cast<size_t>(a.n * a.n + 2 * a.n + 3);
}

void mhc_sinkhorn_fwd_sm90(const MhcSinkhornFwd& a, const Launch& launch) {
  if (a.tokens == 0) return;
  const dim3 grid(static_cast<unsigned>(ceil_div(a.tokens, 128)));
  if (a.n == 2)
    launch_grid(sinkhorn_fwd<2>, grid, dim3(128), 0, launch.stream, a);
  else
    launch_grid(sinkhorn_fwd<4>, grid, dim3(128), 0, launch.stream, a);
}

void mhc_sinkhorn_bwd_sm90(const MhcSinkhornBwd& a, const Launch& launch) {
  if (a.tokens == 0) return;
  const dim3 grid(static_cast<unsigned>(ceil_div(a.tokens, 128)));
  if (a.n == 2)
    launch_grid(sinkhorn_bwd<2>, grid, dim3(128), 0, launch.stream, a);
  else
    launch_grid(sinkhorn_bwd<4>, grid, dim3(128), 0, launch.stream, a);
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

void mhc_project_fwd_sm90(const MhcProjectFwd& a, const Launch& launch) {
  if (a.tokens == 0) return;
  if (a.dtype != DType::kBf16 || a.k % 32 != 0 || !is_aligned(a.x, 16)) {
    if (a.dtype == DType::kBf16)
      launch_grid(project_plain<bf16>, dim3(static_cast<unsigned>(a.tokens)), dim3(256), 0, launch.stream, a);
    else
      launch_grid(project_plain<float>, dim3(static_cast<unsigned>(a.tokens)), dim3(256), 0, launch.stream, a);
    return;
  }
  uint2* packed = static_cast<uint2*>(launch.workspace);
  launch_grid(pack_weights, dim3(static_cast<unsigned>(ceil_div(static_cast<int64_t>(a.k) / 32 * 192, 256))), dim3(256), 0,
              launch.stream, a.w, a.k, a.num_out, packed);
  launch_grid(project_fwd, dim3(static_cast<unsigned>(ceil_div(a.tokens, 128))), dim3(256), 0, launch.stream, a,
              static_cast<const uint2*>(packed));
}

void mhc_project_bwd_sm90(const MhcProjectBwd& a, const Launch& launch) {
  if (a.tokens == 0 || a.k == 0) return;
  const int64_t strip = strip_of(a.tokens), strips = ceil_div(a.tokens, strip);
  float* parts = static_cast<float*>(launch.workspace);
  const dim3 grid(static_cast<unsigned>(strips), static_cast<unsigned>(ceil_div(a.k, 256)));
  if (a.dtype == DType::kBf16)
    launch_grid(project_bwd<bf16>, grid, dim3(128), 0, launch.stream, a, strip, parts);
  else
    launch_grid(project_bwd<float>, grid, dim3(128), 0, launch.stream, a, strip, parts);
  if (a.dw != nullptr) add_column_sums(parts, strips, static_cast<int64_t>(a.num_out) * a.k, a.dw, launch.stream);
}

}  // namespace weft::kernels
