// Launching and block-level basics for kernels that also build for the host emulation of tests/kernels/emulate.h.
// A launch that CUDA refuses throws CudaError.
#pragma once
#include <cstdint>
#include <utility>

#if defined(WEFT_EMULATE)
#include <emulate.h>  // given by the test that builds it so
#define WEFT_DYNAMIC_SMEM(name) uint8_t* name = ::emulate::dynamic_smem()
#else
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kernels/cuda_check.h"
#define WEFT_DYNAMIC_SMEM(name) extern __shared__ __align__(1024) uint8_t name[]
#endif

namespace weft::kernels {

#if defined(WEFT_EMULATE)
template <class Kernel, class... Args>
void launch_grid(Kernel kernel, dim3 grid, dim3 block, size_t smem_bytes, cudaStream_t, Args... args) {
  emulate::run(grid, block, smem_bytes, [&] { kernel(args...); });
}
#else
template <class... Params, class... Args>
void launch_grid(void (*kernel)(Params...), dim3 grid, dim3 block, size_t smem_bytes, cudaStream_t stream, Args... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  // 48 KiB come without asking, but a kernel's static arrays count too.
  if (smem_bytes > 32 * 1024) cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(smem_bytes));
  kernel<<<grid, block, smem_bytes, stream>>>(std::forward<Args>(args)...);
  check_launch("kernel launch");
}
#endif

__device__ __forceinline__ int lane_id() { return threadIdx.x & 31; }
__device__ __forceinline__ int warp_id() { return threadIdx.x >> 5; }

// 2^v, flushing tiny results to zero.
__device__ __forceinline__ float exp2_fast(float v) {
#if defined(WEFT_EMULATE)
  return std::exp2(v);
#else
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(r) : "f"(v));
  return r;
#endif
}
// To 2^-11 of it: where results are rounded to bf16, or the sum tolerates an absolute error of 5e-4.
__device__ __forceinline__ float tanh_fast(float v) {
#if defined(WEFT_EMULATE)
  return std::tanh(v);
#else
  float r;
  asm("tanh.approx.f32 %0, %1;\n" : "=f"(r) : "f"(v));
  return r;
#endif
}
// 1 / v to a few units of the last place; 0 of infinity.
__device__ __forceinline__ float reciprocal_fast(float v) {
#if defined(WEFT_EMULATE)
  return 1 / v;
#else
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(r) : "f"(v));
  return r;
#endif
}

// Sum over `width` neighbouring lanes (a power of two); every lane gets it.
template <int width = 32>
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int o = width / 2; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}

template <int width = 32>
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int o = width / 2; o > 0; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
  return v;
}

// Inclusive prefix sum over the 32 lanes.
__device__ __forceinline__ float warp_scan(float v) {
#pragma unroll
  for (int o = 1; o < 32; o <<= 1) {
    const float left = __shfl_up_sync(0xffffffffu, v, o);
    if (lane_id() >= o) v += left;
  }
  return v;
}

}  // namespace weft::kernels
