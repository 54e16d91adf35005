// y = x w^T (+ b). Backward: dx = dy w; dw += dy^T x and db += sum of dy, straight into main_grad, summed in fp32.
#pragma once
#include <ATen/core/Tensor.h>

#include <utility>

#include "ops/gemm_recipe.h"
#include "ops/policy.h"
#include "ops/weight.h"
#include "ops/wgrad_queue.h"

namespace weft::ops {

// x [..., K], w [N, K], b [N] or null, all contiguous and of one dtype (see GemmRecipe for the exception). Returns [..., N].
// `wgrad` null: dw is made in the backward; else it is put there. ShapeError, UnsupportedError.
at::Tensor linear(const at::Tensor& x, Weight& w, const GemmRecipe&, WgradQueue* wgrad, const Policy&, Weight* b = nullptr);

// What a product may do besides: the names are those of kernels/gemm/gemm.h.
struct GemmOptions {
  bool accumulate = false, tf32 = false;
  at::Tensor bias = {};       // [n], added
  at::Tensor bias_grad = {};  // [m], c's dtype, written: sums of op(a) over k
  at::Tensor gelu_of = {};        // [m, n], c's dtype, written: the product with its bias, of which c is then the gelu (tanh form)
  at::Tensor gelu_slope_of = {};  // [m, n], c's dtype: c is the product times gelu's slope there
  bool varying = false;           // the number of rows comes from the data: the next call has another shape
};
// c (+)= op(a) op(b) on 2-d row-major tensors (a and b of one dtype; rows may be apart): the GEMM that ops share.
// Sums in fp32 (fp64 for fp64). `op` names the caller in errors and in the log of chosen candidates.
void gemm(const char* op, const at::Tensor& a, bool a_transposed, const at::Tensor& b, bool b_transposed, at::Tensor c, const GemmOptions&,
          const Policy&);
inline void gemm(const char* op, const at::Tensor& a, bool a_transposed, const at::Tensor& b, bool b_transposed, at::Tensor c, bool accumulate,
                 const Policy& policy) {
  GemmOptions o;
  o.accumulate = accumulate;
  gemm(op, a, a_transposed, b, b_transposed, std::move(c), o, policy);
}

namespace reference {
at::Tensor linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b = {});
// Returns (dx in x's dtype, dw in the accumulation dtype).
std::pair<at::Tensor, at::Tensor> linear_bwd(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& w);
}  // namespace reference
}  // namespace weft::ops
