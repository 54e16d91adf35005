// Philox4x32-10 (Salmon et al. 2011): 128 random bits as a pure function of a counter and a key.
#pragma once
#include <cstdint>

#include "kernels/common/grid.cuh"

namespace weft::kernels::dev {

__host__ __device__ __forceinline__ uint32_t mul_high(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>((static_cast<uint64_t>(a) * b) >> 32);
}

__host__ __device__ __forceinline__ uint4 philox(uint4 c, uint2 key) {
  for (int round = 0; round < 10; ++round) {
    const uint32_t h0 = mul_high(0xD2511F53u, c.x), l0 = 0xD2511F53u * c.x, h1 = mul_high(0xCD9E8D57u, c.z),
                   l1 = 0xCD9E8D57u * c.z;
    c = make_uint4(h1 ^ c.y ^ key.x, l1, h0 ^ c.w ^ key.y, l0);
    key.x += 0x9E3779B9u, key.y += 0xBB67AE85u;
  }
  return c;
}

__host__ __device__ __forceinline__ uint2 philox_key(uint64_t seed) {
  return make_uint2(static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

}  // namespace weft::kernels::dev
