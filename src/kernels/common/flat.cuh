// Elements of a [rows, cols] tensor as one flat range of vectors: division by a constant, and the launch shape.
#pragma once
#include "kernels/common/device.cuh"

namespace weft::kernels {

// n / d for n < 2^31 by a multiplication (Granlund and Montgomery 1994).
struct FastDiv {
  uint32_t d, multiplier, shift;
  explicit FastDiv(uint32_t divisor) : d(divisor), multiplier(0), shift(0) {
    while ((uint64_t{1} << shift) < d) ++shift;
    multiplier = static_cast<uint32_t>(((uint64_t{1} << 32) * ((uint64_t{1} << shift) - d)) / d + 1);
  }
  __device__ __forceinline__ uint32_t div(uint32_t n) const { return (__umulhi(n, multiplier) + n) >> shift; }
};

namespace dev {

// Up to eight elements as they lie in memory, short or unaligned ones element by element. To be unpacked when they are needed: a load
// that is unpacked inside its branch is waited for there, and the next one starts after it.
template <class T>
__device__ __forceinline__ Vec8<T> load_raw(const T* p, int count, bool full) {
  if (full) return load8(p);
  float v[8];
  load_some(p, count, false, v);
  return pack<T>(v);
}

}  // namespace dev

constexpr int kFlatThreads = 256;
constexpr int64_t kFlatMost = int64_t{1} << 30;  // vectors of one launch; larger tensors are cut by rows

inline unsigned flat_grid(int64_t vectors, int per_thread) {
  return static_cast<unsigned>(ceil_div(vectors, static_cast<int64_t>(kFlatThreads) * per_thread));
}

}  // namespace weft::kernels
