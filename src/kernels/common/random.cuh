// Philox4x32-10 (Salmon et al. 2011): 128 random bits as a pure function of a counter and a key.
#pragma once
#include <cstdint>

#include "kernels/common/grid.cuh"

namespace weft::kernels::dev {

// {low, high} of a product. Left alone, the compiler multiplies twice.
__host__ __device__ __forceinline__ uint2 mul_wide(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
  uint2 r;
  asm("{\n.reg .b64 p;\nmul.wide.u32 p, %2, %3;\nmov.b64 {%0, %1}, p;\n}\n" : "=r"(r.x), "=r"(r.y) : "r"(a), "r"(b));
  return r;
#else
  const uint64_t p = static_cast<uint64_t>(a) * b;
  return make_uint2(static_cast<uint32_t>(p), static_cast<uint32_t>(p >> 32));
#endif
}

__host__ __device__ __forceinline__ uint4 philox(uint4 c, uint2 key) {
  for (int round = 0; round < 10; ++round) {
    const uint2 p0 = mul_wide(0xD2511F53u, c.x), p1 = mul_wide(0xCD9E8D57u, c.z);
    c = make_uint4(p1.y ^ c.y ^ key.x, p1.x, p0.y ^ c.w ^ key.y, p0.x);
    key.x += 0x9E3779B9u, key.y += 0xBB67AE85u;
  }
  return c;
}

__host__ __device__ __forceinline__ uint2 philox_key(uint64_t seed) {
  return make_uint2(static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

}  // namespace weft::kernels::dev
