// One vector of eight columns a thread and step; with dprob a group of threads owns a row, so that its sum has one order.
#include "kernels/common/flat.cuh"
#include "kernels/glu/glu.h"

namespace weft::kernels {
namespace {

using namespace dev;

constexpr float kSqrt2OverPi = 0.7978845608028654f, kSqrt1Over2 = 0.7071067811865476f, kSqrt1Over2Pi = 0.3989422804014327f;

// act(g) and act'(g).
// Phi(x) and its density. For bf16 results erfc is the rational form of Abramowitz and Stegun 7.1.26 (error below 1.5e-7), which
// shares the exponential with the density.
template <class T>
__device__ __forceinline__ void normal(float x, float& cdf, float& density) {
  if constexpr (sizeof(T) == 4) {
    cdf = 0.5f * erfcf(-x * kSqrt1Over2), density = kSqrt1Over2Pi * expf(-0.5f * x * x);
  } else {
    const float e = __expf(-0.5f * x * x), t = __fdividef(1.0f, fmaf(0.3275911f * kSqrt1Over2, fabsf(x), 1.0f));
    const float tail =
        0.5f * e * t * fmaf(t, fmaf(t, fmaf(t, fmaf(t, 1.061405429f, -1.453152027f), 1.421413741f), -0.284496736f), 0.254829592f);
    cdf = x > 0 ? 1.0f - tail : tail, density = kSqrt1Over2Pi * e;
  }
}

template <class T, Glu kind>
__device__ __forceinline__ void act_and_slope(float g, float& act, float& slope) {
  if constexpr (kind == Glu::kSwiglu) {
    const float s = sigmoid<T>(g);
    act = g * s, slope = s * (1 + g * (1 - s));
  } else if constexpr (kind == Glu::kQuickGeglu) {
    const float s = sigmoid<T>(1.702f * g);
    act = g * s, slope = s * (1 + 1.702f * g * (1 - s));
  } else if constexpr (kind == Glu::kGegluExact) {
    float cdf, density;
    normal<T>(g, cdf, density);
    act = g * cdf, slope = cdf + g * density;
  } else if constexpr (kind == Glu::kGegluTanh) {
    const float s = sigmoid<T>(2 * kSqrt2OverPi * (g + 0.044715f * g * g * g));  // (1 + tanh(u)) / 2 = sigmoid(2 u)
    act = g * s, slope = s * (1 + g * (1 - s) * 2 * kSqrt2OverPi * (1 + 3 * 0.044715f * g * g));
  } else {
    act = g > 0 ? g : (g != g ? g : 0.0f), slope = g > 0 ? 1.0f : 0.0f;
  }
}

// NaN passes through the clamps: comparisons, not fminf.
__device__ __forceinline__ float clamp_gate(float g, float c) { return c > 0 && g > c ? c : g; }
__device__ __forceinline__ float clamp_up(float u, float c) { return c > 0 && u > c ? c : (c > 0 && u < -c ? -c : u); }

template <class T, Glu kind>
__global__ void __launch_bounds__(kFlatThreads) glu_fwd(GluFwd a, FastDiv vecs, uint32_t total, bool aligned) {
  constexpr int kUnroll = 2;
  const T *gate = static_cast<const T*>(a.gate), *up = static_cast<const T*>(a.up);
  T* y = static_cast<T*>(a.y);
  Vec8<T> raw_g[kUnroll], raw_u[kUnroll];
  int64_t row[kUnroll];
  int col[kUnroll];
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const uint32_t i = (blockIdx.x * kUnroll + k) * kFlatThreads + threadIdx.x;
    if (i >= total) continue;
    row[k] = vecs.div(i), col[k] = (i - static_cast<uint32_t>(row[k]) * vecs.d) * 8;
    const int count = a.cols - col[k];
    const bool full = aligned && count >= 8;
    raw_g[k] = load_raw(gate + row[k] * a.in_stride + col[k], count, full);
    raw_u[k] = load_raw(up + row[k] * a.in_stride + col[k], count, full);
  }
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const uint32_t i = (blockIdx.x * kUnroll + k) * kFlatThreads + threadIdx.x;
    if (i >= total) continue;
    const float prob = a.prob == nullptr ? 1.0f : a.prob[row[k]];
    float g[8], u[8];
    unpack(raw_g[k], g), unpack(raw_u[k], u);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      float act, slope;
      act_and_slope<T, kind>(clamp_gate(g[j], a.clamp), act, slope);
      g[j] = act * (clamp_up(u[j], a.clamp) + a.offset) * prob;
    }
    const int count = a.cols - col[k];
    store_some(y + row[k] * a.cols + col[k], count, aligned && count >= 8, g);
  }
}

// Gradients of one vector; returns its part of sum(dy * act * (u + offset)).
template <class T, Glu kind>
__device__ __forceinline__ float finish_vector(const GluBwd& a, int64_t row, int col, int count, bool full, float (&g)[8],
                                               float (&u)[8], const float (&d)[8]) {
  const float prob = a.prob == nullptr ? 1.0f : a.prob[row];
  float sum = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    float act, slope;
    const float gc = clamp_gate(g[j], a.clamp), uc = clamp_up(u[j], a.clamp) + a.offset;
    act_and_slope<T, kind>(gc, act, slope);
    sum += j < count ? d[j] * act * uc : 0.0f;
    const bool gate_free = !(a.clamp > 0 && g[j] > a.clamp), up_free = !(a.clamp > 0 && (u[j] > a.clamp || u[j] < -a.clamp));
    g[j] = gate_free ? d[j] * prob * slope * uc : 0.0f;
    u[j] = up_free ? d[j] * prob * act : 0.0f;
  }
  store_some(static_cast<T*>(a.dgate) + row * a.dx_stride + col, count, full, g);
  store_some(static_cast<T*>(a.dup) + row * a.dx_stride + col, count, full, u);
  return sum;
}

template <class T, Glu kind>
__device__ __forceinline__ float bwd_vector(const GluBwd& a, int64_t row, int col, bool aligned) {
  const int count = a.cols - col;
  const bool full = aligned && count >= 8;
  const Vec8<T> raw_g = load_raw(static_cast<const T*>(a.gate) + row * a.in_stride + col, count, full),
                raw_u = load_raw(static_cast<const T*>(a.up) + row * a.in_stride + col, count, full),
                raw_d = load_raw(static_cast<const T*>(a.dy) + row * a.cols + col, count, full);
  float g[8], u[8], d[8];
  unpack(raw_g, g), unpack(raw_u, u), unpack(raw_d, d);
  return finish_vector<T, kind>(a, row, col, count, full, g, u, d);
}

template <class T, Glu kind>
__global__ void __launch_bounds__(kFlatThreads) glu_bwd_flat(GluBwd a, FastDiv vecs, uint32_t total, bool aligned) {
  const uint32_t i = blockIdx.x * kFlatThreads + threadIdx.x;
  if (i >= total) return;
  const uint32_t row = vecs.div(i);
  bwd_vector<T, kind>(a, row, static_cast<int>(i - row * vecs.d) * 8, aligned);
}

template <class T, Glu kind>
__global__ void __launch_bounds__(kFlatThreads) glu_bwd_rows(GluBwd a, int lanes, bool aligned) {
  __shared__ float scratch[33];
  const int rows_per_block = kFlatThreads / lanes, lane = threadIdx.x % lanes;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * rows_per_block + threadIdx.x / lanes;
  float sum = 0;
  if (row < a.rows) {
    int col = lane * 8;
    if (aligned) {  // the loads of two vectors before the stores of the first: the outputs may be the inputs
      const T *gate = static_cast<const T*>(a.gate) + row * a.in_stride, *up = static_cast<const T*>(a.up) + row * a.in_stride,
              *dy = static_cast<const T*>(a.dy) + row * a.cols;
      for (; col + lanes * 8 < a.cols; col += lanes * 16) {
        Vec8<T> raw[2][3];
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          const int c = col + k * lanes * 8;
          raw[k][0] = load8(gate + c), raw[k][1] = load8(up + c), raw[k][2] = load8(dy + c);
        }
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          float g[8], u[8], d[8];
          unpack(raw[k][0], g), unpack(raw[k][1], u), unpack(raw[k][2], d);
          sum += finish_vector<T, kind>(a, row, col + k * lanes * 8, 8, true, g, u, d);
        }
      }
    }
    for (; col < a.cols; col += lanes * 8) sum += bwd_vector<T, kind>(a, row, col, aligned);
  }
  sum = lanes <= 32 ? lanes_reduce(sum, lanes) : block_reduce(sum, scratch);
  if (lane == 0 && row < a.rows) a.dprob[row] = sum;
}

template <class F>
void with_kind(Glu kind, F&& f) {
  switch (kind) {
    case Glu::kSwiglu:
      return f(std::integral_constant<Glu, Glu::kSwiglu>{});
    case Glu::kQuickGeglu:
      return f(std::integral_constant<Glu, Glu::kQuickGeglu>{});
    case Glu::kGegluExact:
      return f(std::integral_constant<Glu, Glu::kGegluExact>{});
    case Glu::kGegluTanh:
      return f(std::integral_constant<Glu, Glu::kGegluTanh>{});
    case Glu::kReglu:
      return f(std::integral_constant<Glu, Glu::kReglu>{});
  }
}

}  // namespace

Support supports_glu_fwd_sm90(const GluFwd& a, const Device& d) { return on_sm90(d, a.dtype); }
Support supports_glu_bwd_sm90(const GluBwd& a, const Device& d) { return on_sm90(d, a.dtype); }

void glu_fwd_sm90(const GluFwd& all, const Launch& launch) {
  if (all.cols == 0) return;
  const int64_t vecs = ceil_div(all.cols, 8), step = kFlatMost / vecs, size = bits(all.dtype) / 8;
  for (int64_t first = 0; first < all.rows; first += step) {
    GluFwd a = all;
    a.rows = all.rows - first < step ? all.rows - first : step;
    a.gate = static_cast<const char*>(all.gate) + first * all.in_stride * size;
    a.up = static_cast<const char*>(all.up) + first * all.in_stride * size;
    a.y = static_cast<char*>(all.y) + first * all.cols * size;
    if (all.prob != nullptr) a.prob = all.prob + first;
    const bool aligned =
        all.cols % 8 == 0 && all.in_stride % 8 == 0 && is_aligned(a.gate, 16) && is_aligned(a.up, 16) && is_aligned(a.y, 16);
    with_float_type(a.dtype, [&](auto type) {
      with_kind(a.kind, [&](auto kind) {
        using T = typename decltype(type)::type;
        const int64_t total = a.rows * vecs;
        launch_grid(glu_fwd<T, decltype(kind)::value>, dim3(flat_grid(total, 2)), dim3(kFlatThreads), 0, launch.stream, a,
                    FastDiv(static_cast<uint32_t>(vecs)), static_cast<uint32_t>(total), aligned);
      });
    });
  }
}

void glu_bwd_sm90(const GluBwd& all, const Launch& launch) {
  if (all.rows == 0) return;
  const int64_t vecs = ceil_div(all.cols > 0 ? all.cols : 1, 8), step = kFlatMost / vecs, size = bits(all.dtype) / 8;
  for (int64_t first = 0; first < all.rows; first += step) {
    GluBwd a = all;
    a.rows = all.rows - first < step ? all.rows - first : step;
    a.dy = static_cast<const char*>(all.dy) + first * all.cols * size;
    a.gate = static_cast<const char*>(all.gate) + first * all.in_stride * size;
    a.up = static_cast<const char*>(all.up) + first * all.in_stride * size;
    a.dgate = static_cast<char*>(all.dgate) + first * all.dx_stride * size;
    a.dup = static_cast<char*>(all.dup) + first * all.dx_stride * size;
    if (all.prob != nullptr) a.prob = all.prob + first;
    if (all.dprob != nullptr) a.dprob = all.dprob + first;
    bool aligned = all.cols % 8 == 0 && all.in_stride % 8 == 0 && all.dx_stride % 8 == 0;
    for (const void* p : {a.dy, a.gate, a.up, static_cast<const void*>(a.dgate), static_cast<const void*>(a.dup)})
      aligned = aligned && is_aligned(p, 16);
    with_float_type(a.dtype, [&](auto type) {
      with_kind(a.kind, [&](auto kind) {
        using T = typename decltype(type)::type;
        constexpr Glu k = decltype(kind)::value;
        if (a.dprob == nullptr) {
          const int64_t total = a.rows * vecs;
          if (a.cols > 0)
            launch_grid(glu_bwd_flat<T, k>, dim3(flat_grid(total, 1)), dim3(kFlatThreads), 0, launch.stream, a,
                        FastDiv(static_cast<uint32_t>(vecs)), static_cast<uint32_t>(total), aligned);
        } else {
          const int lanes = a.rows < 4096 && vecs >= 192 ? kFlatThreads : 32;
          launch_grid(glu_bwd_rows<T, k>, dim3(static_cast<unsigned>(ceil_div(a.rows, kFlatThreads / lanes))), dim3(kFlatThreads),
                      0, launch.stream, a, lanes, aligned);
        }
      });
    });
  }
}

}  // namespace weft::kernels
