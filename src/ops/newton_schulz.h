// The parts of Muon (Jordan et al. 2024; training.md E2): momentum as a moving average, and the Newton-Schulz iteration that brings the
// singular values of a matrix near 1. optim/ steps with AdamW and calls none of them yet. Nothing here is differentiable, and nothing
// waits for the device.
#pragma once
#include <ATen/core/Tensor.h>

#include <span>

#include "ops/gemm_recipe.h"
#include "ops/policy.h"

namespace weft::ops {

// m += (1 - mu) (g - m); returns u = m, or g + mu (m - g) with nesterov. grad [n] f32 or bf16, momentum [n] fp32 (fp64 for fp64), written;
// u [n] of momentum's dtype, its own memory. grad_scale: [1] fp32 on the device, or undefined for 1. ShapeError.
at::Tensor muon_momentum(const at::Tensor& grad, const at::Tensor& momentum, double mu, bool nesterov, const at::Tensor& grad_scale, const Policy&);

struct NewtonSchulzStep {
  double a, b, c;  // A = X X^T, B = b A + c A^2, X = a X + B X
};
constexpr NewtonSchulzStep kSimpleStep{3.4445, -4.7750, 2.0315};

// u [M, N] fp32 contiguous (fp64 for fp64) -> [M, N]: X = u / max(|u|, 1e-15), then the steps in their order; on the transpose when M > N.
// `products`: kBf16 keeps X in bf16 (sums in fp32; the result is bf16), kTf32 and kF32 in fp32. ShapeError.
at::Tensor newton_schulz(const at::Tensor& u_MN, std::span<const NewtonSchulzStep> steps, GemmRecipe::Kind products, const Policy&);

}  // namespace weft::ops
