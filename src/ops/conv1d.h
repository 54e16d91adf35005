// Depthwise causal convolution over the tokens of packed documents, with an optional SiLU (kernels/conv1d/conv1d.h has the formula).
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/packing.h"
#include "ops/policy.h"
#include "ops/weight.h"

namespace weft::ops {

struct ConvOut {
  at::Tensor y_TC;             // x's dtype, contiguous
  at::Tensor final_state_nCW;  // [documents, C, width - 1] x's dtype; undefined unless asked for
};

// x_TC [T, C], channels contiguous, tokens may be strided (a slice of a wider projection); w [C, width], bias [C] or null.
// initial_state_nCW [documents, C, width - 1] holds the inputs before each document, oldest first; undefined: zeros. Both states carry
// gradients. ShapeError if C, width, dtypes or documents do not fit.
ConvOut causal_conv1d(const at::Tensor& x_TC, Weight& w, Weight* bias, bool silu, const Packing&, const at::Tensor& initial_state_nCW,
                      bool want_final_state, const Policy&);

// One token for each of R sequences, no gradient: state_SCW [slots, C, width - 1] is moved on in place. slots_R int32 or undefined
// (row i uses slot i); a negative slot gives y = 0.
at::Tensor causal_conv1d_step(const at::Tensor& x_RC, const Weight& w, const Weight* bias, bool silu, const at::Tensor& state_SCW,
                              const at::Tensor& slots_R, const Policy&);

// Without autograd, for ops that hold a convolution inside.
struct ConvInputs {
  at::Tensor x_TC, w, bias, initial_state_nCW;  // bias and state may be undefined
  bool silu = true;
};
ConvOut conv1d_fwd(const ConvInputs&, const Packing&, bool want_final_state, const Policy&);
struct ConvGrads {
  at::Tensor dx_TC, dw, dbias, d_initial_state_nCW;  // dw and dbias in the wide dtype
};
// dx_into: rows [T, C] that receive dx (undefined: made).
ConvGrads conv1d_bwd(const at::Tensor& dy_TC, const ConvInputs&, const at::Tensor& d_final_state_nCW, const Packing&, const at::Tensor& dx_into,
                     const Policy&);

namespace reference {
ConvOut conv1d_fwd(const ConvInputs&, const Packing&, bool want_final_state);
ConvGrads conv1d_bwd(const at::Tensor& dy_TC, const ConvInputs&, const at::Tensor& d_final_state_nCW, const Packing&);
}  // namespace reference
}  // namespace weft::ops
