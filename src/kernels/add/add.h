// Sum of two to four tensors, in fp32 and left to right, rounded once: residual adds, and the gradient of a value used several
// times. Bound: memory; each addend read once, y written once.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct Add {
  const void* in[4];  // each [count] dtype, contiguous; the first num_in are read
  void* y;            // [count] dtype, may alias any addend
  int64_t count;
  int32_t num_in;     // 2, 3 or 4
  DType dtype;
};

Support supports_add_sm90(const Add&, const Device&);
Support supports_add_cpu(const Add&, const Device&);
void add_sm90(const Add&, const Launch&);
void add_cpu(const Add&, const Launch&);

}  // namespace weft::kernels
