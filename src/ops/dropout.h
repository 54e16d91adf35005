// Dropout by a counter: the mask is a function of (seed, stream, global index), so a recomputed forward, the backward and any cut of
// the tensor over ranks draw the same bits.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/policy.h"

namespace weft::ops {

struct DropoutKey {
  uint64_t seed, stream;
  int64_t offset = 0;  // global index of element 0, a multiple of 4
};
// y = residual + keep * x / (1 - p). x contiguous; residual of x's shape and dtype, or undefined. p in [0, 1). ShapeError.
at::Tensor dropout(const at::Tensor& x, const at::Tensor& residual, double p, DropoutKey, const Policy&);

namespace reference {
at::Tensor dropout_mask(const at::Tensor& like, double p, DropoutKey);  // 0 or 1 / (1 - p), in the accumulation dtype
}  // namespace reference
}  // namespace weft::ops
