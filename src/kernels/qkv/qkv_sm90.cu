// Half a warp takes one head of one token; a lane holds pairs (i, i + R/2) as two vectors of four, so both ends of a turn are in
// its registers. Bound: memory, [T, (H + 2G) d] read once and written once; the backward with norms reads the projection too.
#include "kernels/common/device.cuh"
#include "kernels/qkv/qkv.h"

namespace weft::kernels {
namespace {

constexpr int kLanes = 16, kVec = 4, kSpan = kLanes * kVec;  // a slot is 64 channels of a head
constexpr int kThreads = 256, kHeads = kThreads / kLanes;    // heads that a block has at once
constexpr int kMaxSlots = 8;                                 // head_dim up to 256
constexpr int kPartBlocks = 528;  // blocks of a backward with norms: each leaves one row of sums

template <class T>
__device__ __forceinline__ float4 load4(const T* p) {
  if constexpr (sizeof(T) == 4) {
    return *reinterpret_cast<const float4*>(p);
  } else {
    const uint2 w = *reinterpret_cast<const uint2*>(p);
    return {__uint_as_float(w.x << 16), __uint_as_float(w.x & 0xffff0000u), __uint_as_float(w.y << 16), __uint_as_float(w.y & 0xffff0000u)};
  }
}
template <class T>
__device__ __forceinline__ void store4(T* p, float4 v) {
  if constexpr (sizeof(T) == 4)
    *reinterpret_cast<float4*>(p) = v;
  else
    *reinterpret_cast<uint2*>(p) = {dev::pack2(v.x, v.y), dev::pack2(v.z, v.w)};
}
__device__ __forceinline__ float4 mul(float4 a, float4 b) { return {a.x * b.x, a.y * b.y, a.z * b.z, a.w * b.w}; }
__device__ __forceinline__ float4 scale(float4 a, float k) { return {a.x * k, a.y * k, a.z * k, a.w * k}; }
__device__ __forceinline__ float4 add(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
__device__ __forceinline__ float sum(float4 a) { return (a.x + a.y) + (a.z + a.w); }

// Slot s of a lane is channels c to c + 3. Slots 2k and 2k + 1 are the two ends of a turn; beyond the turned channels slots follow
// one another.
struct Slots {
  int half, rotated, dim, lane;
  __device__ __forceinline__ int channel(int s) const {
    const int pair = (s >> 1) * kSpan + kVec * lane;
    if (pair < half) return pair + (s & 1) * half;
    const int turned = (half + kSpan - 1) / kSpan * 2;  // slots taken by turned channels
    const int c = rotated + (s - turned) * kSpan + kVec * lane;
    return s >= turned && c < dim ? c : -1;
  }
};

template <int N, class T>
__device__ __forceinline__ void load_head(const T* p, const Slots& at, float4 (&v)[N]) {
#pragma unroll
  for (int s = 0; s < N; ++s) {
    const int c = at.channel(s);
    v[s] = c < 0 ? float4{0, 0, 0, 0} : load4(p + c);
  }
}

template <int N, class T>
__device__ __forceinline__ void store_head(T* p, const Slots& at, const float4 (&v)[N]) {
#pragma unroll
  for (int s = 0; s < N; ++s)
    if (const int c = at.channel(s); c >= 0) store4(p + c, v[s]);
}

template <int N>
__device__ __forceinline__ void turn(float4 (&v)[N], const Slots& at, const float* cos, const float* sin, float sign) {
#pragma unroll
  for (int s = 0; s < N; s += 2) {
    const int pair = (s >> 1) * kSpan + kVec * at.lane;
    if (pair >= at.half) continue;
    const float4 c = *reinterpret_cast<const float4*>(cos + pair), r = scale(*reinterpret_cast<const float4*>(sin + pair), sign);
    const float4 a = v[s], b = v[s + 1];
    v[s] = add(mul(a, c), scale(mul(b, r), -1.0f));
    v[s + 1] = add(mul(b, c), mul(a, r));
  }
}

template <int N>
__device__ __forceinline__ float dot(const float4 (&a)[N], const float4 (&b)[N]) {
  float total = 0;
#pragma unroll
  for (int s = 0; s < N; ++s) total += sum(mul(a[s], b[s]));
  return dev::lanes_reduce(total, kLanes);
}

// Which head of which token a row of the projection is.
struct Row {
  int64_t token;
  int head;  // of all: queries, keys, values
  __device__ __forceinline__ Row(int64_t row, int all) : token(row / all), head(static_cast<int>(row - token * all)) {}
};

// Every lane of a warp walks the same number of rows, so that shuffles are whole; past the end a row is only not written.
template <class T, int N>
__global__ void __launch_bounds__(kThreads) fwd_kernel(const QkvFwd a) {
  const int d = a.head_dim, all = a.heads + 2 * a.kv_heads;
  const Slots at{a.rotated / 2, a.rotated, d, static_cast<int>(threadIdx.x % kLanes)};
  const int64_t rows = a.tokens * all, stride = static_cast<int64_t>(gridDim.x) * kHeads;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kHeads; first < rows; first += stride) {
    const int64_t mine = first + threadIdx.x / kLanes, row = mine < rows ? mine : rows - 1;
    const Row at_row(row, all);
    const int h = at_row.head;
    float4 v[N];
    load_head(static_cast<const T*>(a.qkv) + row * d, at, v);
    const bool query = h < a.heads, value = h >= a.heads + a.kv_heads;
    if (a.q_norm != nullptr) {
      float4 w[N];
      load_head(static_cast<const T*>(query ? a.q_norm : a.k_norm), at, w);
      const float rstd = rsqrtf(dot(v, v) / d + a.eps);
      if (!value)
#pragma unroll
        for (int s = 0; s < N; ++s) v[s] = mul(scale(v[s], rstd), w[s]);
    }
    if (a.cos != nullptr && !value) {
      const int64_t angle = static_cast<int64_t>(a.positions[at_row.token]) * at.half;
      turn(v, at, a.cos + angle, a.sin + angle, 1.0f);
    }
    if (mine >= rows) continue;
    T* out = query ? static_cast<T*>(a.q) + (at_row.token * a.heads + h) * d
                   : static_cast<T*>(value ? a.v : a.k) + (at_row.token * a.kv_heads + (h - a.heads) % a.kv_heads) * d;
    store_head(out, at, v);
  }
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads) bwd_kernel(const QkvBwd a, float* parts) {
  const int d = a.head_dim, all = a.heads + 2 * a.kv_heads;
  const Slots at{a.rotated / 2, a.rotated, d, static_cast<int>(threadIdx.x % kLanes)};
  const int64_t rows = a.tokens * all, stride = static_cast<int64_t>(gridDim.x) * kHeads;
  float4 dw[2][N] = {};
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kHeads; first < rows; first += stride) {
    const int64_t mine = first + threadIdx.x / kLanes, row = mine < rows ? mine : rows - 1;
    const Row at_row(row, all);
    const int h = at_row.head;
    const bool query = h < a.heads, value = h >= a.heads + a.kv_heads;
    float4 g[N];
    load_head(query ? static_cast<const T*>(a.dq) + (at_row.token * a.heads + h) * d
                    : static_cast<const T*>(value ? a.dv : a.dk) + (at_row.token * a.kv_heads + (h - a.heads) % a.kv_heads) * d,
              at, g);
    if (a.cos != nullptr && !value) {
      const int64_t angle = static_cast<int64_t>(a.positions[at_row.token]) * at.half;
      turn(g, at, a.cos + angle, a.sin + angle, -1.0f);
    }
    if (a.q_norm != nullptr) {
      float4 x[N], w[N];
      load_head(static_cast<const T*>(a.qkv) + row * d, at, x);
      load_head(static_cast<const T*>(query ? a.q_norm : a.k_norm), at, w);
      const float rstd = rsqrtf(dot(x, x) / d + a.eps);
      float4 gw[N];
#pragma unroll
      for (int s = 0; s < N; ++s) gw[s] = mul(g[s], w[s]);
      const float k = dot(gw, x) * rstd * rstd * rstd / d, mark = mine < rows && !value ? rstd : 0.0f;
#pragma unroll
      for (int s = 0; s < N; ++s) {
        const float4 share = scale(mul(g[s], x[s]), mark);
        dw[0][s] = add(dw[0][s], scale(share, query ? 1.0f : 0.0f));
        dw[1][s] = add(dw[1][s], scale(share, query ? 0.0f : 1.0f));
        if (!value) g[s] = add(scale(gw[s], rstd), scale(x[s], -k));
      }
    }
    if (mine < rows) store_head(static_cast<T*>(a.dqkv) + row * d, at, g);
  }
  if (parts == nullptr) return;
  extern __shared__ float sums[];  // [kHeads][2 d]
  const int group = threadIdx.x / kLanes;
#pragma unroll
  for (int side = 0; side < 2; ++side)
#pragma unroll
    for (int s = 0; s < N; ++s)
      if (const int c = at.channel(s); c >= 0) *reinterpret_cast<float4*>(sums + (group * 2 + side) * d + c) = dw[side][s];
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * d; i += kThreads) {
    float total = 0;
    for (int g = 0; g < kHeads; ++g) total += sums[g * 2 * d + i];
    parts[static_cast<int64_t>(blockIdx.x) * 2 * d + i] = total;
  }
}

// 32 columns a block; each of its 8 warps sums every eighth row, then the eight sums are added in order.
__global__ void __launch_bounds__(256) norm_grads_kernel(const float* parts, int rows, int d, float* d_q_norm, float* d_k_norm) {
  __shared__ float sums[8][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
  float total = 0;
  if (column < 2 * d)
#pragma unroll 8
    for (int r = warp; r < rows; r += 8) total += parts[static_cast<int64_t>(r) * 2 * d + column];
  sums[warp][lane] = total;
  __syncthreads();
  if (warp != 0 || column >= 2 * d) return;
  for (int w = 1; w < 8; ++w) total += sums[w][lane];
  float* out = column < d ? d_q_norm : d_k_norm;
  if (out != nullptr) out[column < d ? column : column - d] += total;
}

template <class Args>
Support supports(const Args& a, const Device& device) {
  if (Support s = on_sm90(device, a.dtype); !s) return s;
  if (a.head_dim % 4 != 0) return {"head_dim is not a multiple of 4"};
  if (a.head_dim > 256) return {"head_dim is above 256"};
  if (a.rotated % 8 != 0) return {"rotated dims are not a multiple of 8"};
  // Turned channels take whole groups of 128: with a part of one turned, the rest must still fit a lane's slots.
  const int slots = (a.rotated / 2 + kSpan - 1) / kSpan * 2 + (a.head_dim - a.rotated + kSpan - 1) / kSpan;
  if (slots > kMaxSlots) return {"rotated and plain channels need more than 8 slots a lane"};
  return {};
}

template <class Args, class F>
void with_slots(const Args& a, F&& f) {
  const int slots = (a.rotated / 2 + kSpan - 1) / kSpan * 2 + (a.head_dim - a.rotated + kSpan - 1) / kSpan;
  if (slots <= 2)
    f(std::integral_constant<int, 2>{});
  else if (slots <= 4)
    f(std::integral_constant<int, 4>{});
  else
    f(std::integral_constant<int, kMaxSlots>{});
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
      const int64_t blocks = ceil_div(a.tokens * (a.heads + 2 * a.kv_heads), kHeads);
      fwd_kernel<T, n.value><<<static_cast<unsigned>(blocks < 8448 ? blocks : 8448), kThreads, 0, launch.stream>>>(a);
    });
  });
  check_launch("qkv_fwd_sm90");
}

void qkv_bwd_sm90(const QkvBwd& a, const Launch& launch) {
  if (a.tokens == 0) return;
  const bool norms = a.q_norm != nullptr;
  float* parts = norms ? static_cast<float*>(launch.workspace) : nullptr;
  const int64_t wanted = ceil_div(a.tokens * (a.heads + 2 * a.kv_heads), kHeads), most = norms ? kPartBlocks : 8448;
  const auto blocks = static_cast<unsigned>(wanted < most ? wanted : most);
  with_float_type(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    with_slots(a, [&](auto n) {
      const size_t smem = norms ? sizeof(float) * kHeads * 2 * static_cast<size_t>(a.head_dim) : 0;
      bwd_kernel<T, n.value><<<blocks, kThreads, smem, launch.stream>>>(a, parts);
    });
  });
  check_launch("qkv_bwd_sm90");
  if (!norms) return;
  norm_grads_kernel<<<static_cast<unsigned>(ceil_div(2 * a.head_dim, 32)), 256, 0, launch.stream>>>(parts, static_cast<int>(blocks), a.head_dim, a.d_q_norm, a.d_k_norm);
  check_launch("qkv_bwd_sm90: norm gradients");
}

}  // namespace weft::kernels
