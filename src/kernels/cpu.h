// For CPU kernels: bf16 conversion and one function built for several instruction sets, chosen when the program loads.
#pragma once
#include <bit>
#include <cstdint>

#include "base/dtype.h"

// The binary travels, so nothing is built with -march=native: each hot loop is cloned for x86-64-v4, v3 and v1.
// Sanitizers instrument the resolvers that clones need, before their own start-up: those builds take the plain version.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__x86_64__)
#define WEFT_CLONES
#else
#define WEFT_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif

namespace weft::kernels {

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

}  // namespace weft::kernels
