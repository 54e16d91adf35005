// Residual add fused with RMSNorm: sum = x + residual (rounded once to dtype), y = sum * rstd * w,
// rstd[r] = 1 / sqrt(mean_c(sum^2) + eps). The norm reads the rounded sum, so forward and backward see the same values.
// Bound: memory. Forward reads x, residual and writes sum, y; backward reads dy, dsum, sum and writes dx.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct AddRmsNormFwd {
  const void* x;         // [rows, cols] dtype, contiguous
  const void* residual;  // [rows, cols] dtype
  const void* w;         // [cols] dtype
  void* sum;             // [rows, cols] dtype, may alias x or residual
  void* y;               // [rows, cols] dtype, may alias x, not sum
  float* rstd;           // [rows], or null when no backward follows
  int64_t rows;
  int32_t cols;
  float eps;
  DType dtype;
};

// dx = dsum + rstd * (w*dy - sum * rstd^2 * mean_c(w*dy*sum)): the gradient of x and of residual alike.
// dw += sum_r dy * sum * rstd in a fixed order (deterministic).
struct AddRmsNormBwd {
  const void* dy;     // [rows, cols] dtype
  const void* dsum;   // [rows, cols] dtype, the gradient that reached `sum` by other ways; or null
  const void* sum;    // [rows, cols] dtype
  const void* w;      // [cols] dtype
  const float* rstd;  // [rows]
  void* dx;           // [rows, cols] dtype, may alias dy or dsum
  float* dw;          // [cols] fp32, added to; or null
  int64_t rows;
  int32_t cols;
  DType dtype;
};

Support supports_add_rms_norm_fwd_sm90(const AddRmsNormFwd&, const Device&);
Support supports_add_rms_norm_bwd_sm90(const AddRmsNormBwd&, const Device&);
size_t workspace_add_rms_norm_bwd_sm90(const AddRmsNormBwd&);
void add_rms_norm_fwd_sm90(const AddRmsNormFwd&, const Launch&);
void add_rms_norm_bwd_sm90(const AddRmsNormBwd&, const Launch&);
Support supports_add_rms_norm_fwd_cpu(const AddRmsNormFwd&, const Device&);
Support supports_add_rms_norm_bwd_cpu(const AddRmsNormBwd&, const Device&);
size_t workspace_add_rms_norm_bwd_cpu(const AddRmsNormBwd&);
void add_rms_norm_fwd_cpu(const AddRmsNormFwd&, const Launch&);
void add_rms_norm_bwd_cpu(const AddRmsNormBwd&, const Launch&);

}  // namespace weft::kernels
