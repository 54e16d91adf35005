// A thread owns a few neighbouring channels and walks down a strip of tokens with a sliding window in registers, so x is read
// once (plus width - 1 tokens a strip).
#include "kernels/conv1d/conv1d.h"

#include "kernels/conv1d/strip.cuh"

namespace weft::kernels {
namespace {

using namespace conv1d;

template <class T, int W, bool kSilu>
__global__ void __launch_bounds__(128) conv1d_fwd(Conv1dFwd a, int64_t strip, bool aligned) {
  const int c = (blockIdx.y * 128 + threadIdx.x) * kChannels, count = a.channels - c;
  if (count <= 0) return;
  const bool full = aligned && count >= kChannels;
  const T *x = static_cast<const T*>(a.x), *state = static_cast<const T*>(a.initial_state);
  T* y = static_cast<T*>(a.y);
  float w[W][4], bias[4] = {}, in[W - 1 + kGroup][4];  // in: the window, then the tokens of a group
  load_weights<T, W>(a.w, a.bias, c, count, w, bias);
  const int64_t first = blockIdx.x * strip, last = first + strip < a.tokens ? first + strip : a.tokens;
  Span span = span_of(a.cu, a.documents, a.tokens, first);
  fill_window<T, W>(x, a.x_stride, state, span, a.channels, first, c, count, full, in);
  auto output = [&](int k, int64_t t) {
    float sum[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sum[i] = bias[i];
#pragma unroll
      for (int j = 0; j < W; ++j) sum[i] += w[j][i] * in[k + j][i];
      float slope;
      if constexpr (kSilu) sum[i] = silu_of<T>(sum[i], slope);
    }
    store_some4(y + t * a.y_stride + c, count, full, sum);
  };
  Raw4<T> ahead[kGroup];
  auto read_ahead = [&](int64_t t) {
    if (!full || t + kGroup > last) return;
#pragma unroll
    for (int k = 0; k < kGroup; ++k) ahead[k] = read4(x + (t + k) * a.x_stride + c);
  };
  read_ahead(first);
  for (int64_t t = first; t < last; t += kGroup) {
    if (full && t + kGroup <= last && t + kGroup <= span.end) {
#pragma unroll
      for (int k = 0; k < kGroup; ++k) unpack4(ahead[k], in[W - 1 + k]);
      read_ahead(t + kGroup);
#pragma unroll
      for (int k = 0; k < kGroup; ++k) output(k, t + k);
#pragma unroll
      for (int j = 0; j < W - 1; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) in[j][i] = in[j + kGroup][i];
      continue;
    }
    read_ahead(t + kGroup);
#pragma unroll 1
    for (int64_t at = t; at < t + kGroup && at < last; ++at) {
      if (at == span.end)
        span = span_of(a.cu, a.documents, a.tokens, at),
        fill_window<T, W>(x, a.x_stride, state, span, a.channels, at, c, count, full, in);
      load_some4(x + at * a.x_stride + c, count, full, in[W - 1]);
      output(0, at);
      shift<W>(in);
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

constexpr int64_t kFwdThreads = 132 * 1024 * 2;  // two rounds of eight blocks a processor

}  // namespace

Support supports_conv1d_fwd_sm90(const Conv1dFwd& a, const Device& d) { return fits(d, a.dtype, a.width, a.channels); }
Support supports_conv1d_step_sm90(const Conv1dStep& a, const Device& d) { return fits(d, a.dtype, a.width, a.channels); }

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
            a.silu ? conv1d_fwd<T, W, true> : conv1d_fwd<T, W, false>,
            dim3(static_cast<unsigned>(ceil_div(a.tokens, strip)), static_cast<unsigned>(ceil_div(a.channels, kChannels * 128))),
            dim3(128), 0, launch.stream, a, strip, aligned);
      if (a.final_state != nullptr)
        launch_grid(final_states<T, W>,
                    dim3(static_cast<unsigned>(ceil_div(static_cast<int64_t>(a.documents) * a.channels, 256))), dim3(256), 0,
                    launch.stream, a);
    });
  });
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
