// M2RNN: a matrix state with a tanh, truly sequential in the tokens of packed documents (kernels/m2rnn/m2rnn.h has the formulas), and the
// inside of its mixer between the projections as one autograd node.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/packing.h"
#include "ops/policy.h"
#include "ops/weight.h"

namespace weft::ops {

struct M2rnnInputs {
  at::Tensor q_TK, k_TK;       // [T, Dk], one key and query head for all H
  at::Tensor v_THV;            // [T, H, Dv]
  at::Tensor f_TH;             // [T, H] fp32, forget gate in (0, 1)
  at::Tensor W_HVV, D_HV;      // [H, Dv, Dv], [H, Dv] fp32; D may be undefined
  at::Tensor initial_nHKV;     // [documents, H, Dk, Dv] fp32, or undefined: zeros
};
struct M2rnnOut {
  at::Tensor y_THV, final_nHKV;  // v's dtype; fp32, undefined unless asked for
};
// Differentiable in all tensors and through the final state. A row of one-token documents is a decode step. ShapeError.
M2rnnOut m2rnn(const M2rnnInputs&, const Packing&, bool want_final_state, const Policy&);

struct M2rnnShape {
  int64_t heads, key_dim, value_dim;
  int64_t inner() const { return heads * value_dim; }
  int64_t channels() const { return 2 * key_dim + inner(); }          // of the convolution: q | k | v
  int64_t projected() const { return channels() + heads + inner(); }  // q | k | v | forget | gate
};
struct M2rnnWeights {
  Weight &conv_w, *conv_b;            // [channels, width], [channels] or null; compute dtype
  Weight &A_log, &dt_bias, &W, *D;    // fp32: [H], [H], [H, Dv, Dv], [H, Dv] or null
};
struct M2rnnState {
  at::Tensor conv_nCW;   // [documents, channels, width - 1] compute dtype
  at::Tensor h_nHKV;     // [documents, H, Dk, Dv] fp32
};
struct M2rnnMixed {
  at::Tensor y_TI, gate_TI;  // [T, inner] each; the gate is a view of the input (tokens apart)
};
// in_TE [T, projected()] contiguous -> conv + SiLU over q, k, v; f = exp(-exp(A_log) softplus(forget + dt_bias)) in fp32 -> scan. `state`: null
// for training, else read unless its tensors are undefined, and replaced (prefill in pieces, decode steps). ShapeError.
M2rnnMixed m2rnn_mixer(const at::Tensor& in_TE, const M2rnnShape&, const M2rnnWeights&, const Packing&, M2rnnState* state, const Policy&);

struct M2rnnGrads {  // dq, dk, dv in v's dtype, the others wide
  at::Tensor dq, dk, dv, df, dW, dD, d_initial;
};
struct M2rnnSaved {
  at::Tensor states;  // of the kernels that keep them
};
// Without autograd. `saved`: null when no backward follows.
M2rnnOut m2rnn_fwd(const M2rnnInputs&, const Packing&, bool want_final_state, M2rnnSaved* saved, const Policy&);
M2rnnGrads m2rnn_bwd(const at::Tensor& dy_THV, const M2rnnInputs&, const M2rnnSaved&, const at::Tensor& d_final, const Packing&, const Policy&);

namespace reference {  // states kept every `chunk` tokens, recomputed inside
M2rnnOut m2rnn(const M2rnnInputs&, const Packing&, bool want_final_state);
M2rnnGrads m2rnn_bwd(const at::Tensor& dy_THV, const M2rnnInputs&, const at::Tensor& d_final, const Packing&, int64_t chunk = 64);
}  // namespace reference
}  // namespace weft::ops
