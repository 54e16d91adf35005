// Half a warp takes one head of one token, and the same of a head further on; a lane holds pairs (i, i + R/2) as two vectors of four, so
// both ends of a turn are in its registers. Bound: memory, [T, (H + 2G) d] read once and written once; the backward with norms reads the projection too.
#include "kernels/common/flat.cuh"
#include "kernels/qkv/qkv.h"

namespace weft::kernels {
namespace {

constexpr int kLanes = 16, kVec = 4, kSpan = kLanes * kVec;  // a slot is 64 channels of a head
constexpr int kThreads = 256, kHeads = kThreads / kLanes;    // heads that a block has at once
constexpr int kMaxSlots = 8;                                 // head_dim up to 256
constexpr int kMostParts = 528;  // blocks of a backward with norms: each leaves one row of sums

// Four neighbours as they lie in memory: unpacked when all loads are asked for.
template <class T>
struct Raw4;
template <>
struct Raw4<float> {
  float4 v;
  __device__ __forceinline__ float4 get() const { return v; }
};
template <>
struct Raw4<dev::bf16> {
  uint2 v;
  __device__ __forceinline__ float4 get() const { return {__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u), __uint_as_float(v.y << 16), __uint_as_float(v.y & 0xffff0000u)}; }
};
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
__device__ __forceinline__ void load_head(const T* p, const Slots& at, Raw4<T> (&v)[N]) {
#pragma unroll
  for (int s = 0; s < N; ++s) {
    v[s] = {};
    if (const int c = at.channel(s); c >= 0) v[s] = *reinterpret_cast<const Raw4<T>*>(p + c);
  }
}
template <int N, class T>
__device__ __forceinline__ void unpack_head(const Raw4<T> (&raw)[N], float4 (&v)[N]) {
#pragma unroll
  for (int s = 0; s < N; ++s) v[s] = raw[s].get();
}

template <int N, class T>
__device__ __forceinline__ void store_head(T* p, const Slots& at, const float4 (&v)[N]) {
#pragma unroll
  for (int s = 0; s < N; ++s)
    if (const int c = at.channel(s); c >= 0) store4(p + c, v[s]);
}

// Of a lane's pairs at one position.
template <int N>
struct Angles {
  float4 cos[N / 2], sin[N / 2];
  __device__ __forceinline__ void read(const Slots& at, const float* c, const float* s) {
#pragma unroll
    for (int k = 0; k < N / 2; ++k) {
      const int pair = k * kSpan + kVec * at.lane;
      if (pair < at.half) cos[k] = *reinterpret_cast<const float4*>(c + pair), sin[k] = *reinterpret_cast<const float4*>(s + pair);
    }
  }
  __device__ __forceinline__ void turn(float4 (&v)[N], const Slots& at, float sign) const {
#pragma unroll
    for (int k = 0; k < N / 2; ++k) {
      if (k * kSpan + kVec * at.lane >= at.half) continue;
      const float4 c = cos[k], r = scale(sin[k], sign), a = v[2 * k], b = v[2 * k + 1];
      v[2 * k] = add(mul(a, c), scale(mul(b, r), -1.0f));
      v[2 * k + 1] = add(mul(b, c), mul(a, r));
    }
  }
};

template <int N>
__device__ __forceinline__ float dot(const float4 (&a)[N], const float4 (&b)[N]) {
  float total = 0;
#pragma unroll
  for (int s = 0; s < N; ++s) total += sum(mul(a[s], b[s]));
  return dev::lanes_reduce(total, kLanes);
}

// Which head of which token a row of the projection is; past the end the last one, which is then not written.
struct Row {
  uint32_t index;
  int64_t token;
  int head, kv;  // of all: queries, keys, values; among keys or values
  bool here, query, value;
  template <class Args>
  __device__ __forceinline__ Row(const Args& a, uint32_t row, uint32_t rows, const FastDiv& all) : index(row < rows ? row : rows - 1), here(row < rows) {
    const uint32_t t = all.div(index);
    token = t, head = static_cast<int>(index - t * all.d);
    query = head < a.heads, value = head >= a.heads + a.kv_heads;
    kv = head - a.heads - (value ? a.kv_heads : 0);
  }
};
template <int N>
constexpr int rows_at_once() { return N <= 2 ? 2 : 1; }
// Positions of the rows that a thread takes in a round: asked for a round ahead, for the angles wait for them.
template <int R, class Args>
__device__ __forceinline__ void read_positions(const Args& a, uint32_t first, uint32_t rows, const FastDiv& all, int32_t (&position)[R]) {
#pragma unroll
  for (int k = 0; k < R; ++k)
    if (a.cos != nullptr) position[k] = a.positions[Row(a, first + k * kHeads + threadIdx.x / kLanes, rows, all).token];
}

// Every lane of a warp walks the same number of rows, so that shuffles are whole.
template <class T, int N>
__global__ void __launch_bounds__(kThreads) fwd_kernel(const QkvFwd a, FastDiv all, uint32_t rows) {
  constexpr int R = rows_at_once<N>();
  const int d = a.head_dim;
  const Slots at{a.rotated / 2, a.rotated, d, static_cast<int>(threadIdx.x % kLanes)};
  for (uint32_t first = blockIdx.x * (kHeads * R); first < rows; first += gridDim.x * (kHeads * R)) {
    Raw4<T> raw[R][N], raw_w[R][N];
    Angles<N> angles[R];
    int32_t position[R];
#pragma unroll
    for (int k = 0; k < R; ++k) {
      const Row row(a, first + k * kHeads + threadIdx.x / kLanes, rows, all);
      load_head(static_cast<const T*>(a.qkv) + static_cast<int64_t>(row.index) * d, at, raw[k]);
      position[k] = a.cos != nullptr ? a.positions[row.token] : 0;
      if (a.q_norm != nullptr) load_head(static_cast<const T*>(row.query ? a.q_norm : a.k_norm), at, raw_w[k]);
    }
#pragma unroll
    for (int k = 0; k < R; ++k)
      if (a.cos != nullptr) angles[k].read(at, a.cos + static_cast<int64_t>(position[k]) * at.half, a.sin + static_cast<int64_t>(position[k]) * at.half);
#pragma unroll
    for (int k = 0; k < R; ++k) {
      const Row row(a, first + k * kHeads + threadIdx.x / kLanes, rows, all);
      float4 v[N];
      unpack_head(raw[k], v);
      if (a.q_norm != nullptr) {
        const float rstd = rsqrtf(dot(v, v) / d + a.eps);
        if (!row.value)
#pragma unroll
          for (int s = 0; s < N; ++s) v[s] = mul(scale(v[s], rstd), raw_w[k][s].get());
      }
      if (a.cos != nullptr && !row.value) angles[k].turn(v, at, 1.0f);
      if (!row.here) continue;
      T* out = row.query ? static_cast<T*>(a.q) + (row.token * a.heads + row.head) * d : static_cast<T*>(row.value ? a.v : a.k) + (row.token * a.kv_heads + row.kv) * d;
      store_head(out, at, v);
    }
  }
}

template <class T, int N>
__global__ void __launch_bounds__(kThreads, N == 2 && sizeof(T) == 2 ? 3 : 1) bwd_kernel(const QkvBwd a, FastDiv all, uint32_t rows, float* parts) {
  constexpr int R = rows_at_once<N>();
  const int d = a.head_dim;
  const Slots at{a.rotated / 2, a.rotated, d, static_cast<int>(threadIdx.x % kLanes)};
  float4 dw[2][N] = {};
  int32_t position[R] = {};
  read_positions(a, blockIdx.x * (kHeads * R), rows, all, position);
  for (uint32_t first = blockIdx.x * (kHeads * R); first < rows; first += gridDim.x * (kHeads * R)) {
    Raw4<T> raw_g[R][N], raw_x[R][N];
    Angles<N> angles[R];
#pragma unroll
    for (int k = 0; k < R; ++k) {
      const Row row(a, first + k * kHeads + threadIdx.x / kLanes, rows, all);
      load_head(row.query ? static_cast<const T*>(a.dq) + (row.token * a.heads + row.head) * d
                          : static_cast<const T*>(row.value ? a.dv : a.dk) + (row.token * a.kv_heads + row.kv) * d,
                at, raw_g[k]);
      if (a.q_norm != nullptr) load_head(static_cast<const T*>(a.qkv) + static_cast<int64_t>(row.index) * d, at, raw_x[k]);
    }
#pragma unroll
    for (int k = 0; k < R; ++k)
      if (a.cos != nullptr) angles[k].read(at, a.cos + static_cast<int64_t>(position[k]) * at.half, a.sin + static_cast<int64_t>(position[k]) * at.half);
    read_positions(a, first + gridDim.x * (kHeads * R), rows, all, position);
#pragma unroll
    for (int k = 0; k < R; ++k) {
      const Row row(a, first + k * kHeads + threadIdx.x / kLanes, rows, all);
      float4 g[N];
      unpack_head(raw_g[k], g);
      if (a.cos != nullptr && !row.value) angles[k].turn(g, at, -1.0f);
      if (a.q_norm != nullptr) {
        float4 x[N], gw[N];
        Raw4<T> w[N];
        load_head(static_cast<const T*>(row.query ? a.q_norm : a.k_norm), at, w);
        unpack_head(raw_x[k], x);
        const float rstd = rsqrtf(dot(x, x) / d + a.eps);
#pragma unroll
        for (int s = 0; s < N; ++s) gw[s] = mul(g[s], w[s].get());
        const float along = dot(gw, x) * rstd * rstd * rstd / d, mark = row.here && !row.value ? rstd : 0.0f;
#pragma unroll
        for (int s = 0; s < N; ++s) {
          const float4 share = scale(mul(g[s], x[s]), mark);
          if (row.query) dw[0][s] = add(dw[0][s], share); else dw[1][s] = add(dw[1][s], share);
          if (!row.value) g[s] = add(scale(gw[s], rstd), scale(x[s], -along));
        }
      }
      if (row.here) store_head(static_cast<T*>(a.dqkv) + static_cast<int64_t>(row.index) * d, at, g);
    }
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

// 32 columns a block; each of its warps sums every kGradWarps-th row, then those sums are added in order.
constexpr int kGradWarps = 32;
__global__ void __launch_bounds__(32 * kGradWarps) norm_grads_kernel(const float* parts, int rows, int d, float* d_q_norm, float* d_k_norm) {
  __shared__ float sums[kGradWarps][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
  float total = 0;
  if (column < 2 * d)
#pragma unroll 8
    for (int r = warp; r < rows; r += kGradWarps) total += parts[static_cast<int64_t>(r) * 2 * d + column];
  sums[warp][lane] = total;
  __syncthreads();
  if (warp != 0 || column >= 2 * d) return;
  for (int w = 1; w < kGradWarps; ++w) total += sums[w][lane];
  float* out = column < d ? d_q_norm : d_k_norm;
  if (out != nullptr) out[column < d ? column : column - d] += total;
}

template <class Args>
Support supports(const Args& a, const Device& device) {
  if (Support s = on_sm90(device, a.dtype); !s) return s;
  if (a.tokens * (a.heads + 2 * a.kv_heads) >= int64_t{1} << 31) return {"2^31 heads of tokens or more"};
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

namespace {
// A function of the shape alone, for one order of sums: of bf16 heads of two slots a processor holds three blocks.
int64_t parts_of(const QkvBwd& a) { return a.dtype == DType::kBf16 && a.head_dim <= 2 * kSpan && (a.rotated == 0 || a.rotated == a.head_dim) ? 396 : kMostParts; }
}  // namespace

size_t workspace_qkv_bwd_sm90(const QkvBwd& a) {
  return a.q_norm == nullptr ? 0 : static_cast<size_t>(kMostParts) * 2 * static_cast<size_t>(a.head_dim) * sizeof(float);
}

void qkv_fwd_sm90(const QkvFwd& a, const Launch& launch) {
  if (a.tokens == 0) return;
  with_float_type(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    with_slots(a, [&](auto n) {
      const int all = a.heads + 2 * a.kv_heads;
      const int64_t rows = a.tokens * all;
      fwd_kernel<T, n.value><<<static_cast<unsigned>(ceil_div(rows, kHeads * rows_at_once<n.value>())), kThreads, 0, launch.stream>>>(
          a, FastDiv(static_cast<uint32_t>(all)), static_cast<uint32_t>(rows));
    });
  });
  check_launch("qkv_fwd_sm90");
}

void qkv_bwd_sm90(const QkvBwd& a, const Launch& launch) {
  if (a.tokens == 0) return;
  const bool norms = a.q_norm != nullptr;
  float* parts = norms ? static_cast<float*>(launch.workspace) : nullptr;
  const int all = a.heads + 2 * a.kv_heads;
  const int64_t rows = a.tokens * all, wanted = ceil_div(rows, kHeads);
  const auto blocks = static_cast<unsigned>(norms && wanted > parts_of(a) ? parts_of(a) : wanted);
  with_float_type(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    with_slots(a, [&](auto n) {
      const size_t smem = norms ? sizeof(float) * kHeads * 2 * static_cast<size_t>(a.head_dim) : 0;
      bwd_kernel<T, n.value><<<blocks, kThreads, smem, launch.stream>>>(a, FastDiv(static_cast<uint32_t>(all)), static_cast<uint32_t>(rows), parts);
    });
  });
  check_launch("qkv_bwd_sm90");
  if (!norms) return;
  norm_grads_kernel<<<static_cast<unsigned>(ceil_div(2 * a.head_dim, 32)), 32 * kGradWarps, 0, launch.stream>>>(parts, static_cast<int>(blocks), a.head_dim, a.d_q_norm, a.d_k_norm);
  check_launch("qkv_bwd_sm90: norm gradients");
}

}  // namespace weft::kernels
