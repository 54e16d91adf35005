// A token's experts over the lanes of a warp: expert e lies in lane e % 32, register e / 32.
#pragma once
#include "kernels/common/device.cuh"

namespace weft::kernels::dev {

struct Pick {
  float value;
  int32_t index;
};
__device__ __forceinline__ bool ahead(const Pick& a, const Pick& b) {
  return a.value > b.value || (a.value == b.value && a.index < b.index);
}

// Unsigned order is the order of values; 0 below every number.
__device__ __forceinline__ uint32_t order_of(float v) {
  const uint32_t u = __float_as_uint(v + 0.0f);  // -0 ties with 0
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}

// The highest value of the warp, the lower index on ties; index 0x7fffffff when all are -inf. No NaN.
template <int NV>
__device__ __forceinline__ Pick warp_best(const float (&v)[NV], int experts) {
  const int lane = threadIdx.x & 31;
  Pick best{-INFINITY, 0x7fffffff};
#pragma unroll
  for (int i = 0; i < NV; ++i) {
    const Pick p{v[i], lane + i * 32};
    if (p.index < experts && v[i] > -INFINITY && ahead(p, best)) best = p;
  }
  const uint32_t order = order_of(best.value), top = __reduce_max_sync(~0u, order);
  best.index = static_cast<int32_t>(__reduce_min_sync(~0u, order == top ? static_cast<uint32_t>(best.index) : 0x7fffffffu));
  best.value = __uint_as_float(top & 0x80000000u ? top & 0x7fffffffu : ~top);
  return best;
}

// Takes expert `index` out of the race and gives every lane the value that `from` holds for it.
template <int NV>
__device__ __forceinline__ float take(float (&race)[NV], const float (&from)[NV], int index) {
  const int lane = threadIdx.x & 31;
  float mine = 0;
#pragma unroll
  for (int i = 0; i < NV; ++i)
    if (lane + i * 32 == index) race[i] = -INFINITY, mine = from[i];
  return __shfl_sync(~0u, mine, index & 31);
}

}  // namespace weft::kernels::dev

namespace weft::kernels {

// Calls f with the registers a lane needs for `experts`, 1 to 1024.
template <class F>
void with_expert_registers(int experts, F&& f) {
  if (experts <= 32)
    f(std::integral_constant<int, 1>{});
  else if (experts <= 64)
    f(std::integral_constant<int, 2>{});
  else if (experts <= 128)
    f(std::integral_constant<int, 4>{});
  else if (experts <= 256)
    f(std::integral_constant<int, 8>{});
  else if (experts <= 512)
    f(std::integral_constant<int, 16>{});
  else
    f(std::integral_constant<int, 32>{});
}

}  // namespace weft::kernels
