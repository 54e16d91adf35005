// A warp takes one head of one token; a lane holds pairs (i, i + R/2) as two vectors of two, so both ends of a turn are in its
// registers. Bound: memory, [T, (H + 2G) d] read once and written once; the backward with norms reads the projection too.
#include "kernels/common/device.cuh"
#include "kernels/qkv/qkv.h"

namespace weft::kernels {
namespace {

constexpr int kWarps = 8;
constexpr int kMaxPerLane = 8;  // head_dim up to 256
constexpr int kPartBlocks = 264;  // blocks of a backward with norms: each leaves one row of sums

template <class T>
__device__ __forceinline__ float2 load2(const T* p) {
  if constexpr (sizeof(T) == 4) {
    return *reinterpret_cast<const float2*>(p);
  } else {
    const uint32_t w = *reinterpret_cast<const uint32_t*>(p);
    return {__uint_as_float(w << 16), __uint_as_float(w & 0xffff0000u)};
  }
}
template <class T>
__device__ __forceinline__ void store2(T* p, float2 v) {
  if constexpr (sizeof(T) == 4)
    *reinterpret_cast<float2*>(p) = v;
  else
    *reinterpret_cast<uint32_t*>(p) = dev::pack2(v.x, v.y);
}

// Slot s of a lane is channels c, c + 1. Slots 2k and 2k + 1 are the two ends of a turn; beyond the turned channels slots follow
// one another.
struct Slots {
  int half, rotated, dim, lane;
  __device__ __forceinline__ int channel(int s) const {
    const int pair = (s >> 1) * 64 + 2 * lane;
    if (pair < half) return pair + (s & 1) * half;
    const int turned = (half + 63) / 64 * 2;  // slots taken by turned channels
    const int c = rotated + (s - turned) * 64 + 2 * lane;
    return s >= turned && c < dim ? c : -1;
  }
};

template <int N, class T>
__device__ __forceinline__ void load_head(const T* p, const Slots& at, float2 (&v)[N]) {
#pragma unroll
  for (int s = 0; s < N; ++s) {
    const int c = at.channel(s);
    v[s] = c < 0 ? float2{0, 0} : load2(p + c);
  }
}

template <int N>
__device__ __forceinline__ void turn(float2 (&v)[N], const Slots& at, const float* cos, const float* sin, float sign) {
#pragma unroll
  for (int s = 0; s < N; s += 2) {
    const int pair = (s >> 1) * 64 + 2 * at.lane;
    if (pair >= at.half) continue;
    const float2 c = *reinterpret_cast<const float2*>(cos + pair), r = *reinterpret_cast<const float2*>(sin + pair);
    const float2 a = v[s], b = v[s + 1];
    v[s] = {a.x * c.x - sign * b.x * r.x, a.y * c.y - sign * b.y * r.y};
    v[s + 1] = {b.x * c.x + sign * a.x * r.x, b.y * c.y + sign * a.y * r.y};
  }
}

template <class T, int N>
__global__ void __launch_bounds__(kWarps * 32) fwd_kernel(const QkvFwd a) {
  const int lane = threadIdx.x & 31, d = a.head_dim, all = a.heads + 2 * a.kv_heads;
  const Slots at{a.rotated / 2, a.rotated, d, lane};
  const int64_t rows = a.tokens * all;
  for (int64_t row = blockIdx.x * kWarps + (threadIdx.x >> 5); row < rows; row += gridDim.x * kWarps) {
    const int64_t t = row / all;
    const int h = static_cast<int>(row - t * all);
    float2 v[N];
    load_head(static_cast<const T*>(a.qkv) + row * d, at, v);
    T* out;
    if (h < a.heads + a.kv_heads) {
      const bool query = h < a.heads;
      out = query ? static_cast<T*>(a.q) + (t * a.heads + h) * d : static_cast<T*>(a.k) + (t * a.kv_heads + h - a.heads) * d;
      if (a.q_norm != nullptr) {
        float sum = 0;
#pragma unroll
        for (int s = 0; s < N; ++s) sum += v[s].x * v[s].x + v[s].y * v[s].y;
        const float rstd = rsqrtf(dev::lanes_reduce(sum) / d + a.eps);
        float2 w[N];
        load_head(static_cast<const T*>(query ? a.q_norm : a.k_norm), at, w);
#pragma unroll
        for (int s = 0; s < N; ++s) v[s] = {v[s].x * rstd * w[s].x, v[s].y * rstd * w[s].y};
      }
      if (a.cos != nullptr) {
        const int64_t angle = static_cast<int64_t>(a.positions[t]) * at.half;
        turn(v, at, a.cos + angle, a.sin + angle, 1.0f);
      }
    } else {
      out = static_cast<T*>(a.v) + (t * a.kv_heads + h - a.heads - a.kv_heads) * d;
    }
#pragma unroll
    for (int s = 0; s < N; ++s)
      if (const int c = at.channel(s); c >= 0) store2(out + c, v[s]);
  }
}

template <class T, int N>
__global__ void __launch_bounds__(kWarps * 32) bwd_kernel(const QkvBwd a, float* parts) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, d = a.head_dim, all = a.heads + 2 * a.kv_heads;
  const Slots at{a.rotated / 2, a.rotated, d, lane};
  const int64_t rows = a.tokens * all;
  float2 dw[2][N] = {};
  for (int64_t row = blockIdx.x * kWarps + warp; row < rows; row += gridDim.x * kWarps) {
    const int64_t t = row / all;
    const int h = static_cast<int>(row - t * all);
    float2 g[N];
    if (h < a.heads + a.kv_heads) {
      const bool query = h < a.heads;
      load_head(query ? static_cast<const T*>(a.dq) + (t * a.heads + h) * d : static_cast<const T*>(a.dk) + (t * a.kv_heads + h - a.heads) * d, at, g);
      if (a.cos != nullptr) {
        const int64_t angle = static_cast<int64_t>(a.positions[t]) * at.half;
        turn(g, at, a.cos + angle, a.sin + angle, -1.0f);
      }
      if (a.q_norm != nullptr) {
        float2 x[N], w[N];
        load_head(static_cast<const T*>(a.qkv) + row * d, at, x);
        load_head(static_cast<const T*>(query ? a.q_norm : a.k_norm), at, w);
        float sum = 0, dot = 0;
#pragma unroll
        for (int s = 0; s < N; ++s) {
          sum += x[s].x * x[s].x + x[s].y * x[s].y;
          dot += g[s].x * w[s].x * x[s].x + g[s].y * w[s].y * x[s].y;
        }
        const float rstd = rsqrtf(dev::lanes_reduce(sum) / d + a.eps);
        const float k = dev::lanes_reduce(dot) * rstd * rstd * rstd / d;
#pragma unroll
        for (int s = 0; s < N; ++s) {
          const float2 add = {g[s].x * x[s].x * rstd, g[s].y * x[s].y * rstd};
          if (query)
            dw[0][s].x += add.x, dw[0][s].y += add.y;
          else
            dw[1][s].x += add.x, dw[1][s].y += add.y;
          g[s] = {rstd * w[s].x * g[s].x - k * x[s].x, rstd * w[s].y * g[s].y - k * x[s].y};
        }
      }
    } else {
      load_head(static_cast<const T*>(a.dv) + (t * a.kv_heads + h - a.heads - a.kv_heads) * d, at, g);
    }
    T* out = static_cast<T*>(a.dqkv) + row * d;
#pragma unroll
    for (int s = 0; s < N; ++s)
      if (const int c = at.channel(s); c >= 0) store2(out + c, g[s]);
  }
  if (parts == nullptr) return;
  extern __shared__ float sums[];  // [kWarps][2 d]
#pragma unroll
  for (int side = 0; side < 2; ++side)
#pragma unroll
    for (int s = 0; s < N; ++s)
      if (const int c = at.channel(s); c >= 0) sums[(warp * 2 + side) * d + c] = dw[side][s].x, sums[(warp * 2 + side) * d + c + 1] = dw[side][s].y;
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * d; i += blockDim.x) {
    float sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += sums[w * 2 * d + i];
    parts[static_cast<int64_t>(blockIdx.x) * 2 * d + i] = sum;
  }
}

__global__ void norm_grads_kernel(const float* parts, int blocks, int d, float* d_q_norm, float* d_k_norm) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= 2 * d) return;
  float sum = 0;
  for (int b = 0; b < blocks; ++b) sum += parts[static_cast<int64_t>(b) * 2 * d + i];
  float* out = i < d ? d_q_norm : d_k_norm;
  if (out != nullptr) out[i < d ? i : i - d] += sum;
}

template <class Args>
Support supports(const Args& a, const Device& device) {
  if (Support s = on_sm90(device, a.dtype); !s) return s;
  if (a.head_dim % 2 != 0) return {"head_dim is odd"};
  if (a.head_dim > 256) return {"head_dim is above 256"};
  if (a.rotated % 4 != 0) return {"rotated dims are not a multiple of 4"};
  // Turned channels take whole groups of 128: with a part of one turned, the rest must still fit a lane's slots.
  const int slots = (a.rotated / 2 + 63) / 64 * 2 + (a.head_dim - a.rotated + 63) / 64;
  if (slots > kMaxPerLane) return {"rotated and plain channels need more than 8 slots a lane"};
  return {};
}

template <class Args, class F>
void with_slots(const Args& a, F&& f) {
  const int slots = (a.rotated / 2 + 63) / 64 * 2 + (a.head_dim - a.rotated + 63) / 64;
  if (slots <= 2)
    f(std::integral_constant<int, 2>{});
  else if (slots <= 4)
    f(std::integral_constant<int, 4>{});
  else
    f(std::integral_constant<int, kMaxPerLane>{});
}

}  // namespace

Support supports_qkv_fwd_sm90(const QkvFwd& a, const Device& device) { return supports(a, device); }
Support supports_qkv_bwd_sm90(const QkvBwd& a, const Device& device) { return supports(a, device); }

size_t workspace_qkv_bwd_sm90(const QkvBwd& a) {
  return a.q_norm == nullptr ? 0 : static_cast<size_t>(kPartBlocks) * 2 * static_cast<size_t>(a.head_dim) * sizeof(float);
}

void qkv_fwd_sm90(const QkvFwd& a, const Launch& launch) {
  if (a.tokens == 0) return;
  with_float_type(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    with_slots(a, [&](auto n) {
      const int64_t blocks = ceil_div(a.tokens * (a.heads + 2 * a.kv_heads), kWarps);
      fwd_kernel<T, n.value><<<static_cast<unsigned>(blocks < 8448 ? blocks : 8448), kWarps * 32, 0, launch.stream>>>(a);
    });
  });
  check_launch("qkv_fwd_sm90");
}

void qkv_bwd_sm90(const QkvBwd& a, const Launch& launch) {
  if (a.tokens == 0) return;
  const bool norms = a.q_norm != nullptr;
  float* parts = norms ? static_cast<float*>(launch.workspace) : nullptr;
  const int64_t wanted = ceil_div(a.tokens * (a.heads + 2 * a.kv_heads), kWarps), most = norms ? kPartBlocks : 8448;
  const auto blocks = static_cast<unsigned>(wanted < most ? wanted : most);
  with_float_type(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    with_slots(a, [&](auto n) {
      const size_t smem = norms ? sizeof(float) * kWarps * 2 * static_cast<size_t>(a.head_dim) : 0;
      bwd_kernel<T, n.value><<<blocks, kWarps * 32, smem, launch.stream>>>(a, parts);
    });
  });
  check_launch("qkv_bwd_sm90");
  if (!norms) return;
  norm_grads_kernel<<<static_cast<unsigned>(ceil_div(2 * a.head_dim, 256)), 256, 0, launch.stream>>>(parts, static_cast<int>(blocks), a.head_dim, a.d_q_norm, a.d_k_norm);
  check_launch("qkv_bwd_sm90: norm gradients");
}

}  // namespace weft::kernels
