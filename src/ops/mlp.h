// y = act(x w1^T + b1) w2^T + b2 in one node. Where the library has the epilogues (bias, GELU in the tanh form, its slope, sums of
// gradients), the activation and the biases cost no pass over memory; elsewhere it is linear, activation, linear.
#pragma once
#include <ATen/core/Tensor.h>

#include "kernels/activation/activation.h"
#include "ops/policy.h"
#include "ops/weight.h"
#include "ops/wgrad_queue.h"

namespace weft::ops {

// x [..., D], w1 [F, D], b1 [F] or null, w2 [D2, F], b2 [D2] or null, contiguous and of one dtype. Returns [..., D2]. ShapeError.
at::Tensor mlp(const at::Tensor& x, Weight& w1, Weight* b1, Weight& w2, Weight* b2, kernels::Act, WgradQueue* wgrad, const Policy&);

}  // namespace weft::ops
