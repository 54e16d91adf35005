// y = to(x * scale): between f32, bf16, f16, f8e4m3 and f8e5m2, round to nearest even. To FP8 it saturates at the largest finite
// value (448, 57344); NaN stays NaN. Bound: memory.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct Cast {
  const void* x;       // [count] from
  void* y;             // [count] to
  const float* scale;  // [1] on the device, or null for 1
  int64_t count;
  DType from, to;
};

Support supports_cast_sm90(const Cast&, const Device&);
void cast_sm90(const Cast&, const Launch&);

}  // namespace weft::kernels
