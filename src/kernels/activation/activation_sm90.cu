// One vector of eight columns a thread; with prob or dprob a group of threads owns a row, so that its sum has one order.
#include "kernels/activation/activation.h"
#include "kernels/common/flat.cuh"

namespace weft::kernels {
namespace {

using namespace dev;

constexpr float kSqrt2OverPi = 0.7978845608028654f, kSqrt1Over2 = 0.7071067811865476f, kSqrt1Over2Pi = 0.3989422804014327f;

// Phi(x) and its density. For bf16 results erfc is the rational form of Abramowitz and Stegun 7.1.26 (error below 1.5e-7), which
// shares the exponential with the density.
template <class T>
__device__ __forceinline__ void normal(float x, float& cdf, float& density) {
  if constexpr (sizeof(T) == 4) {
    cdf = 0.5f * erfcf(-x * kSqrt1Over2), density = kSqrt1Over2Pi * expf(-0.5f * x * x);
  } else {
    const float e = exp2_fast(-0.5f * 1.4426950408889634f * x * x), t = reciprocal_fast(fmaf(0.3275911f * kSqrt1Over2, fabsf(x), 1.0f));
    const float tail =
        0.5f * e * t * fmaf(t, fmaf(t, fmaf(t, fmaf(t, 1.061405429f, -1.453152027f), 1.421413741f), -0.284496736f), 0.254829592f);
    cdf = x > 0 ? 1.0f - tail : tail, density = kSqrt1Over2Pi * e;
  }
}

template <class T, Act kind>
__device__ __forceinline__ void act_and_slope(float x, float& act, float& slope) {
  if constexpr (kind == Act::kSilu || kind == Act::kQuickGelu) {
    constexpr float k = kind == Act::kSilu ? 1.0f : 1.702f;
    const float s = sigmoid<T>(k * x);
    act = x * s, slope = s * (1 + k * x * (1 - s));
  } else if constexpr (kind == Act::kGeluExact) {
    float cdf, density;
    normal<T>(x, cdf, density);
    act = x * cdf, slope = cdf + x * density;
  } else if constexpr (kind == Act::kGeluTanh) {
    const float s = sigmoid<T>(2 * kSqrt2OverPi * (x + 0.044715f * x * x * x));  // (1 + tanh(u)) / 2 = sigmoid(2 u)
    act = x * s, slope = s * (1 + x * (1 - s) * 2 * kSqrt2OverPi * (1 + 3 * 0.044715f * x * x));
  } else {
    const float r = x > 0 ? x : (x != x ? x : 0.0f);
    if constexpr (kind == Act::kRelu)
      act = r, slope = x > 0 ? 1.0f : 0.0f;
    else
      act = r * r, slope = 2 * r;
  }
}

template <class T, Act kind>
__global__ void __launch_bounds__(kFlatThreads) act_fwd(ActFwd a, FastDiv cols, int64_t count, bool aligned) {
  constexpr int kUnroll = 4;
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.y);
  const int64_t base = static_cast<int64_t>(blockIdx.x) * kUnroll * kFlatThreads + threadIdx.x;
  Vec8<T> raw[kUnroll];
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const int64_t i = (base + k * kFlatThreads) * 8, left = count - i;
    if (left > 0) raw[k] = load_raw(x + i, left > 8 ? 8 : static_cast<int>(left), aligned && left >= 8);
  }
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const int64_t i = (base + k * kFlatThreads) * 8, left = count - i;
    if (left <= 0) continue;
    float f[8];
    unpack(raw[k], f);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      float slope;
      act_and_slope<T, kind>(f[j], f[j], slope);
      if (a.prob != nullptr && j < left && a.cols % 8 != 0)
        f[j] *= a.prob[cols.d == 0 ? (i + j) / a.cols : cols.div(static_cast<uint32_t>(i + j))];
    }
    if (a.prob != nullptr && a.cols % 8 == 0) {  // one row a vector
      const float prob = a.prob[cols.d == 0 ? i / a.cols : cols.div(static_cast<uint32_t>(i))];
#pragma unroll
      for (int j = 0; j < 8; ++j) f[j] *= prob;
    }
    store_some(y + i, left > 8 ? 8 : static_cast<int>(left), aligned && left >= 8, f);
  }
}

// Gradient of one vector; returns its part of sum(dy * act(x)).
template <class T, Act kind>
__device__ __forceinline__ float bwd_vector(float (&f)[8], const float (&d)[8], int count, float prob) {
  float sum = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    float act, slope;
    act_and_slope<T, kind>(f[j], act, slope);
    sum += j < count ? d[j] * act : 0.0f;
    f[j] = d[j] * prob * slope;
  }
  return sum;
}

template <class T, Act kind>
__global__ void __launch_bounds__(kFlatThreads) act_bwd_flat(ActBwd a, int64_t count, bool aligned) {
  constexpr int kUnroll = 2;
  const int64_t base = static_cast<int64_t>(blockIdx.x) * kUnroll * kFlatThreads + threadIdx.x;
  Vec8<T> raw_x[kUnroll], raw_d[kUnroll];
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const int64_t i = (base + k * kFlatThreads) * 8, left = count - i;
    if (left <= 0) continue;
    raw_x[k] = load_raw(static_cast<const T*>(a.x) + i, left > 8 ? 8 : static_cast<int>(left), aligned && left >= 8);
    raw_d[k] = load_raw(static_cast<const T*>(a.dy) + i, left > 8 ? 8 : static_cast<int>(left), aligned && left >= 8);
  }
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const int64_t i = (base + k * kFlatThreads) * 8, left = count - i;
    if (left <= 0) continue;
    float f[8], d[8];
    unpack(raw_x[k], f), unpack(raw_d[k], d);
    bwd_vector<T, kind>(f, d, 8, 1.0f);
    store_some(static_cast<T*>(a.dx) + i, left > 8 ? 8 : static_cast<int>(left), aligned && left >= 8, f);
  }
}

template <class T, Act kind>
__global__ void __launch_bounds__(kFlatThreads) act_bwd_rows(ActBwd a, int lanes, bool aligned) {
  constexpr int kAhead = 2;
  __shared__ float scratch[33];
  const int rows_per_block = kFlatThreads / lanes, lane = threadIdx.x % lanes;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * rows_per_block + threadIdx.x / lanes;
  float sum = 0;
  if (row < a.rows) {
    const float prob = a.prob == nullptr ? 1.0f : a.prob[row];
    for (int col = lane * 8; col < a.cols; col += lanes * 8 * kAhead) {
      Vec8<T> raw_x[kAhead], raw_d[kAhead];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const int c = col + k * lanes * 8, left = a.cols - c;
        if (left <= 0) continue;
        raw_x[k] = load_raw(static_cast<const T*>(a.x) + row * a.cols + c, left > 8 ? 8 : left, aligned && left >= 8);
        raw_d[k] = load_raw(static_cast<const T*>(a.dy) + row * a.cols + c, left > 8 ? 8 : left, aligned && left >= 8);
      }
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        const int c = col + k * lanes * 8, left = a.cols - c;
        if (left <= 0) continue;
        float f[8], d[8];
        unpack(raw_x[k], f), unpack(raw_d[k], d);
        sum += bwd_vector<T, kind>(f, d, left > 8 ? 8 : left, prob);
        store_some(static_cast<T*>(a.dx) + row * a.cols + c, left > 8 ? 8 : left, aligned && left >= 8, f);
      }
    }
  }
  sum = lanes <= 32 ? lanes_reduce(sum, lanes) : block_reduce(sum, scratch);
  if (a.dprob != nullptr && lane == 0 && row < a.rows) a.dprob[row] = sum;
}

template <class F>
void with_kind(Act kind, F&& f) {
  switch (kind) {
    case Act::kGeluExact:
      return f(std::integral_constant<Act, Act::kGeluExact>{});
    case Act::kGeluTanh:
      return f(std::integral_constant<Act, Act::kGeluTanh>{});
    case Act::kQuickGelu:
      return f(std::integral_constant<Act, Act::kQuickGelu>{});
    case Act::kSilu:
      return f(std::integral_constant<Act, Act::kSilu>{});
    case Act::kRelu:
      return f(std::integral_constant<Act, Act::kRelu>{});
    case Act::kReluSquared:
      return f(std::integral_constant<Act, Act::kReluSquared>{});
  }
}

}  // namespace

Support supports_act_fwd_sm90(const ActFwd& a, const Device& d) { return on_sm90(d, a.dtype); }
Support supports_act_bwd_sm90(const ActBwd& a, const Device& d) { return on_sm90(d, a.dtype); }

void act_fwd_sm90(const ActFwd& a, const Launch& launch) {
  const int64_t count = a.rows * a.cols;
  if (count == 0) return;
  const bool aligned = is_aligned(a.x, 16) && is_aligned(a.y, 16);
  FastDiv cols(static_cast<uint32_t>(a.cols));
  if (count >= int64_t{1} << 31) cols.d = 0;
  with_float_type(a.dtype, [&](auto type) {
    with_kind(a.kind, [&](auto kind) {
      launch_grid(act_fwd<typename decltype(type)::type, decltype(kind)::value>, dim3(flat_grid(ceil_div(count, 8), 4)),
                  dim3(kFlatThreads), 0, launch.stream, a, cols, count, aligned);
    });
  });
}

void act_bwd_sm90(const ActBwd& a, const Launch& launch) {
  if (a.rows == 0) return;
  const int64_t count = a.rows * a.cols;
  bool aligned = is_aligned(a.x, 16) && is_aligned(a.dy, 16) && is_aligned(a.dx, 16);
  with_float_type(a.dtype, [&](auto type) {
    with_kind(a.kind, [&](auto kind) {
      using T = typename decltype(type)::type;
      constexpr Act k = decltype(kind)::value;
      if (a.prob == nullptr && a.dprob == nullptr) {
        if (count > 0)
          launch_grid(act_bwd_flat<T, k>, dim3(flat_grid(ceil_div(count, 8), 2)), dim3(kFlatThreads), 0, launch.stream, a, count,
                      aligned);
        return;
      }
      const int lanes = a.rows < 4096 && a.cols >= 1536 ? kFlatThreads : 32;
      launch_grid(act_bwd_rows<T, k>, dim3(static_cast<unsigned>(ceil_div(a.rows, kFlatThreads / lanes))), dim3(kFlatThreads), 0,
                  launch.stream, a, lanes, aligned && a.cols % 8 == 0);
    });
  });
}

}  // namespace weft::kernels
