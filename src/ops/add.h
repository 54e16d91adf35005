// Sum of two to four tensors; each gradient is the output's own. For three and more addends it is one pass instead of two or three. Two
// addends run at the rate of a copy with the tensor library too (docs/measured.md), so layers write + for them, and the residual's add
// is part of the norm that follows (add_rmsnorm).
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "ops/policy.h"

namespace weft::ops {

// Addends of one shape and dtype, contiguous. Summed left to right in fp32 (fp64 for fp64) and rounded once. ShapeError.
at::Tensor add(const std::vector<at::Tensor>& addends, const Policy&);

}  // namespace weft::ops
