// Forward: a vector of eight columns a thread, all streams of it in registers. Backward: a block a token, since the gradients of
// the small matrices are sums over its columns.
#include "kernels/common/column_sum.cuh"
#include "kernels/common/flat.cuh"
#include "kernels/mhc/mhc_mix.h"

namespace weft::kernels {
namespace {

using namespace dev;

// Sums of kNum values over a block of 256; thread 0..kNum-1 writes them.
template <int kNum>
__device__ __forceinline__ void block_sums(const float (&v)[kNum], float* out) {
  __shared__ float parts[8][kNum];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
  for (int i = 0; i < kNum; ++i) {
    const float s = lanes_reduce(v[i]);
    if (lane == 0) parts[warp][i] = s;
  }
  __syncthreads();
  if (threadIdx.x < kNum) {
    float s = 0;
#pragma unroll
    for (int w = 0; w < 8; ++w) s += parts[w][threadIdx.x];
    out[threadIdx.x] = s;
  }
}

// kNum fp32 values; with kVectors the address is 16-byte aligned and kNum a multiple of 4.
template <bool kVectors, int kNum>
__device__ __forceinline__ void load_small(const float* p, float (&out)[kNum]) {
  if constexpr (kVectors) {
#pragma unroll
    for (int i = 0; i < kNum; i += 4) {
      const float4 v = *reinterpret_cast<const float4*>(p + i);
      out[i] = v.x, out[i + 1] = v.y, out[i + 2] = v.z, out[i + 3] = v.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kNum; ++i) out[i] = p[i];
  }
}

template <class T, int N>
__global__ void __launch_bounds__(kFlatThreads)
    aggregate_fwd(MhcAggregateFwd a, int64_t first, FastDiv vecs, uint32_t total, bool aligned) {
  const uint32_t i = blockIdx.x * kFlatThreads + threadIdx.x;
  if (i >= total) return;
  const uint32_t local = vecs.div(i);
  const int64_t t = first + local;
  const int col = static_cast<int>(i - local * vecs.d) * 8, count = a.dim - col < 8 ? a.dim - col : 8;
  const bool full = aligned && count == 8;
  Vec8<T> raw[N];
  float sum[8] = {};
#pragma unroll
  for (int j = 0; j < N; ++j) raw[j] = load_raw(static_cast<const T*>(a.x) + (t * N + j) * a.dim + col, count, full);
#pragma unroll
  for (int j = 0; j < N; ++j) {
    const float h = a.h[t * N + j];
    float x[8];
    unpack(raw[j], x);
#pragma unroll
    for (int c = 0; c < 8; ++c) sum[c] += h * x[c];
  }
  store_some(static_cast<T*>(a.u) + t * a.dim + col, count, full, sum);
}

template <class T, int N>
__global__ void __launch_bounds__(256, sizeof(T) == 2 ? 3 : 2) aggregate_bwd(MhcAggregateBwd a, bool aligned) {
  const int64_t t = blockIdx.x;
  const bool adds = a.dx != nullptr && a.dx_in != nullptr;
  float h[N], dh[N] = {};
#pragma unroll
  for (int j = 0; j < N; ++j) h[j] = a.h[t * N + j];
  for (int col = threadIdx.x * 8; col < a.dim; col += 2048) {
    const int count = a.dim - col < 8 ? a.dim - col : 8;
    const bool full = aligned && count == 8;
    Vec8<T> raw_x[N], raw_in[N];
    const Vec8<T> raw_du = load_raw(static_cast<const T*>(a.du) + t * a.dim + col, count, full);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      raw_x[j] = load_raw(static_cast<const T*>(a.x) + (t * N + j) * a.dim + col, count, full);
      if (adds) raw_in[j] = load_raw(static_cast<const T*>(a.dx_in) + (t * N + j) * a.dim + col, count, full);
    }
    float du[8];
    unpack(raw_du, du);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float x[8], sum[8] = {};
      unpack(raw_x[j], x);
      if (adds) unpack(raw_in[j], sum);
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        dh[j] += c < count ? du[c] * x[c] : 0.0f;
        sum[c] += h[j] * du[c];
      }
      if (a.dx != nullptr) store_some(static_cast<T*>(a.dx) + (t * N + j) * a.dim + col, count, full, sum);
    }
  }
  block_sums(dh, a.dh + t * N);
}

template <class T, int N, bool kVectors>
__global__ void __launch_bounds__(kFlatThreads)
    post_fwd(MhcPostFwd a, int64_t first, FastDiv vecs, uint32_t total, bool aligned) {
  const uint32_t i = blockIdx.x * kFlatThreads + threadIdx.x;
  if (i >= total) return;
  const uint32_t local = vecs.div(i);
  const int64_t t = first + local;
  const int col = static_cast<int>(i - local * vecs.d) * 8, count = a.dim - col < 8 ? a.dim - col : 8;
  const bool full = aligned && count == 8;
  float h[N * N], p[N];
  load_small<kVectors>(a.h + t * N * N, h), load_small<kVectors>(a.p + t * N, p);
  Vec8<T> raw[N], raw_b{};
#pragma unroll
  for (int j = 0; j < N; ++j) raw[j] = load_raw(static_cast<const T*>(a.x) + (t * N + j) * a.dim + col, count, full);
  const Vec8<T> raw_f = load_raw(static_cast<const T*>(a.f) + t * a.dim + col, count, full);
  if (a.bias != nullptr) raw_b = load_raw(static_cast<const T*>(a.bias) + col, count, full);
  float x[N][8], f[8], b[8];
#pragma unroll
  for (int j = 0; j < N; ++j) unpack(raw[j], x[j]);
  unpack(raw_f, f), unpack(raw_b, b);
  if (a.bias != nullptr) {
#pragma unroll
    for (int c = 0; c < 8; ++c) f[c] += b[c];
  }
#pragma unroll
  for (int r = 0; r < N; ++r) {
    float y[8];
#pragma unroll
    for (int c = 0; c < 8; ++c) y[c] = p[r] * f[c];
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float weight = a.transposed ? h[j * N + r] : h[r * N + j];
#pragma unroll
      for (int c = 0; c < 8; ++c) y[c] += weight * x[j][c];
    }
    store_some(static_cast<T*>(a.y) + (t * N + r) * a.dim + col, count, full, y);
  }
}

template <class T, int N>
__global__ void __launch_bounds__(256, sizeof(T) == 2 ? 2 : 1) post_bwd(MhcPostBwd a, bool aligned) {
  const int64_t t = blockIdx.x;
  float h[N][N], p[N], sums[N * N + N] = {};  // of dh as it lies in memory, then of dp
#pragma unroll
  for (int i = 0; i < N; ++i) {
    p[i] = a.p[t * N + i];
#pragma unroll
    for (int j = 0; j < N; ++j) h[i][j] = a.h[(t * N + (a.transposed ? j : i)) * N + (a.transposed ? i : j)];
  }
  for (int col = threadIdx.x * 8; col < a.dim; col += 2048) {
    const int count = a.dim - col < 8 ? a.dim - col : 8;
    const bool full = aligned && count == 8;
    Vec8<T> raw_g[N], raw_x[N];
#pragma unroll
    for (int i = 0; i < N; ++i) raw_g[i] = load_raw(static_cast<const T*>(a.g) + (t * N + i) * a.dim + col, count, full);
    const Vec8<T> raw_f = load_raw(static_cast<const T*>(a.f) + t * a.dim + col, count, full);
#pragma unroll
    for (int i = 0; i < N; ++i) raw_x[i] = load_raw(static_cast<const T*>(a.x) + (t * N + i) * a.dim + col, count, full);
    float f[8], df[8] = {}, g[N][8];
    unpack(raw_f, f);
    if (a.bias != nullptr) {
      float b[8];
      load_some(static_cast<const T*>(a.bias) + col, count, full, b);
#pragma unroll
      for (int c = 0; c < 8; ++c) f[c] += b[c];
    }
#pragma unroll
    for (int i = 0; i < N; ++i) {
      unpack(raw_g[i], g[i]);
#pragma unroll
      for (int c = 0; c < 8; ++c) df[c] += p[i] * g[i][c], sums[N * N + i] += g[i][c] * f[c];
    }
    store_some(static_cast<T*>(a.df) + t * a.dim + col, count, full, df);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float x[8], dx[8] = {};
      unpack(raw_x[j], x);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        float dot = 0;
#pragma unroll
        for (int c = 0; c < 8; ++c) dx[c] += h[i][j] * g[i][c], dot += g[i][c] * x[c];
        if (a.transposed)
          sums[j * N + i] += dot;
        else
          sums[i * N + j] += dot;
      }
      if (a.dx != nullptr) store_some(static_cast<T*>(a.dx) + (t * N + j) * a.dim + col, count, full, dx);
    }
  }
  __shared__ float out[N * N + N];
  block_sums(sums, out);
  __syncthreads();
  if (threadIdx.x < N * N)
    a.dh[t * N * N + threadIdx.x] = out[threadIdx.x];
  else if (threadIdx.x < N * N + N)
    a.dp[t * N + threadIdx.x - N * N] = out[threadIdx.x];
}

// Sums of df over strips of tokens, made again from g: the df that is stored is rounded.
template <class T, int N>
__global__ void __launch_bounds__(128) column_parts(MhcPostBwd a, int64_t strip, float* parts) {
  const int col = blockIdx.y * 128 + threadIdx.x;
  if (col >= a.dim) return;
  const int64_t first = blockIdx.x * strip, last = first + strip < a.tokens ? first + strip : a.tokens;
  float sum = 0;
#pragma unroll 4
  for (int64_t t = first; t < last; ++t) {
    float df = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) df += a.p[t * N + i] * to_f32(static_cast<const T*>(a.g)[(t * N + i) * a.dim + col]);
    sum += df;
  }
  parts[blockIdx.x * static_cast<int64_t>(a.dim) + col] = sum;
}

int64_t strip_of(int64_t tokens) { return ceil_div(tokens, 64) > 16 ? ceil_div(tokens, 64) : 16; }

template <class F>
void with_streams(int n, F&& f) {
  if (n == 2)
    f(std::integral_constant<int, 2>{});
  else
    f(std::integral_constant<int, 4>{});
}
Support fits(int n, const Device& d, DType t) {
  if (n != 2 && n != 4) return {"n is not 2 or 4"};
  return on_sm90(d, t);
}

}  // namespace

Support supports_mhc_aggregate_fwd_sm90(const MhcAggregateFwd& a, const Device& d) { return fits(a.n, d, a.dtype); }
Support supports_mhc_aggregate_bwd_sm90(const MhcAggregateBwd& a, const Device& d) { return fits(a.n, d, a.dtype); }
Support supports_mhc_post_fwd_sm90(const MhcPostFwd& a, const Device& d) { return fits(a.n, d, a.dtype); }
Support supports_mhc_post_bwd_sm90(const MhcPostBwd& a, const Device& d) { return fits(a.n, d, a.dtype); }
size_t workspace_mhc_post_bwd_sm90(const MhcPostBwd& a) {
  return sizeof(float) * static_cast<size_t>(ceil_div(a.tokens, strip_of(a.tokens))) * static_cast<size_t>(a.dim);
}

template <class Args, class Go>
void in_flat_launches(const Args& a, Go&& go) {
  const int64_t vecs = ceil_div(a.dim, 8), step = kFlatMost / vecs;
  for (int64_t first = 0; first < a.tokens; first += step)
    go(first, vecs, (a.tokens - first < step ? a.tokens - first : step) * vecs);
}

void mhc_aggregate_fwd_sm90(const MhcAggregateFwd& a, const Launch& launch) {
  if (a.dim == 0) return;
  const bool aligned = a.dim % 8 == 0 && is_aligned(a.x, 16) && is_aligned(a.u, 16);
  in_flat_launches(a, [&](int64_t first, int64_t vecs, int64_t total) {
    with_float_type(a.dtype, [&](auto type) {
      with_streams(a.n, [&](auto n) {
        launch_grid(aggregate_fwd<typename decltype(type)::type, decltype(n)::value>, dim3(flat_grid(total, 1)),
                    dim3(kFlatThreads), 0, launch.stream, a, first, FastDiv(static_cast<uint32_t>(vecs)),
                    static_cast<uint32_t>(total), aligned);
      });
    });
  });
}

void mhc_aggregate_bwd_sm90(const MhcAggregateBwd& a, const Launch& launch) {
  if (a.tokens == 0) return;
  const bool aligned =
      a.dim % 8 == 0 && is_aligned(a.x, 16) && is_aligned(a.du, 16) && is_aligned(a.dx, 16) && is_aligned(a.dx_in, 16);
  with_float_type(a.dtype, [&](auto type) {
    with_streams(a.n, [&](auto n) {
      launch_grid(aggregate_bwd<typename decltype(type)::type, decltype(n)::value>, dim3(static_cast<unsigned>(a.tokens)),
                  dim3(256), 0, launch.stream, a, aligned);
    });
  });
}

void mhc_post_fwd_sm90(const MhcPostFwd& a, const Launch& launch) {
  if (a.dim == 0) return;
  const bool aligned =
      a.dim % 8 == 0 && is_aligned(a.x, 16) && is_aligned(a.y, 16) && is_aligned(a.f, 16) && is_aligned(a.bias, 16);
  in_flat_launches(a, [&](int64_t first, int64_t vecs, int64_t total) {
    with_float_type(a.dtype, [&](auto type) {
      with_streams(a.n, [&](auto n) {
        using T = typename decltype(type)::type;
        constexpr int N = decltype(n)::value;
        const bool vectors = N == 4 && is_aligned(a.h, 16) && is_aligned(a.p, 16);
        launch_grid(vectors ? post_fwd<T, N, N == 4> : post_fwd<T, N, false>, dim3(flat_grid(total, 1)), dim3(kFlatThreads), 0, launch.stream, a, first,
                    FastDiv(static_cast<uint32_t>(vecs)), static_cast<uint32_t>(total), aligned);
      });
    });
  });
}

void mhc_post_bwd_sm90(const MhcPostBwd& a, const Launch& launch) {
  if (a.tokens == 0) return;
  bool aligned = a.dim % 8 == 0;
  for (const void* p : {a.g, a.x, a.f, a.bias, static_cast<const void*>(a.dx), static_cast<const void*>(a.df)})
    aligned = aligned && is_aligned(p, 16);
  float* parts = static_cast<float*>(launch.workspace);
  const int64_t strip = strip_of(a.tokens), strips = ceil_div(a.tokens, strip);
  with_float_type(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    with_streams(a.n, [&](auto n) {
      constexpr int N = decltype(n)::value;
      if (a.dbias != nullptr && a.dim > 0)  // first: dx may take the place of g
        launch_grid(column_parts<T, N>, dim3(static_cast<unsigned>(strips), static_cast<unsigned>(ceil_div(a.dim, 128))), dim3(128), 0, launch.stream, a, strip, parts);
      launch_grid(post_bwd<T, N>, dim3(static_cast<unsigned>(a.tokens)), dim3(256), 0, launch.stream, a, aligned);
    });
  });
  if (a.dbias != nullptr) add_column_sums(parts, strips, a.dim, a.dbias, launch.stream);
}

}  // namespace weft::kernels
