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

constexpr int kFlatThreads = 256;
constexpr int64_t kFlatMost = int64_t{1} << 30;  // vectors of one launch; larger tensors are cut by rows

inline unsigned flat_grid(int64_t vectors, int per_thread) {
  return static_cast<unsigned>(ceil_div(vectors, static_cast<int64_t>(kFlatThreads) * per_thread));
}

}  // namespace weft::kernels
