// One vector of eight columns a thread; with prob or dprob a group of threads owns a row, so that its sum has one order.
#include "kernels/activation/activation.h"
#include "kernels/common/flat.cuh"

namespace weft::kernels {
namespace {

using namespace dev;

constexpr float kSqrt2OverPi = 0.7978845608028654f, kSqrt1Over2 = 0.7071067811865476f, kSqrt1Over2Pi = 0.3989422804014327f;

template <Act kind>
__device__ __forceinline__ void act_and_slope(float x, float& act, float& slope) {
  if constexpr (kind == Act::kSilu || kind == Act::kQuickGelu) {
    constexpr float k = kind == Act::kSilu ? 1.0f : 1.702f;
    const float s = sigmoid(k * x);
    act = x * s, slope = s * (1 + k * x * (1 - s));
  } else if constexpr (kind == Act::kGeluExact) {
    const float cdf = 0.5f * erfcf(-x * kSqrt1Over2);
    act = x * cdf, slope = cdf + x * kSqrt1Over2Pi * expf(-0.5f * x * x);
  } else if constexpr (kind == Act::kGeluTanh) {
    const float s = sigmoid(2 * kSqrt2OverPi * (x + 0.044715f * x * x * x));  // (1 + tanh(u)) / 2 = sigmoid(2 u)
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
  float f[kUnroll][8];
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const int64_t i = (base + k * kFlatThreads) * 8, left = count - i;
    if (left > 0) load_some(x + i, left > 8 ? 8 : static_cast<int>(left), aligned && left >= 8, f[k]);
  }
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const int64_t i = (base + k * kFlatThreads) * 8, left = count - i;
    if (left <= 0) continue;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      float slope;
      act_and_slope<kind>(f[k][j], f[k][j], slope);
      if (a.prob != nullptr && j < left)
        f[k][j] *= a.prob[cols.d == 0 ? (i + j) / a.cols : cols.div(static_cast<uint32_t>(i + j))];
    }
    store_some(y + i, left > 8 ? 8 : static_cast<int>(left), aligned && left >= 8, f[k]);
  }
}

template <class T, Act kind>
__device__ __forceinline__ float bwd_vector(const ActBwd& a, int64_t i, int count, bool full, float prob) {
  float f[8], d[8], sum = 0;
  load_some(static_cast<const T*>(a.x) + i, count, full, f);
  load_some(static_cast<const T*>(a.dy) + i, count, full, d);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    float act, slope;
    act_and_slope<kind>(f[j], act, slope);
    sum += j < count ? d[j] * act : 0.0f;
    f[j] = d[j] * prob * slope;
  }
  store_some(static_cast<T*>(a.dx) + i, count, full, f);
  return sum;
}

template <class T, Act kind>
__global__ void __launch_bounds__(kFlatThreads) act_bwd_flat(ActBwd a, int64_t count, bool aligned) {
  const int64_t base = static_cast<int64_t>(blockIdx.x) * 2 * kFlatThreads + threadIdx.x;
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const int64_t i = (base + k * kFlatThreads) * 8, left = count - i;
    if (left > 0) bwd_vector<T, kind>(a, i, left > 8 ? 8 : static_cast<int>(left), aligned && left >= 8, 1.0f);
  }
}

template <class T, Act kind>
__global__ void __launch_bounds__(kFlatThreads) act_bwd_rows(ActBwd a, int lanes, bool aligned) {
  __shared__ float scratch[33];
  const int rows_per_block = kFlatThreads / lanes, lane = threadIdx.x % lanes;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * rows_per_block; first < a.rows;
       first += static_cast<int64_t>(gridDim.x) * rows_per_block) {
    const int64_t row = first + threadIdx.x / lanes;
    float sum = 0;
    if (row < a.rows) {
      const float prob = a.prob == nullptr ? 1.0f : a.prob[row];
      for (int col = lane * 8; col < a.cols; col += lanes * 8) {
        const int left = a.cols - col;
        sum += bwd_vector<T, kind>(a, row * a.cols + col, left > 8 ? 8 : left, aligned && left >= 8, prob);
      }
    }
    sum = lanes <= 32 ? lanes_reduce(sum, lanes) : block_reduce(sum, scratch);
    if (a.dprob != nullptr && lane == 0 && row < a.rows) a.dprob[row] = sum;
  }
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
      const int lanes = a.cols >= 1536 ? kFlatThreads : 32;
      const int64_t blocks = ceil_div(a.rows, kFlatThreads / lanes);
      launch_grid(act_bwd_rows<T, k>, dim3(static_cast<unsigned>(blocks < (1 << 30) ? blocks : (1 << 30))), dim3(kFlatThreads), 0,
                  launch.stream, a, lanes, aligned && a.cols % 8 == 0);
    });
  });
}

}  // namespace weft::kernels
