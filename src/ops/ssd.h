// Mamba-2's state-space duality over packed documents (kernels/ssd/ssd.h has the formulas): S_t = e^{A dt} S + dt x B^T, y = S C + D x.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/packing.h"
#include "ops/policy.h"

namespace weft::ops {

struct SsdInputs {  // heads, dims and states contiguous; tokens may be strided (slices of a wider projection)
  at::Tensor x_THP;               // [T, H, P]
  at::Tensor dt_TH;               // [T, H] fp32, after softplus
  at::Tensor A_H;                 // [H] fp32, negative
  at::Tensor B_TGN, C_TGN;        // [T, G, N] x's dtype; G divides H
  at::Tensor D_H;                 // [H] fp32, or undefined
  at::Tensor initial_state_nHPN;  // [documents, H, P, N] fp32, or undefined: zeros
};
struct SsdOut {
  at::Tensor y_THP;             // x's dtype, contiguous
  at::Tensor final_state_nHPN;  // fp32; undefined unless asked for
};

// Differentiable in all seven inputs and through the final state. ShapeError if shapes or dtypes do not fit.
SsdOut ssd(const SsdInputs&, const Packing&, bool want_final_state, const Policy&);

// One token for each of R sequences, no gradient: state_SHPN [slots, H, P, N] fp32 is moved on in place (inputs as above with R for T,
// without initial_state). slots_R int32, or undefined (row i uses slot i); a negative slot is skipped and its y is 0.
at::Tensor ssd_step(const SsdInputs&, const at::Tensor& state_SHPN, const at::Tensor& slots_R, const Policy&);

// Without autograd, for ops that hold a scan inside.
struct SsdSaved {
  at::Tensor states;  // of the kernels that save them
};
SsdOut ssd_fwd(const SsdInputs&, const Packing&, bool want_final_state, SsdSaved* saved, const Policy&);
struct SsdGrads {  // dx, dB, dC in x's dtype; the others wide
  at::Tensor dx, d_dt, dA, dB, dC, dD, d_initial_state;
};
SsdGrads ssd_bwd(const at::Tensor& dy_THP, const SsdInputs&, const SsdSaved&, const at::Tensor& d_final_state, const Packing&, const Policy&);
void check_ssd(const char* op, const SsdInputs&, int64_t rows);

namespace reference {  // chunked, in the wide dtype; `chunk` tokens at a time
SsdOut ssd_fwd(const SsdInputs&, const Packing&, bool want_final_state, int64_t chunk = 64);
SsdGrads ssd_bwd(const at::Tensor& dy_THP, const SsdInputs&, const at::Tensor& d_final_state, const Packing&, int64_t chunk = 64);
}  // namespace reference
}  // namespace weft::ops
