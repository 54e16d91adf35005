// Eight neighbouring elements of any float type, f16 and FP8 included, to and from fp32. To FP8: nearest even, saturating, NaN
// kept.
#pragma once
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "kernels/common/device.cuh"

namespace weft::kernels::dev {

template <class T>
struct Bytes8 {  // eight elements as words
  uint32_t word[2 * sizeof(T)];
};

template <class T>
__device__ __forceinline__ float element_to_f32(T v) {
  return static_cast<float>(v);
}
template <>
__device__ __forceinline__ float element_to_f32<bf16>(bf16 v) {
  return __bfloat162float(v);
}
template <>
__device__ __forceinline__ float element_to_f32<__half>(__half v) {
  return __half2float(v);
}

template <class T>
__device__ __forceinline__ T element_from_f32(float v) {
  if constexpr (sizeof(T) == 4) {
    return v;
  } else if constexpr (std::is_same_v<T, bf16>) {
    return __float2bfloat16_rn(v);
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(v);
  } else {
    T r;
    r.__x = __nv_cvt_float_to_fp8(v, __NV_SATFINITE, std::is_same_v<T, __nv_fp8_e4m3> ? __NV_E4M3 : __NV_E5M2);
    return r;
  }
}

// Two fp32 to a pair of FP8, the first in the low byte.
template <class T>
__device__ __forceinline__ uint32_t fp8_pair(float a, float b) {
  return __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, std::is_same_v<T, __nv_fp8_e4m3> ? __NV_E4M3 : __NV_E5M2);
}

template <class T>
__device__ __forceinline__ void read8(const T* p, int count, bool full, float (&f)[8]) {
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, bf16>) {
    load_some(p, count, full, f);
  } else if (full) {
    T e[8];
    if constexpr (sizeof(T) == 2) {
      const uint4 v = *reinterpret_cast<const uint4*>(p);
      memcpy(e, &v, 16);
    } else {
      const uint2 v = *reinterpret_cast<const uint2*>(p);
      memcpy(e, &v, 8);
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) f[j] = element_to_f32(e[j]);
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j) f[j] = j < count ? element_to_f32(p[j]) : 0.0f;
  }
}

template <class T>
__device__ __forceinline__ void write8(T* p, int count, bool full, const float (&f)[8]) {
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, bf16>) {
    store_some(p, count, full, f);
  } else if (full) {
    if constexpr (sizeof(T) == 2) {
      T e[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) e[j] = element_from_f32<T>(f[j]);
      uint4 v;
      memcpy(&v, e, 16);
      *reinterpret_cast<uint4*>(p) = v;
    } else {
      *reinterpret_cast<uint2*>(p) = make_uint2(fp8_pair<T>(f[0], f[1]) | fp8_pair<T>(f[2], f[3]) << 16,
                                                fp8_pair<T>(f[4], f[5]) | fp8_pair<T>(f[6], f[7]) << 16);
    }
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j)
      if (j < count) p[j] = element_from_f32<T>(f[j]);
  }
}

}  // namespace weft::kernels::dev
