#include "kernels/cpu.h"

namespace weft::kernels {

WEFT_CLONES void widen(const bf16* from, float* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = to_f32(from[i]);
}

WEFT_CLONES void narrow(const float* from, bf16* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = from_f32<bf16>(from[i]);
}

}  // namespace weft::kernels
