// Element-wise activations and gated linear units (training.md B10). Math in fp32 (fp64 for fp64), rounded once.
#pragma once
#include <ATen/core/Tensor.h>

#include <utility>

#include "kernels/activation/activation.h"
#include "kernels/glu/glu.h"
#include "ops/policy.h"

namespace weft::ops {

using kernels::Act;
using kernels::Glu;

// y = act(x) * prob. x [..., D] contiguous; prob fp32, one a row of x, or undefined for ones.
at::Tensor activation(const at::Tensor& x, Act, const Policy&, const at::Tensor& prob = {});
inline at::Tensor gelu(const at::Tensor& x, const Policy& p) { return activation(x, Act::kGeluExact, p); }
inline at::Tensor gelu_tanh(const at::Tensor& x, const Policy& p) { return activation(x, Act::kGeluTanh, p); }
inline at::Tensor relu2(const at::Tensor& x, const Policy& p) { return activation(x, Act::kReluSquared, p); }
inline at::Tensor silu(const at::Tensor& x, const Policy& p) { return activation(x, Act::kSilu, p); }

struct GluOptions {
  double clamp = 0;   // above 0: gate <= clamp and |up| <= clamp before the activation; the bound itself passes the gradient
  double offset = 0;  // added to up: 1 for gpt-oss
};
// y = act(gate) * (up + offset) * prob of gate_up [..., 2F] contiguous, gate first. Returns [..., F]. ShapeError if the last dim is odd.
at::Tensor glu(const at::Tensor& gate_up, Glu, const GluOptions&, const Policy&, const at::Tensor& prob = {});
inline at::Tensor swiglu(const at::Tensor& gate_up, const GluOptions& o, const Policy& p) { return glu(gate_up, Glu::kSwiglu, o, p); }
inline at::Tensor quick_geglu(const at::Tensor& gate_up, const GluOptions& o, const Policy& p) { return glu(gate_up, Glu::kQuickGeglu, o, p); }

namespace reference {
std::pair<at::Tensor, at::Tensor> activation_and_slope(const at::Tensor& x, Act);  // of a tensor already in the accumulation dtype
}  // namespace reference
}  // namespace weft::ops
