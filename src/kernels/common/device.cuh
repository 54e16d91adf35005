// What memory-bound kernels share: eight elements a thread at a time (16 or 32 bytes), fp32 math, reductions in a fixed order.
#pragma once
#include <cstdint>

#include "kernels/common/grid.cuh"
#include "kernels/launch.h"

namespace weft::kernels::dev {

using bf16 = __nv_bfloat16;

__device__ __forceinline__ float to_f32(float v) { return v; }
__device__ __forceinline__ float to_f32(bf16 v) { return __bfloat162float(v); }
template <class T>
__device__ __forceinline__ T from_f32(float v);
template <>
__device__ __forceinline__ float from_f32<float>(float v) {
  return v;
}
template <>
__device__ __forceinline__ bf16 from_f32<bf16>(float v) {
  return __float2bfloat16_rn(v);
}

// Eight neighbouring elements as they lie in memory.
template <class T>
struct Vec8;
template <>
struct Vec8<bf16> {
  uint4 raw;
};
template <>
struct Vec8<float> {
  float4 low, high;
};

__device__ __forceinline__ Vec8<bf16> load8(const bf16* p) { return {*reinterpret_cast<const uint4*>(p)}; }
__device__ __forceinline__ Vec8<float> load8(const float* p) {
  return {reinterpret_cast<const float4*>(p)[0], reinterpret_cast<const float4*>(p)[1]};
}
__device__ __forceinline__ void store8(bf16* p, const Vec8<bf16>& v) { *reinterpret_cast<uint4*>(p) = v.raw; }
__device__ __forceinline__ void store8(float* p, const Vec8<float>& v) {
  reinterpret_cast<float4*>(p)[0] = v.low;
  reinterpret_cast<float4*>(p)[1] = v.high;
}

__device__ __forceinline__ void unpack(const Vec8<bf16>& v, float (&f)[8]) {
  const uint32_t words[4] = {v.raw.x, v.raw.y, v.raw.z, v.raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    f[2 * i] = __uint_as_float(words[i] << 16);
    f[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}
__device__ __forceinline__ void unpack(const Vec8<float>& v, float (&f)[8]) {
  f[0] = v.low.x, f[1] = v.low.y, f[2] = v.low.z, f[3] = v.low.w;
  f[4] = v.high.x, f[5] = v.high.y, f[6] = v.high.z, f[7] = v.high.w;
}
__device__ __forceinline__ uint32_t pack2(float low, float high) {
  const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&v);
}
template <class T>
__device__ __forceinline__ Vec8<T> pack(const float (&f)[8]);
template <>
__device__ __forceinline__ Vec8<bf16> pack<bf16>(const float (&f)[8]) {
  return {make_uint4(pack2(f[0], f[1]), pack2(f[2], f[3]), pack2(f[4], f[5]), pack2(f[6], f[7]))};
}
template <>
__device__ __forceinline__ Vec8<float> pack<float>(const float (&f)[8]) {
  return {make_float4(f[0], f[1], f[2], f[3]), make_float4(f[4], f[5], f[6], f[7])};
}

template <class T>
__device__ __forceinline__ void load8(const T* p, float (&f)[8]) {
  unpack(load8(p), f);
}
template <class T>
__device__ __forceinline__ void store8(T* p, const float (&f)[8]) {
  store8(p, pack<T>(f));
}

// Up to eight elements: all of them as one vector when `full`, else the first `count` one by one (the others read as 0).
template <class T>
__device__ __forceinline__ void load_some(const T* p, int count, bool full, float (&f)[8]) {
  if (full) return load8(p, f);
#pragma unroll
  for (int i = 0; i < 8; ++i) f[i] = i < count ? to_f32(p[i]) : 0.0f;
}
template <class T>
__device__ __forceinline__ void store_some(T* p, int count, bool full, const float (&f)[8]) {
  if (full) return store8(p, f);
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (i < count) p[i] = from_f32<T>(f[i]);
}

struct SumOp {
  __device__ __forceinline__ float operator()(float a, float b) const { return a + b; }
};
struct MaxOp {  // a NaN wins
  __device__ __forceinline__ float operator()(float a, float b) const {
#if defined(__CUDA_ARCH__)
    float r;
    asm("max.NaN.f32 %0, %1, %2;\n" : "=f"(r) : "f"(a), "f"(b));
    return r;
#else
    return a != a ? a : (b != b ? b : fmaxf(a, b));
#endif
  }
};

// Over `width` neighbouring lanes (a power of two); every lane gets the result.
template <class Op = SumOp>
__device__ __forceinline__ float lanes_reduce(float v, int width = 32, Op op = {}) {
  for (int o = width / 2; o > 0; o /= 2) v = op(v, __shfl_xor_sync(0xffffffffu, v, o));
  return v;
}

// Over the whole block (a multiple of 32 threads); `scratch` holds 33 floats; every thread gets the result.
template <class Op = SumOp>
__device__ __forceinline__ float block_reduce(float v, float* scratch, float identity = 0.0f, Op op = {}) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  v = lanes_reduce(v, 32, op);
  if (warps == 1) return v;
  __syncthreads();  // scratch may still be read from the reduction before
  if (lane == 0) scratch[warp] = v;
  __syncthreads();
  v = lane < warps ? scratch[lane] : identity;
  return lanes_reduce(v, 32, op);
}

// Two sums at once; `scratch` holds 66 floats.
__device__ __forceinline__ float2 block_reduce(float2 v, float* scratch) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  v = {lanes_reduce(v.x), lanes_reduce(v.y)};
  if (warps == 1) return v;
  __syncthreads();
  if (lane == 0) scratch[2 * warp] = v.x, scratch[2 * warp + 1] = v.y;
  __syncthreads();
  v = lane < warps ? float2{scratch[2 * lane], scratch[2 * lane + 1]} : float2{0, 0};
  return {lanes_reduce(v.x), lanes_reduce(v.y)};
}

// exp and sigmoid: to fp32 accuracy, or for results that are rounded to bf16 by the fast unit (relative error near 1e-6 for |v| <
// 20).
template <class T>
__device__ __forceinline__ float exponential(float v) {
  return sizeof(T) == 4 ? expf(v) : __expf(v);
}
template <class T>
__device__ __forceinline__ float sigmoid(float v) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == 2) return reciprocal_fast(1.0f + exp2_fast(v * -1.4426950408889634f));  // four instructions: no care for subnormals
#endif
  return __fdividef(1.0f, 1.0f + exponential<T>(-v));
}

}  // namespace weft::kernels::dev

namespace weft::kernels {

inline bool is_aligned(const void* p, size_t bytes) { return (reinterpret_cast<uintptr_t>(p) & (bytes - 1)) == 0; }

// Refusals that every kernel here shares; own code is built for compute capability 9.0 only.
inline Support on_sm90(const Device& d) {
  if (d.kind != Device::kCuda) return {"runs on CUDA only"};
  if (d.sm != 90) return {"needs compute capability 9.0"};
  return {};
}
inline Support on_sm90(const Device& d, DType t) {
  if (t != DType::kF32 && t != DType::kBf16) return {"dtype is not f32 or bf16"};
  return on_sm90(d);
}

#if defined(WEFT_EMULATE)
// Few, so that every block of a persistent grid goes round more than once.
template <class Kernel>
int persistent_grid(Kernel, int, size_t, int64_t wanted) {
  return static_cast<int>(wanted < 3 ? (wanted > 0 ? wanted : 1) : 3);
}
#else
// Blocks that fill the device once, at most `wanted`.
template <class Kernel>
int persistent_grid(Kernel kernel, int threads, size_t smem, int64_t wanted) {
  int device = 0, sms = 0, per_sm = 0;
  cudaError_t e = cudaGetDevice(&device);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device);
  if (e == cudaSuccess) e = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, kernel, threads, smem);
  if (e != cudaSuccess) throw_cuda("persistent_grid", e);
  const int64_t most = static_cast<int64_t>(sms) * (per_sm > 0 ? per_sm : 1);
  return static_cast<int>(wanted < most ? (wanted > 0 ? wanted : 1) : most);
}
#endif

template <class T>
struct Type {
  using type = T;
};
template <class F>
void with_float_type(DType t, F&& f) {
  if (t == DType::kBf16)
    f(Type<dev::bf16>{});
  else
    f(Type<float>{});
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace weft::kernels
