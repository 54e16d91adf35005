// y = x w^T. Backward: dx = dy w; dw += dy^T x straight into main_grad, summed in fp32.
#pragma once
#include <ATen/core/Tensor.h>

#include <utility>

#include "ops/gemm_recipe.h"
#include "ops/policy.h"
#include "ops/weight.h"
#include "ops/wgrad_queue.h"

namespace weft::ops {

// x [..., K], w [N, K], both contiguous and of one dtype (see GemmRecipe for the exception). Returns [..., N].
// `wgrad` null: dw is made in the backward; else it is put there. ShapeError, UnsupportedError.
at::Tensor linear(const at::Tensor& x, Weight& w, const GemmRecipe&, WgradQueue* wgrad, const Policy&);

// c (+)= op(a) op(b) on 2-d row-major tensors (a and b contiguous, of one dtype; c's rows may be apart): the GEMM that ops share.
// Sums in fp32 (fp64 for fp64). `op` names the caller in errors and in the log of chosen candidates.
void gemm(const char* op, const at::Tensor& a, bool a_transposed, const at::Tensor& b, bool b_transposed, at::Tensor c, bool accumulate,
          const Policy&);

namespace reference {
at::Tensor linear(const at::Tensor& x, const at::Tensor& w);
// Returns (dx in x's dtype, dw in the accumulation dtype).
std::pair<at::Tensor, at::Tensor> linear_bwd(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& w);
}  // namespace reference
}  // namespace weft::ops
