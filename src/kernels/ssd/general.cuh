// Shapes that the chunked kernels refuse: one block walks the tokens of one document and head with the state in registers. Row p of the
// state belongs to warp p % 8, column n to lane n % 32. Tokens pass through shared memory eight at a time.
#pragma once
#include "kernels/common/device.cuh"
#include "kernels/ssd/ssd_general.h"

namespace weft::kernels::ssd_general {

constexpr int kStep = 8, kWarps = 8, kThreads = 256;

// kR rows of P a warp, kC columns of N a lane.
template <int kR, int kC>
struct State {
  float v[kR][kC];
  template <class F>
  __device__ __forceinline__ void each(int P, int N, F&& f) {  // f(value, p, n) where the state has them
#pragma unroll
    for (int i = 0; i < kR; ++i)
#pragma unroll
      for (int j = 0; j < kC; ++j) {
        const int p = warp_id() + kWarps * i, n = lane_id() + 32 * j;
        if (p < P && n < N) f(v[i][j], p, n);
        else v[i][j] = 0;
      }
  }
  __device__ __forceinline__ void load(const float* from, int P, int N) {
    each(P, N, [&](float& s, int p, int n) { s = from == nullptr ? 0.0f : from[p * N + n]; });
  }
  __device__ __forceinline__ void store(float* to, int P, int N) {
    each(P, N, [&](float& s, int p, int n) { to[p * N + n] = s; });
  }
};

// kStep rows of `count` elements as fp32, `wide` floats apart; zeros beyond `rows` and `count`.
template <class T>
__device__ __forceinline__ void load_steps(float* to, const void* from, int64_t stride, int rows, int count, int wide) {
  for (int t = warp_id(); t < kStep; t += kWarps)
    for (int c = lane_id(); c < wide; c += 32) to[t * wide + c] = t < rows && c < count ? dev::to_f32(static_cast<const T*>(from)[t * stride + c]) : 0.0f;
}

inline const char* refusal(int head_dim, int state_dim, DType dtype, const Device& d) {
  if (head_dim > 128 || state_dim > 256) return "head dim is above 128 or state dim above 256";
  return on_sm90(d, dtype).refusal;
}

// Calls f with the smallest instance that holds [P, N]: f.operator()<kR, kC>().
template <class F>
void with_size(int P, int N, F&& f) {
  if (P <= 32 && N <= 32) f.template operator()<4, 1>();
  else if (P <= 64 && N <= 128) f.template operator()<8, 4>();
  else f.template operator()<16, 8>();
}

}  // namespace weft::kernels::ssd_general
