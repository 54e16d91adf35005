// Products of activations with a small fp32 matrix, in fp32: a router's logits and their gradients. With bf16 activations on a GPU the
// fp32 factors go as three bf16 parts each (kernels/gemm/split.h), so the activations are read once, as they are, by the tensor cores.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/policy.h"

namespace weft::ops {

// x [T, D] float dtype, w [E, D] and d [T, E] fp32 (fp64 for fp64), contiguous. `op` names the caller in errors and in the log.
at::Tensor mixed_forward(const char* op, const at::Tensor& x, const at::Tensor& w, const Policy&);                 // x w^T, w's dtype
at::Tensor mixed_dx(const char* op, const at::Tensor& d, const at::Tensor& w, at::ScalarType x_type, const Policy&);  // d w in x's dtype
void mixed_dw(const char* op, const at::Tensor& d, const at::Tensor& x, at::Tensor dw, const Policy&);              // dw += d^T x

}  // namespace weft::ops
