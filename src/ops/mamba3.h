// The inside of a Mamba-3 mixer, SISO (rank 1) and MIMO, between its projections, as one autograd node (kernels/mamba3/mamba3.h and
// nam56r.md 2 have the formulas): in_proj's output -> RMSNorm of B and C, softplus and clamps -> rotation by running angles, the
// trapezoidal recurrence, skip and gate. Gradients of the small weights go straight to their main_grad.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/packing.h"
#include "ops/policy.h"
#include "ops/weight.h"

namespace weft::ops {

struct Mamba3Shape {
  int64_t heads, groups, head_dim, state_dim, rank, angles;  // H, G, P, N, R, A2 <= N / 2
  int64_t inner() const { return heads * head_dim; }
  int64_t bc() const { return rank * groups * state_dim; }  // columns of B, laid out rank, group, state
  int64_t projected() const { return 2 * inner() + 2 * bc() + 3 * heads + angles; }  // z | x | B | C | dd_dt | dd_A | trap | angle
};
struct Mamba3Weights {
  Weight &dt_bias, &B_norm, &C_norm;             // [H], [N], [N]
  Weight &B_bias, &C_bias;                       // [H, R, N]
  Weight *mimo_x, *mimo_z, *mimo_o;              // [H, R, P]; all null when R = 1
  Weight* D;                                     // [H] or null
};
struct Mamba3Options {
  bool heavy_tail = false;  // A = -f(dd_A): f = softplus, or 1 + x for x >= 0 and 1 / (1 - x) below
  double A_floor = 1e-4;    // A is at most -A_floor
  double eps = 1e-5;        // of the norms of B and C
};
struct Mamba3State {  // fp32, of every document; no gradient
  at::Tensor h_nHPN, theta_nHA, k_nHRN, x_nHP;  // k rotated, of the last token
};

// in_TE [T, projected()] contiguous -> [T, inner()]. Small weights may be fp32 or the input's dtype; the math is fp32 (fp64). `state`: null for
// training, else read unless its tensors are undefined (zeros), and replaced: prefill in pieces, and decode steps as rows of one-token
// documents. ShapeError.
at::Tensor mamba3(const at::Tensor& in_TE, const Mamba3Shape&, const Mamba3Weights&, const Mamba3Options&, const Packing&, Mamba3State* state,
                  const Policy&);

struct Mamba3Scan {  // what the recurrence itself reads
  at::Tensor x_THP, z_THP;              // [T, H, P]
  at::Tensor B_TRGN, C_TRGN;            // [T, R, G, N], normed
  at::Tensor dt_TH, a_TH, lambda_TH;    // fp32: after softplus, A dt, after the sigmoid
  at::Tensor omega_TA;                  // fp32: pi tanh(angle)
  at::Tensor B_bias, C_bias;            // [H, R, N] fp32
  at::Tensor mimo_x, mimo_z, mimo_o;    // [H, R, P] fp32, or undefined (ones, R = 1)
  at::Tensor D;                         // [H] fp32, or undefined
};
struct Mamba3ScanOut {
  at::Tensor o_THP;
  Mamba3State last;  // undefined unless asked for
};
struct Mamba3ScanGrads {  // of the members of Mamba3Scan; d_dt without its part through a
  at::Tensor dx, dz, dB, dC, d_dt, d_a, d_lambda, d_omega, dB_bias, dC_bias, d_mimo_x, d_mimo_z, d_mimo_o, dD;
};

namespace reference {  // chunked, in the wide dtype
Mamba3ScanOut mamba3_scan(const Mamba3Scan&, const Packing&, const Mamba3State& initial, bool want_last, int64_t chunk = 16);
Mamba3ScanGrads mamba3_scan_bwd(const at::Tensor& d_o, const Mamba3Scan&, const Packing&, int64_t chunk = 16);
}  // namespace reference
}  // namespace weft::ops
