// Gated delta rules over packed documents. State S [Dk, Dv] of each value head h, which reads key head h / (Hv / Hk):
//   S' = e^{g_t} S     r_t = w_t * v_t - S'^T (b_t * k_t)     S <- S' + k_t r_t^T     o_t = scale S^T q_t
// gated_delta (Gated Delta Net, Yang, Kautz and Hatamizadeh 2024): g, and b = w = beta, are one number a head. Chunked.
// gated_delta2 (GDN2): g and b a number for each key channel, w one for each value channel. Token by token.
// gated_delta_product: each token applies several delta steps (Siems et al. 2025): gated_delta on the stream of all steps.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/packing.h"
#include "ops/policy.h"

namespace weft::ops {

struct DeltaInputs {
  at::Tensor q, k;            // [T, Hk, Dk], L2-normalised by the caller (delta2: [T, H, Dk])
  at::Tensor v;               // [T, Hv, Dv]
  at::Tensor g;               // log decay <= 0, fp32: [T, Hv] (delta2: [T, H, Dk])
  at::Tensor beta;            // [T, Hv] fp32 (delta2: the erase gate b, [T, H, Dk])
  at::Tensor write;           // delta2 only: [T, H, Dv] fp32
  at::Tensor initial_state;   // [documents, Hv, Dk, Dv] fp32, or undefined: zeros
  double scale = 1;           // of o, 1 / sqrt(Dk) as a rule
};
struct DeltaOut {
  at::Tensor o;             // [T, Hv, Dv], v's dtype
  at::Tensor final_state;   // [documents, Hv, Dk, Dv] fp32; undefined unless asked for
};

// Differentiable in all tensors and through the final state. A row of documents of one token each is a decode step. ShapeError.
DeltaOut gated_delta(const DeltaInputs&, const Packing&, bool want_final_state, const Policy&);
DeltaOut gated_delta2(const DeltaInputs&, const Packing&, bool want_final_state, const Policy&);
// k [T, steps, Hk, Dk], v [T, steps, Hv, Dv], beta [T, steps, Hv]; q and g as in gated_delta: the decay comes before the first step, the
// output after the last.
DeltaOut gated_delta_product(const DeltaInputs&, const Packing&, bool want_final_state, const Policy&);

struct DeltaGrads {  // q, k, v in their dtype, the others wide
  at::Tensor dq, dk, dv, dg, d_beta, d_write, d_initial_state;
};
namespace reference {
DeltaOut gated_delta(const DeltaInputs&, const Packing&, bool want_final_state, int64_t chunk = 64);
DeltaGrads gated_delta_bwd(const at::Tensor& d_o, const DeltaInputs&, const at::Tensor& d_final_state, const Packing&, int64_t chunk = 64);
DeltaOut gated_delta2(const DeltaInputs&, const Packing&, bool want_final_state);  // token by token: also the oracle of the chunked form
DeltaGrads gated_delta2_bwd(const at::Tensor& d_o, const DeltaInputs&, const at::Tensor& d_final_state, const Packing&);
}  // namespace reference
}  // namespace weft::ops
