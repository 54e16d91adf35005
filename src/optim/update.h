// The element-wise update of one run of parameters.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/policy.h"

namespace weft::optim {

struct AdamWStep {
  at::Tensor master, low;   // [n] fp32; [n] in the compute dtype, or undefined when the master is the parameter
  at::Tensor grad, exp_avg, exp_avg_sq;  // [n] fp32
  at::Tensor grad_scale, skip;           // [1] fp32, [1] int32
  double lr, correction1, correction2, beta1, beta2, eps, decay;  // correction_i = 1 - beta_i^t
  bool decoupled;
};
void adamw_update(const AdamWStep&, const ops::Policy&);

namespace reference {
void adamw_update(const AdamWStep&);
}

// Sum of squares of a gradient buffer as [1] fp64, in a fixed order.
at::Tensor sum_of_squares(const at::Tensor& flat, const ops::Policy&);

}  // namespace weft::optim
