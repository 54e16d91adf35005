// What the convolution's kernels share: four neighbouring channels a thread, documents, the window before a token.
#pragma once
#include "kernels/common/device.cuh"
#include "kernels/conv1d/conv1d.h"

namespace weft::kernels::conv1d {

using namespace dev;

constexpr int kMaxWidth = 4;
constexpr int kChannels = 4;  // of a thread
constexpr int kGroup = 4;     // tokens that are handled without asking where a document ends

// Four neighbouring elements as they lie in memory: what is read ahead.
template <class T>
struct Raw4;
template <>
struct Raw4<bf16> {
  uint2 v;
};
template <>
struct Raw4<float> {
  float4 v;
};
__device__ __forceinline__ Raw4<bf16> read4(const bf16* p) { return {*reinterpret_cast<const uint2*>(p)}; }
__device__ __forceinline__ Raw4<float> read4(const float* p) { return {*reinterpret_cast<const float4*>(p)}; }
__device__ __forceinline__ void unpack4(const Raw4<bf16>& r, float (&f)[4]) {
  f[0] = __uint_as_float(r.v.x << 16), f[1] = __uint_as_float(r.v.x & 0xffff0000u);
  f[2] = __uint_as_float(r.v.y << 16), f[3] = __uint_as_float(r.v.y & 0xffff0000u);
}
__device__ __forceinline__ void unpack4(const Raw4<float>& r, float (&f)[4]) {
  f[0] = r.v.x, f[1] = r.v.y, f[2] = r.v.z, f[3] = r.v.w;
}

__device__ __forceinline__ void store4(float* p, const float (&f)[4]) {
  *reinterpret_cast<float4*>(p) = make_float4(f[0], f[1], f[2], f[3]);
}
__device__ __forceinline__ void store4(bf16* p, const float (&f)[4]) {
  *reinterpret_cast<uint2*>(p) = make_uint2(pack2(f[0], f[1]), pack2(f[2], f[3]));
}
template <class T>
__device__ __forceinline__ void load_some4(const T* p, int count, bool full, float (&f)[4]) {
  if (full) return unpack4(read4(p), f);
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
                                            int64_t t, int c, int count, bool full, float (&window)[W - 1 + kGroup][4]) {
#pragma unroll
  for (int j = 0; j < W - 1; ++j) {
    const int64_t at = t - (W - 1) + j;
    if (at >= span.begin)
      load_some4(x + at * stride + c, count, full, window[j]);
    else
      from_state<T, W>(state, span.document, channels, c, count, static_cast<int>(span.begin - at), window[j]);
  }
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

template <class T, int W>
__device__ __forceinline__ void load_weights(const void* weight, const void* bias, int c, int count, float (&w)[W][4],
                                             float (&b)[4]) {
#pragma unroll
  for (int j = 0; j < W; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) w[j][i] = i < count ? to_f32(static_cast<const T*>(weight)[(c + i) * W + j]) : 0.0f;
  if (bias != nullptr) load_some4(static_cast<const T*>(bias) + c, count, false, b);
}

// One token on: of the window's rows the first falls out.
template <int W>
__device__ __forceinline__ void shift(float (&window)[W - 1 + kGroup][4]) {
#pragma unroll
  for (int j = 0; j < W - 1; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) window[j][i] = window[j + 1][i];
}

// Strips of tokens: as many as fill the device with whole rounds of blocks, none below 16 tokens; a function of the shape alone.
inline int64_t strip_of(int64_t tokens, int32_t channels, int64_t threads_wanted) {
  const int64_t across = ceil_div(channels, kChannels * 128) * 128, strips = threads_wanted / (across > 0 ? across : 1);
  const int64_t strip = ceil_div(tokens, strips > 0 ? strips : 1);
  return strip < 16 ? 16 : strip;
}
inline Support fits(const Device& d, DType t, int32_t width, int32_t channels) {
  if (width < 2 || width > kMaxWidth) return {"width is not 2, 3 or 4"};
  if (channels > 65535 * 512) return {"too many channels"};
  return on_sm90(d, t);
}

}  // namespace weft::kernels::conv1d
