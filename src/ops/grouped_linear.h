// y[r] = x[r] w[e]^T for the rows r of each group e (kernels/grouped_gemm/grouped_gemm.h): the experts' projections.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/gemm_recipe.h"
#include "ops/policy.h"
#include "ops/weight.h"
#include "ops/wgrad_queue.h"

namespace weft::ops {

// x [R, K], w [E, N, K], ends_E int32: group e holds rows [ends[e - 1], ends[e]), groups of no rows allowed. Returns [R, N]; rows
// from ends[E - 1] on are zero. dw goes straight into main_grad. ShapeError when the parts do not fit.
at::Tensor grouped_linear(const at::Tensor& x_RK, Weight& w_ENK, const at::Tensor& ends_E, const GemmRecipe&, WgradQueue*, const Policy&);

namespace reference {
at::Tensor grouped_linear(const at::Tensor& x_RK, const at::Tensor& w_ENK, const at::Tensor& ends_E);
// Returns (dx in x's dtype, dw in the accumulation dtype).
std::pair<at::Tensor, at::Tensor> grouped_linear_bwd(const at::Tensor& dy_RN, const at::Tensor& x_RK, const at::Tensor& w_ENK, const at::Tensor& ends_E);
}  // namespace reference
}  // namespace weft::ops
