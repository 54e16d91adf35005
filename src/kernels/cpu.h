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
// Standard normal distribution and density. The tail is density * t * Q(t) with t = 1 / (1 + 0.4 |x| / sqrt(2)); Q is a minimax fit of degree 8 to
// 0.5 erfcx(z) / t (relative error 1.3e-7), so that both values come from one exponential.
struct Normal {
  float cdf, pdf;
};
inline Normal normal_f32(float x) {
  const float t = 1.0f / (1.0f + 0.28284271f * (x < 0 ? -x : x)), e = exp_f32(-0.5f * x * x);
  float q = 0.0251365473f;
  q = q * t - 0.0914728532f;
  q = q * t + 0.0845792148f;
  q = q * t - 0.00283548478f;
  q = q * t + 0.0707312752f;
  q = q * t + 0.0842667051f;
  q = q * t + 0.103921967f;
  q = q * t + 0.11283476f;
  q = q * t + 0.112837932f;
  const float tail = q * t * e;
  return {x < 0 ? tail : 1.0f - tail, 0.39894228f * e};
}

// Arithmetic on bf16 goes block by block through fp32: a loop that also converts keeps twice the values of one that does not, and spills them.
void widen(const bf16* from, float* to, int64_t n);
void narrow(const float* from, bf16* to, int64_t n);

constexpr int32_t kFloats = 512;

// A block of a tensor's row as fp32: that of fp32 is used where it lies.
template <class T>
class Block {
 public:
  const float* read(const T* at, int32_t n) { return widen(at, values_, n), values_; }
  float* room(T*) { return values_; }
  void write(T* at, int32_t n) const { narrow(values_, at, n); }

 private:
  alignas(64) float values_[kFloats];
};
template <>
class Block<float> {
 public:
  const float* read(const float* at, int32_t) { return at; }
  float* room(float* at) { return at; }
  void write(float*, int32_t) const {}
};

// f(first, count) for the blocks of a row.
template <class F>
void in_blocks(int32_t cols, const F& f) {
  for (int32_t c = 0; c < cols; c += kFloats) f(c, cols - c < kFloats ? cols - c : kFloats);
}

// Rows that one range of a parallel loop takes at least: about 16 Ki elements.
inline int64_t row_grain(int64_t cols) { return 1 + 16384 / (cols + 1); }

}  // namespace weft::kernels
