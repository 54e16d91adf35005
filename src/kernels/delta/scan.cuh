// What the delta kernels share, and one token of the rules on a warp's columns of the state for the backward: lane l holds rows l,
// l + 32, ... of kColumns columns.
#pragma once
#include "kernels/common/device.cuh"
#include "kernels/common/packed.cuh"
#include "kernels/delta/delta.h"

namespace weft::kernels::delta {

inline Support supports(const DeltaInputs& a, const Device& device) {
  if (const Support s = on_sm90(device, a.dtype); !s) return s;
  if (a.key_dim < 1 || a.key_dim > 128 || a.value_dim < 1 || a.value_dim > 128) return {"key_dim or value_dim is above 128"};
  if (a.key_heads < 1 || a.value_heads % a.key_heads != 0) return {"value_heads is not a multiple of key_heads"};
  return {};
}

template <int kRows, int kColumns>
struct Scan {  // of one document of one head
  float S[kRows][kColumns];
  float q[kRows], k[kRows], decay[kRows], bk[kRows], b[kRows];  // of the token
  float v[kColumns], w[kColumns], r[kColumns];
  int head, key_head, col0;

  template <class T, bool kChannels>
  __device__ __forceinline__ void load(const DeltaInputs& a, int64_t t) {
    const int64_t key = (t * a.key_heads + key_head) * a.key_dim, gate = t * a.value_heads + head;
#pragma unroll
    for (int e = 0; e < kRows; ++e) {
      const int i = e * 32 + lane_id();
      const bool in = i < a.key_dim;
      const float g = kChannels ? (in ? a.g[gate * a.key_dim + i] : 0.f) : a.g[gate];
      b[e] = kChannels ? (in ? a.b[gate * a.key_dim + i] : 0.f) : a.b[gate];
      q[e] = in ? dev::to_f32(static_cast<const T*>(a.q)[key + i]) : 0.f, k[e] = in ? dev::to_f32(static_cast<const T*>(a.k)[key + i]) : 0.f;
      decay[e] = expf(g), bk[e] = b[e] * k[e];
    }
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      const int64_t at = gate * a.value_dim + col0 + c;
      const bool in = col0 + c < a.value_dim;
      v[c] = in ? dev::to_f32(static_cast<const T*>(a.v)[at]) : 0.f;
      w[c] = kChannels ? (in ? a.w[at] : 0.f) : b[0];
    }
  }
  __device__ __forceinline__ void step() {
    float dot[kColumns];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      dot[c] = 0;
#pragma unroll
      for (int e = 0; e < kRows; ++e) S[e][c] *= decay[e], dot[c] += S[e][c] * bk[e];
    }
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      r[c] = w[c] * v[c] - warp_sum(dot[c]);
#pragma unroll
      for (int e = 0; e < kRows; ++e) S[e][c] += k[e] * r[c];
    }
  }
  template <class Visit>
  __device__ __forceinline__ void each(const DeltaInputs& a, Visit visit) {  // element (e, c), its place in [Dk, Dv], and whether it exists
#pragma unroll
    for (int e = 0; e < kRows; ++e)
#pragma unroll
      for (int c = 0; c < kColumns; ++c) visit(e, c, (e * 32 + lane_id()) * a.value_dim + col0 + c, e * 32 + lane_id() < a.key_dim && col0 + c < a.value_dim);
  }
  __device__ __forceinline__ void read(const DeltaInputs& a, const float* from) {
    each(a, [&](int e, int c, int at, bool in) { S[e][c] = from && in ? from[at] : 0.f; });
  }
};

template <class F>
void with_kind(const DeltaInputs& a, F&& f) {  // f(type, rows a lane, channels)
  with_float_type(a.dtype, [&](auto type) {
    auto rows = [&](auto channels) {
      if (a.key_dim <= 32) f(type, std::integral_constant<int, 1>{}, channels);
      else f(type, std::integral_constant<int, 4>{}, channels);
    };
    if (a.channels) rows(std::true_type{}); else rows(std::false_type{});
  });
}

}  // namespace weft::kernels::delta
