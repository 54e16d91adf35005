// Walsh-Hadamard transform of the last dim (Sylvester order): y = x H * scale. Symmetric, so the backward is the same transform.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/policy.h"

namespace weft::ops {

// x [..., D] contiguous, D a power of two. scale 1 / sqrt(D) makes it orthonormal. ShapeError.
at::Tensor hadamard(const at::Tensor& x, double scale, const Policy&);

}  // namespace weft::ops
