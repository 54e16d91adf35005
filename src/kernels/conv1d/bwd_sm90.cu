// As the forward, with the gradient of the pre-activation in a second window: dx[s] is written once the last of the width tokens
// that saw x[s] is known. Each thread asks for its own channels kAhead groups of tokens ahead (cp.async) and reads back only those: the ring
// needs no barrier, and registers keep the windows. Sums over tokens are kept a strip, then added up in order.
#include "kernels/conv1d/conv1d.h"

#include "kernels/common/column_sum.cuh"
#include "kernels/common/mma.cuh"
#include "kernels/conv1d/strip.cuh"

namespace weft::kernels {
namespace {

using namespace conv1d;

constexpr int kAhead = 3;
template <class T>
struct Slot {  // a group of tokens
  Raw4<T> x[kGroup][128], dy[kGroup][128];
};
#if defined(WEFT_EMULATE)
using emulate::cp_async8;
#else
__device__ __forceinline__ void cp_async8(void* smem, const void* global, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;\n" ::"r"(smem_address(smem)), "l"(global), "r"(valid ? 8 : 0) : "memory");
}
#endif
__device__ __forceinline__ void ask4(Raw4<bf16>* to, const bf16* from) { cp_async8(to, from, true); }
__device__ __forceinline__ void ask4(Raw4<float>* to, const float* from) { cp_async16(to, from, true); }

// kSilu: a branch at each element would keep their chains of exponential and reciprocal from overlapping.
template <class T, int W, bool kSilu>
__global__ void __launch_bounds__(128, 4) conv1d_bwd(Conv1dBwd a, int64_t strip, float* parts, bool aligned) {
  const int c = (blockIdx.y * 128 + threadIdx.x) * kChannels, count = a.channels - c;
  if (count <= 0) return;
  const bool full = aligned && count >= kChannels;
  const T *x = static_cast<const T*>(a.x), *state = static_cast<const T*>(a.initial_state), *dy = static_cast<const T*>(a.dy),
          *dfinal = static_cast<const T*>(a.dfinal_state);
  T* dx = static_cast<T*>(a.dx);
  // in: inputs before a group and of it; da: gradients of the pre-activations of the same tokens.
  float w[W][4], bias[4] = {}, in[W - 1 + kGroup][4], da[W - 1 + kGroup][4] = {}, dw[W][4] = {}, dbias[4] = {};
  load_weights<T, W>(a.w, a.bias, c, count, w, bias);
  const int64_t first = blockIdx.x * strip, last = first + strip < a.tokens ? first + strip : a.tokens;
  Span span = span_of(a.cu, a.documents, a.tokens, first), out = span;  // of the token read, of the token written
  fill_window<T, W>(x, a.x_stride, state, span, a.channels, first, c, count, full, in);
  // da of row k from its inputs and from dy, which lies there; `mine`: this strip adds it to dw.
  auto gradient = [&](int k, bool mine) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float sum = bias[i], slope = 1;
#pragma unroll
      for (int j = 0; j < W; ++j) sum += w[j][i] * in[k + j][i];
      if constexpr (kSilu) silu_of<T>(sum, slope);
      const float d = da[W - 1 + k][i] * slope;
      da[W - 1 + k][i] = d;
      if (!mine) continue;
      dbias[i] += d;
#pragma unroll
      for (int j = 0; j < W; ++j) dw[j][i] += d * in[k + j][i];
    }
  };
  WEFT_DYNAMIC_SMEM(conv1d_ring);
  Slot<T>* ring = reinterpret_cast<Slot<T>*>(conv1d_ring);
  const int me = threadIdx.x;
  auto ask = [&](int64_t t, int stage) {
    if (full && t + kGroup <= last)
#pragma unroll
      for (int k = 0; k < kGroup; ++k) ask4(&ring[stage].x[k][me], x + (t + k) * a.x_stride + c), ask4(&ring[stage].dy[k][me], dy + (t + k) * a.dy_stride + c);
    cp_async_commit();
  };
#pragma unroll
  for (int k = 0; k < kAhead; ++k) ask(first + k * kGroup, k);
  int stage = -1;
  for (int64_t t = first; t < last + W - 1; t += kGroup) {
    cp_async_wait<kAhead - 1>();
    stage = stage + 1 == kAhead ? 0 : stage + 1;
    // A group whose tokens, and those it completes, all lie inside one document and this strip.
    if (full && t + kGroup <= last && t + kGroup <= span.end && t - (W - 1) >= (first > span.begin ? first : span.begin)) {
      out = span;
#pragma unroll
      for (int k = 0; k < kGroup; ++k) unpack4(ring[stage].x[k][me], in[W - 1 + k]), unpack4(ring[stage].dy[k][me], da[W - 1 + k]);
      ask(t + kAhead * kGroup, stage);
#pragma unroll
      for (int k = 0; k < kGroup; ++k) {
        gradient(k, true);
        float sum[4] = {};
#pragma unroll
        for (int q = 0; q < W; ++q)  // token s + q saw x[s] through w[W - 1 - q]
#pragma unroll
          for (int i = 0; i < 4; ++i) sum[i] += w[W - 1 - q][i] * da[k + q][i];
        store4(dx + (t + k - (W - 1)) * a.dx_stride + c, sum);
      }
#pragma unroll
      for (int j = 0; j < W - 1; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) in[j][i] = in[j + kGroup][i], da[j][i] = da[j + kGroup][i];
      continue;
    }
    ask(t + kAhead * kGroup, stage);
#pragma unroll 1
    for (int64_t at = t; at < t + kGroup && at < last + W - 1; ++at) {
      const int64_t s = at - (W - 1);
      if (at < a.tokens) {
        if (at == span.end)
          span = span_of(a.cu, a.documents, a.tokens, at),
          fill_window<T, W>(x, a.x_stride, state, span, a.channels, at, c, count, full, in);
        load_some4(x + at * a.x_stride + c, count, full, in[W - 1]);
        load_some4(dy + at * a.dy_stride + c, count, full, da[W - 1]);
        gradient(0, at < last);
        shift<W>(in);
      } else {
#pragma unroll
        for (int i = 0; i < 4; ++i) da[W - 1][i] = 0;
      }
      if (s >= first) {
        if (s >= out.end) out = span_of(a.cu, a.documents, a.tokens, s);
        float sum[4] = {};
#pragma unroll
        for (int q = 0; q < W; ++q) {
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
      shift<W>(da);
    }
  }
  cp_async_wait<0>();
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

constexpr int64_t kBwdThreads = 132 * 512 * 2;  // two rounds of four

}  // namespace

Support supports_conv1d_bwd_sm90(const Conv1dBwd& a, const Device& d) { return fits(d, a.dtype, a.width, a.channels); }

size_t workspace_conv1d_bwd_sm90(const Conv1dBwd& a) {
  return sizeof(float) * static_cast<size_t>(ceil_div(a.tokens, strip_of(a.tokens, a.channels, kBwdThreads))) *
         static_cast<size_t>(a.channels) * static_cast<size_t>(a.width + 1);
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
        launch_grid(a.silu ? conv1d_bwd<T, W, true> : conv1d_bwd<T, W, false>,
                    dim3(static_cast<unsigned>(strips), static_cast<unsigned>(ceil_div(a.channels, kChannels * 128))), dim3(128),
                    kAhead * sizeof(Slot<T>), launch.stream, a, strip, parts, aligned);
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

}  // namespace weft::kernels
