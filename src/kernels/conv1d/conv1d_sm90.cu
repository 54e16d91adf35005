// A thread owns a few neighbouring channels and walks down a strip of tokens with a sliding window in registers, so x is read
// once (plus width - 1 tokens a strip). Sums over tokens are kept a strip, then added up in order.
#include "kernels/conv1d/conv1d.h"

#include "kernels/common/column_sum.cuh"
#include "kernels/common/device.cuh"

namespace weft::kernels {
namespace {

using namespace dev;

constexpr int kMaxWidth = 4;
constexpr int kChannels = 4;  // of a thread

// Four neighbouring elements.
__device__ __forceinline__ void load4(const float* p, float (&f)[4]) {
  const float4 v = *reinterpret_cast<const float4*>(p);
  f[0] = v.x, f[1] = v.y, f[2] = v.z, f[3] = v.w;
}
__device__ __forceinline__ void load4(const bf16* p, float (&f)[4]) {
  const uint2 v = *reinterpret_cast<const uint2*>(p);
  f[0] = __uint_as_float(v.x << 16), f[1] = __uint_as_float(v.x & 0xffff0000u);
  f[2] = __uint_as_float(v.y << 16), f[3] = __uint_as_float(v.y & 0xffff0000u);
}
__device__ __forceinline__ void store4(float* p, const float (&f)[4]) {
  *reinterpret_cast<float4*>(p) = make_float4(f[0], f[1], f[2], f[3]);
}
__device__ __forceinline__ void store4(bf16* p, const float (&f)[4]) {
  *reinterpret_cast<uint2*>(p) = make_uint2(pack2(f[0], f[1]), pack2(f[2], f[3]));
}
template <class T>
__device__ __forceinline__ void load_some4(const T* p, int count, bool full, float (&f)[4]) {
  if (full) return load4(p, f);
#pragma unroll
  for (int i = 0; i < 4; ++i) f[i] = i < count ? to_f32(p[i]) : 0.0f;
}
template <class T>
__device__ __forceinline__ void store_some4(T* p, int count, bool full, const float (&f)[4]) {
  if (full) return store4(p, f);
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < count) p[i] = from_f32<T>(f[i]);
}

template <class T>
__device__ __forceinline__ float silu_of(float a, float& slope) {
  const float s = sigmoid<T>(a);
  slope = s * (1 + a * (1 - s));
  return a * s;
}

struct Span {  // of a document
  int64_t begin, end;
  int32_t document;
};

// The document that holds token t (the last one that starts at or before it).
__device__ __forceinline__ Span span_of(const int32_t* cu, int32_t documents, int64_t tokens, int64_t t) {
  if (cu == nullptr) return {0, tokens, 0};
  int low = 0, high = documents - 1;
  while (low < high) {
    const int mid = (low + high + 1) / 2;
    if (cu[mid] <= t)
      low = mid;
    else
      high = mid - 1;
  }
  return {cu[low], cu[low + 1], low};
}

// The input `back` tokens before a document's start, for kChannels channels; back in 1 .. width - 1.
template <class T, int W>
__device__ __forceinline__ void from_state(const T* state, int32_t document, int32_t channels, int c, int count, int back,
                                           float (&f)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
    f[i] = state != nullptr && i < count
               ? to_f32(state[(static_cast<int64_t>(document) * channels + c + i) * (W - 1) + W - 1 - back])
               : 0.0f;
}

// window[j] = input at token t - (W - 1) + j, for j < W - 1: what token t needs beside itself.
template <class T, int W>
__device__ __forceinline__ void fill_window(const T* x, int64_t stride, const T* state, const Span& span, int32_t channels,
                                            int64_t t, int c, int count, bool full, float (&window)[W][4]) {
#pragma unroll
  for (int j = 0; j < W - 1; ++j) {
    const int64_t at = t - (W - 1) + j;
    if (at >= span.begin)
      load_some4(x + at * stride + c, count, full, window[j]);
    else
      from_state<T, W>(state, span.document, channels, c, count, static_cast<int>(span.begin - at), window[j]);
  }
}

template <class T, int W>
__global__ void __launch_bounds__(128) conv1d_fwd(Conv1dFwd a, int64_t strip, bool aligned) {
  const int c = (blockIdx.y * 128 + threadIdx.x) * kChannels, count = a.channels - c;
  if (count <= 0) return;
  const bool full = aligned && count >= kChannels;
  const T *x = static_cast<const T*>(a.x), *state = static_cast<const T*>(a.initial_state);
  T* y = static_cast<T*>(a.y);
  float w[W][4], bias[4] = {}, window[W][4];
#pragma unroll
  for (int j = 0; j < W; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) w[j][i] = i < count ? to_f32(static_cast<const T*>(a.w)[(c + i) * W + j]) : 0.0f;
  if (a.bias != nullptr) load_some4(static_cast<const T*>(a.bias) + c, count, false, bias);
  const int64_t first = blockIdx.x * strip, last = first + strip < a.tokens ? first + strip : a.tokens;
  Span span = span_of(a.cu, a.documents, a.tokens, first);
  fill_window<T, W>(x, a.x_stride, state, span, a.channels, first, c, count, full, window);
  constexpr int kAhead = 4;
  for (int64_t t0 = first; t0 < last; t0 += kAhead) {
    float next[kAhead][4];
#pragma unroll
    for (int k = 0; k < kAhead; ++k)
      if (t0 + k < last) load_some4(x + (t0 + k) * a.x_stride + c, count, full, next[k]);
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int64_t t = t0 + k;
      if (t >= last) break;
      if (t == span.end)
        span = span_of(a.cu, a.documents, a.tokens, t),
        fill_window<T, W>(x, a.x_stride, state, span, a.channels, t, c, count, full, window);
      float sum[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        window[W - 1][i] = next[k][i];
        sum[i] = bias[i];
#pragma unroll
        for (int j = 0; j < W; ++j) sum[i] += w[j][i] * window[j][i];
        float slope;
        if (a.silu) sum[i] = silu_of<T>(sum[i], slope);
#pragma unroll
        for (int j = 0; j + 1 < W; ++j) window[j][i] = window[j + 1][i];
      }
      store_some4(y + t * a.y_stride + c, count, full, sum);
    }
  }
}

// Column i of the final state: the input W - 1 - i tokens before the document's end, out of the initial state where that is
// earlier.
template <class T, int W>
__global__ void __launch_bounds__(256) final_states(Conv1dFwd a) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (n >= static_cast<int64_t>(a.documents) * a.channels) return;
  const int32_t document = static_cast<int32_t>(n / a.channels), c = static_cast<int32_t>(n % a.channels);
  const int64_t begin = a.cu == nullptr ? 0 : a.cu[document], end = a.cu == nullptr ? a.tokens : a.cu[document + 1];
  const T* before = static_cast<const T*>(a.initial_state);
  T state[W];
#pragma unroll
  for (int i = 0; i < W - 1; ++i) {
    const int64_t at = end - (W - 1) + i, column = at - begin + W - 1;
    if (at >= begin)
      state[i] = static_cast<const T*>(a.x)[at * a.x_stride + c];
    else
      state[i] = before == nullptr ? from_f32<T>(0.0f) : before[n * (W - 1) + column];
  }
#pragma unroll
  for (int i = 0; i < W - 1; ++i) static_cast<T*>(a.final_state)[n * (W - 1) + i] = state[i];
}

template <class T, int W>
__global__ void __launch_bounds__(128) conv1d_bwd(Conv1dBwd a, int64_t strip, float* parts, bool aligned) {
  const int c = (blockIdx.y * 128 + threadIdx.x) * kChannels, count = a.channels - c;
  if (count <= 0) return;
  const bool full = aligned && count >= kChannels;
  const T *x = static_cast<const T*>(a.x), *state = static_cast<const T*>(a.initial_state), *dy = static_cast<const T*>(a.dy),
          *dfinal = static_cast<const T*>(a.dfinal_state);
  T* dx = static_cast<T*>(a.dx);
  float w[W][4], bias[4] = {}, window[W][4], da[W][4] = {}, dw[W][4] = {}, dbias[4] = {};  // da[j]: of token t - (W - 1) + j
#pragma unroll
  for (int j = 0; j < W; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) w[j][i] = i < count ? to_f32(static_cast<const T*>(a.w)[(c + i) * W + j]) : 0.0f;
  if (a.bias != nullptr) load_some4(static_cast<const T*>(a.bias) + c, count, false, bias);
  const int64_t first = blockIdx.x * strip, last = first + strip < a.tokens ? first + strip : a.tokens;
  Span span = span_of(a.cu, a.documents, a.tokens, first), out = span;  // of the token read, of the token written
  fill_window<T, W>(x, a.x_stride, state, span, a.channels, first, c, count, full, window);
  constexpr int kAhead = 4;
  for (int64_t t0 = first; t0 < last + W - 1; t0 += kAhead) {
    float next_x[kAhead][4], next_dy[kAhead][4];
#pragma unroll
    for (int k = 0; k < kAhead; ++k)
      if (t0 + k < last + W - 1 && t0 + k < a.tokens)
        load_some4(x + (t0 + k) * a.x_stride + c, count, full, next_x[k]),
            load_some4(dy + (t0 + k) * a.dy_stride + c, count, full, next_dy[k]);
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int64_t t = t0 + k, s = t - (W - 1);
      if (t >= last + W - 1) break;
#pragma unroll
      for (int j = 0; j + 1 < W; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) da[j][i] = da[j + 1][i];
#pragma unroll
      for (int i = 0; i < 4; ++i) da[W - 1][i] = 0;
      if (t < a.tokens) {
        if (t == span.end)
          span = span_of(a.cu, a.documents, a.tokens, t),
          fill_window<T, W>(x, a.x_stride, state, span, a.channels, t, c, count, full, window);
        const bool mine = t < last;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          window[W - 1][i] = next_x[k][i];
          float sum = bias[i], slope = 1;
#pragma unroll
          for (int j = 0; j < W; ++j) sum += w[j][i] * window[j][i];
          if (a.silu) silu_of<T>(sum, slope);
          const float d = next_dy[k][i] * slope;
          da[W - 1][i] = d;
          if (mine) {
            dbias[i] += d;
#pragma unroll
            for (int j = 0; j < W; ++j) dw[j][i] += d * window[j][i];
          }
#pragma unroll
          for (int j = 0; j + 1 < W; ++j) window[j][i] = window[j + 1][i];
        }
      }
      if (s < first) continue;
      if (s >= out.end) out = span_of(a.cu, a.documents, a.tokens, s);
      float sum[4] = {};
#pragma unroll
      for (int q = 0; q < W; ++q) {  // a[s + q] saw x[s] through w[W - 1 - q]
        if (s + q >= out.end) continue;
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[i] += w[W - 1 - q][i] * da[q][i];
      }
      const int64_t column = s - out.end + W - 1;
      if (dfinal != nullptr && column >= 0) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (i < count) sum[i] += to_f32(dfinal[(static_cast<int64_t>(out.document) * a.channels + c + i) * (W - 1) + column]);
      }
      store_some4(dx + s * a.dx_stride + c, count, full, sum);
    }
  }
  float* part = parts + static_cast<int64_t>(blockIdx.x) * a.channels * (W + 1);  // [channels, W], then [channels]
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i >= count) continue;
#pragma unroll
    for (int j = 0; j < W; ++j) part[(c + i) * W + j] = dw[j][i];
    part[a.channels * W + c + i] = dbias[i];
  }
}

// Gradient of the initial states: what the first W - 1 tokens of a document took from them, and what a short one passed on.
template <class T, int W>
__global__ void __launch_bounds__(256) initial_states_bwd(Conv1dBwd a) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (n >= static_cast<int64_t>(a.documents) * a.channels) return;
  const int32_t document = static_cast<int32_t>(n / a.channels), c = static_cast<int32_t>(n % a.channels);
  const int64_t begin = a.cu == nullptr ? 0 : a.cu[document], end = a.cu == nullptr ? a.tokens : a.cu[document + 1];
  const T *w = static_cast<const T*>(a.w) + static_cast<int64_t>(c) * W, *before = static_cast<const T*>(a.initial_state);
  auto input = [&](int64_t at) {
    return at >= begin         ? to_f32(static_cast<const T*>(a.x)[at * a.x_stride + c])
           : before == nullptr ? 0.0f
                               : to_f32(before[n * (W - 1) + at - begin + W - 1]);
  };
  float d[W] = {};
  for (int64_t t = begin; t < end && t < begin + W - 1; ++t) {
    float sum = a.bias == nullptr ? 0.0f : to_f32(static_cast<const T*>(a.bias)[c]), slope = 1;
    for (int j = 0; j < W; ++j) sum += to_f32(w[j]) * input(t - (W - 1) + j);
    if (a.silu) silu_of<T>(sum, slope);
    const float g = to_f32(static_cast<const T*>(a.dy)[t * a.dy_stride + c]) * slope;
#pragma unroll
    for (int i = 0; i < W - 1; ++i) {
      const int64_t j = i - (t - begin);
      if (j >= 0) d[i] += to_f32(w[j]) * g;
    }
  }
  const int64_t length = end - begin;
#pragma unroll
  for (int i = 0; i < W - 1; ++i) {
    if (a.dfinal_state != nullptr && i >= length) d[i] += to_f32(static_cast<const T*>(a.dfinal_state)[n * (W - 1) + i - length]);
    static_cast<T*>(a.dinitial_state)[n * (W - 1) + i] = from_f32<T>(d[i]);
  }
}

template <class T, int W>
__global__ void __launch_bounds__(256) conv1d_step(Conv1dStep a) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (n >= a.rows * a.channels) return;
  const int64_t row = n / a.channels;
  const int32_t c = static_cast<int32_t>(n - row * a.channels),
                slot = a.slots == nullptr ? static_cast<int32_t>(row) : a.slots[row];
  T* y = static_cast<T*>(a.y);
  if (slot < 0) {
    y[n] = from_f32<T>(0.0f);
    return;
  }
  T* state = static_cast<T*>(a.state) + (static_cast<int64_t>(slot) * a.channels + c) * (W - 1);
  const T* w = static_cast<const T*>(a.w) + static_cast<int64_t>(c) * W;
  const T x = static_cast<const T*>(a.x)[row * a.x_stride + c];
  float sum = a.bias == nullptr ? 0.0f : to_f32(static_cast<const T*>(a.bias)[c]), slope;
#pragma unroll
  for (int j = 0; j < W - 1; ++j) sum += to_f32(w[j]) * to_f32(state[j]);
  sum += to_f32(w[W - 1]) * to_f32(x);
#pragma unroll
  for (int j = 0; j + 1 < W - 1; ++j) state[j] = state[j + 1];
  if (W > 1) state[W - 2] = x;
  y[n] = from_f32<T>(a.silu ? silu_of<T>(sum, slope) : sum);
}

template <class F>
void with_width(int width, F&& f) {
  if (width == 2)
    f(std::integral_constant<int, 2>{});
  else if (width == 3)
    f(std::integral_constant<int, 3>{});
  else
    f(std::integral_constant<int, 4>{});
}

// Strips of tokens: enough of them to fill the device, none below 16 tokens; a function of the shape alone.
int64_t strip_of(int64_t tokens, int32_t channels, int64_t threads_wanted) {
  const int64_t across = ceil_div(channels, kChannels * 128) * 128, strips = threads_wanted / (across > 0 ? across : 1) + 1;
  const int64_t strip = ceil_div(tokens, strips);
  return strip < 16 ? 16 : strip;
}
constexpr int64_t kFwdThreads = 132 * 2048 * 2, kBwdThreads = 132 * 512 * 2;

Support fits(const Device& d, DType t, int32_t width, int32_t channels) {
  if (width < 2 || width > kMaxWidth) return {"width is not 2, 3 or 4"};
  if (channels > 65535 * 512) return {"too many channels"};
  return on_sm90(d, t);
}

}  // namespace

Support supports_conv1d_fwd_sm90(const Conv1dFwd& a, const Device& d) { return fits(d, a.dtype, a.width, a.channels); }
Support supports_conv1d_bwd_sm90(const Conv1dBwd& a, const Device& d) { return fits(d, a.dtype, a.width, a.channels); }
Support supports_conv1d_step_sm90(const Conv1dStep& a, const Device& d) { return fits(d, a.dtype, a.width, a.channels); }

size_t workspace_conv1d_bwd_sm90(const Conv1dBwd& a) {
  return sizeof(float) * static_cast<size_t>(ceil_div(a.tokens, strip_of(a.tokens, a.channels, kBwdThreads))) *
         static_cast<size_t>(a.channels) * static_cast<size_t>(a.width + 1);
}

void conv1d_fwd_sm90(const Conv1dFwd& a, const Launch& launch) {
  if (a.channels == 0) return;
  const bool aligned =
      a.channels % 4 == 0 && a.x_stride % 4 == 0 && a.y_stride % 4 == 0 && is_aligned(a.x, 16) && is_aligned(a.y, 16);
  const int64_t strip = strip_of(a.tokens, a.channels, kFwdThreads);
  with_float_type(a.dtype, [&](auto type) {
    with_width(a.width, [&](auto width) {
      using T = typename decltype(type)::type;
      constexpr int W = decltype(width)::value;
      if (a.tokens > 0)
        launch_grid(
            conv1d_fwd<T, W>,
            dim3(static_cast<unsigned>(ceil_div(a.tokens, strip)), static_cast<unsigned>(ceil_div(a.channels, kChannels * 128))),
            dim3(128), 0, launch.stream, a, strip, aligned);
      if (a.final_state != nullptr)
        launch_grid(final_states<T, W>,
                    dim3(static_cast<unsigned>(ceil_div(static_cast<int64_t>(a.documents) * a.channels, 256))), dim3(256), 0,
                    launch.stream, a);
    });
  });
}

void conv1d_bwd_sm90(const Conv1dBwd& a, const Launch& launch) {
  if (a.channels == 0) return;
  bool aligned = a.channels % 4 == 0 && a.x_stride % 4 == 0 && a.dy_stride % 4 == 0 && a.dx_stride % 4 == 0;
  for (const void* p : {a.x, a.dy, static_cast<const void*>(a.dx)}) aligned = aligned && is_aligned(p, 16);
  const int64_t strip = strip_of(a.tokens, a.channels, kBwdThreads), strips = ceil_div(a.tokens, strip);
  float* parts = static_cast<float*>(launch.workspace);
  with_float_type(a.dtype, [&](auto type) {
    with_width(a.width, [&](auto width) {
      using T = typename decltype(type)::type;
      constexpr int W = decltype(width)::value;
      if (a.tokens > 0)
        launch_grid(conv1d_bwd<T, W>,
                    dim3(static_cast<unsigned>(strips), static_cast<unsigned>(ceil_div(a.channels, kChannels * 128))), dim3(128),
                    0, launch.stream, a, strip, parts, aligned);
      if (a.dinitial_state != nullptr)
        launch_grid(initial_states_bwd<T, W>,
                    dim3(static_cast<unsigned>(ceil_div(static_cast<int64_t>(a.documents) * a.channels, 256))), dim3(256), 0,
                    launch.stream, a);
    });
  });
  if (a.tokens == 0) return;
  const int64_t weights = static_cast<int64_t>(a.channels) * a.width, stride = weights + a.channels;
  if (a.dw != nullptr) add_column_sums(parts, strips, weights, a.dw, launch.stream, stride);
  if (a.dbias != nullptr) add_column_sums(parts + weights, strips, a.channels, a.dbias, launch.stream, stride);
}

void conv1d_step_sm90(const Conv1dStep& a, const Launch& launch) {
  if (a.rows * a.channels == 0) return;
  with_float_type(a.dtype, [&](auto type) {
    with_width(a.width, [&](auto width) {
      launch_grid(conv1d_step<typename decltype(type)::type, decltype(width)::value>,
                  dim3(static_cast<unsigned>(ceil_div(a.rows * a.channels, 256))), dim3(256), 0, launch.stream, a);
    });
  });
}

}  // namespace weft::kernels
