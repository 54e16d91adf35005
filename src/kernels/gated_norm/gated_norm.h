// Gated RMSNorm over groups of `group` columns, with silu(z) = z * sigmoid(z):
//   gate_first (Mamba-2):        u = x * silu(z);  y = u * rstd(u) * w
//   not gate_first (delta nets): y = x * rstd(x) * w * silu(z)
// rstd over each group: 1 / sqrt(mean(u^2) + eps). Math in fp32, rounded once.
// Bound: memory. Forward reads x, z and writes y; backward reads dy, x, z and writes dx, dz.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct GatedNormFwd {
  const void* x;  // [rows, cols] dtype, rows x_stride elements apart
  const void* z;  // [rows, cols] dtype, rows z_stride apart
  const void* w;  // [w_cols] dtype: w_cols is cols, or group (one weight shared by all groups)
  void* y;        // [rows, cols] dtype, contiguous; may alias x when x_stride is cols
  float* rstd;    // [rows, cols / group], or null when no backward follows
  int64_t rows, x_stride, z_stride;
  int32_t cols, group, w_cols;
  float eps;
  bool gate_first;
  DType dtype;
};

// dw[c] += sum over rows (and over groups when w is shared), in a fixed order (deterministic).
struct GatedNormBwd {
  const void* dy;     // [rows, cols] dtype, contiguous
  const void* x;      // as forward
  const void* z;      // as forward
  const void* w;      // as forward
  const float* rstd;  // [rows, cols / group]
  void* dx;           // [rows, cols] dtype, rows dx_stride apart
  void* dz;           // [rows, cols] dtype, rows dz_stride apart
  float* dw;          // [w_cols] fp32, added to; or null
  int64_t rows, x_stride, z_stride, dx_stride, dz_stride;
  int32_t cols, group, w_cols;
  bool gate_first;
  DType dtype;
};

Support supports_gated_norm_fwd_sm90(const GatedNormFwd&, const Device&);
Support supports_gated_norm_bwd_sm90(const GatedNormBwd&, const Device&);
size_t workspace_gated_norm_bwd_sm90(const GatedNormBwd&);
void gated_norm_fwd_sm90(const GatedNormFwd&, const Launch&);
void gated_norm_bwd_sm90(const GatedNormBwd&, const Launch&);
Support supports_gated_norm_fwd_cpu(const GatedNormFwd&, const Device&);
Support supports_gated_norm_bwd_cpu(const GatedNormBwd&, const Device&);
size_t workspace_gated_norm_bwd_cpu(const GatedNormBwd&);
void gated_norm_fwd_cpu(const GatedNormFwd&, const Launch&);
void gated_norm_bwd_cpu(const GatedNormBwd&, const Launch&);

}  // namespace weft::kernels
