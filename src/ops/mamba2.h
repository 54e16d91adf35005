// The inside of a Mamba-2 mixer between its projections (Dao and Gu 2024), one autograd node: in_proj's output -> causal conv + SiLU over
// x, B, C -> dt = softplus(dt + dt_bias), A = -exp(A_log) -> SSD. Gradients of the small weights go straight to their main_grad, and
// nothing but the projection's output (and, on CUDA, chunk states) is kept for the backward: the convolution runs again there.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/packing.h"
#include "ops/policy.h"
#include "ops/weight.h"

namespace weft::ops {

struct Mamba2Shape {
  int64_t heads, groups, head_dim, state_dim;  // H, G, P, N
  int64_t inner() const { return heads * head_dim; }
  int64_t channels() const { return inner() + 2 * groups * state_dim; }  // of the convolution: x | B | C
  int64_t projected() const { return inner() + channels() + heads; }      // z | x | B | C | dt
};
struct Mamba2Weights {
  Weight &conv_w, *conv_b;         // [channels, width], [channels] or null; compute dtype
  Weight &A_log, &dt_bias, *D;     // [H] fp32 each; D may be null
};
struct Mamba2State {  // of every document, for prefill in pieces and decoding; no gradient
  at::Tensor conv_nCW;   // [documents, channels, width - 1] compute dtype: inputs of the convolution
  at::Tensor ssm_nHPN;   // [documents, H, P, N] fp32
};
struct Mamba2Out {
  at::Tensor y_TI;  // [T, inner]
  at::Tensor z_TI;  // [T, inner], a view of the input (tokens apart): the gate of the norm that follows
};

// in_TE [T, projected()] contiguous. `state`: null for training; else read unless its tensors are undefined (zeros), and replaced.
// ShapeError if widths, dtypes or documents do not fit.
Mamba2Out mamba2(const at::Tensor& in_TE, const Mamba2Shape&, const Mamba2Weights&, const Packing&, Mamba2State* state, const Policy&);

// One token for each of R sequences: pools conv [slots, channels, width - 1] and ssm [slots, H, P, N] are moved on in place at slots_R (int32).
Mamba2Out mamba2_step(const at::Tensor& in_RE, const Mamba2Shape&, const Mamba2Weights&, const Mamba2State& pools, const at::Tensor& slots_R, const Policy&);

}  // namespace weft::ops
