// For CPU kernels: what they refuse, bf16 conversion, the elementary functions that vectorise, and one function built for several instruction sets, chosen when the program loads.
#pragma once
#include <bit>
#include <cstdint>

#include "base/dtype.h"
#include "kernels/launch.h"

// The binary travels, so nothing is built with -march=native: each hot loop is cloned for x86-64-v4, v3 and v1.
// Sanitizers instrument the resolvers that clones need, before their own start-up: those builds take the plain version.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__x86_64__)
#define WEFT_CLONES
#else
#define WEFT_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif

namespace weft::kernels {

inline Support on_cpu(const Device& d) {
  if (d.kind != Device::kCpu) return {"runs on the CPU only"};
  return {};
}
inline Support on_cpu(const Device& d, DType t) {
  if (d.kind == Device::kCpu && t != DType::kF32 && t != DType::kBf16) return {"dtype is not f32 or bf16"};
  return on_cpu(d);
}

struct bf16 {
  uint16_t bits;
};

inline float to_f32(float v) { return v; }
inline float to_f32(bf16 v) { return std::bit_cast<float>(static_cast<uint32_t>(v.bits) << 16); }

template <class T>
T from_f32(float v);
template <>
inline float from_f32<float>(float v) { return v; }
template <>
inline bf16 from_f32<bf16>(float v) {  // round to nearest even; NaN stays NaN
  const uint32_t u = std::bit_cast<uint32_t>(v);
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return {static_cast<uint16_t>(v == v ? rounded : 0x7fc0u)};
}

// Branch-free, so that loops over them become SIMD. Relative error below 2^-22; overflow gives inf, underflow 0, NaN stays NaN.
inline float exp_f32(float x) {
  constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f, kRound = 12582912.0f;  // 1.5 * 2^23
  x = x < -87.33f ? -88.1f : x;
  x = x > 88.72f ? 89.0f : x;
  const float shifted = x * kLog2E + kRound;  // its low bits hold the rounded integer
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 1.3888889e-3f;  // Taylor to r^6 on |r| <= ln2 / 2: truncation 1e-7 / 2^4
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const float scale = std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) + 127u) << 23);
  return p * scale;
}
inline float sigmoid_f32(float x) { return 1.0f / (1.0f + exp_f32(-x)); }
inline float tanh_f32(float x) { return 1.0f - 2.0f / (1.0f + exp_f32(2.0f * x)); }  // absolute error 1e-7
// Standard normal distribution: erfc by its Chebyshev fit (Press et al., Numerical Recipes 6.2: fractional error 1.2e-7).
inline float normal_cdf_f32(float x) {
  const float z = (x < 0 ? -x : x) * 0.70710678f;
  const float t = 1.0f / (1.0f + 0.5f * z);
  float p = 0.17087277f;
  p = p * t - 0.82215223f;
  p = p * t + 1.48851587f;
  p = p * t - 1.13520398f;
  p = p * t + 0.27886807f;
  p = p * t - 0.18628806f;
  p = p * t + 0.09678418f;
  p = p * t + 0.37409196f;
  p = p * t + 1.00002368f;
  p = p * t - 1.26551223f;
  const float half_tail = 0.5f * t * exp_f32(p - z * z);
  return x < 0 ? half_tail : 1.0f - half_tail;
}

// Rows that one range of a parallel loop takes at least: about 16 Ki elements.
inline int64_t row_grain(int64_t cols) { return 1 + 16384 / (cols + 1); }

}  // namespace weft::kernels
