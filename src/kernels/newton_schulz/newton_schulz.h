// The element-wise parts of Muon's Newton-Schulz iteration; the products are GEMMs. Element-wise, so deterministic. Bound: memory.
//   muon_momentum: m += (1 - mu) (g - m); u = m, or g + mu (m - g) with nesterov
//   scale_by_norm: y = x / max(sqrt(*sum_sq), 1e-15)
//   polynomial:    y = a x + b z  (B = b A + c A^2 after the product A^2; X = a X + B X after B X)
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct MuonMomentum {
  const void* grad;         // [count] grad_dtype, f32 or bf16
  float* momentum;          // [count] fp32, updated
  float* u;                 // [count] fp32; may alias momentum when nesterov is false
  const float* grad_scale;  // [1] on the device, or null for 1
  int64_t count;
  float mu;
  bool nesterov;
  DType grad_dtype;
};

struct ScaleByNorm {
  const float* x;        // [count] fp32
  const double* sum_sq;  // [1] on the device, of GradNorm
  void* y;               // [count] to, f32 or bf16
  int64_t count;
  DType to;
};

struct Polynomial {
  const void* x;  // [count] dtype, f32 or bf16
  const void* z;  // [count] dtype
  void* y;        // [count] dtype, may alias x or z
  int64_t count;
  float a, b;
  DType dtype;
};

Support supports_muon_momentum_sm90(const MuonMomentum&, const Device&);
void muon_momentum_sm90(const MuonMomentum&, const Launch&);
Support supports_scale_by_norm_sm90(const ScaleByNorm&, const Device&);
void scale_by_norm_sm90(const ScaleByNorm&, const Launch&);
Support supports_polynomial_sm90(const Polynomial&, const Device&);
void polynomial_sm90(const Polynomial&, const Launch&);

}  // namespace weft::kernels
