// RMSNorm (Zhang and Sennrich 2019): y[r, c] = x[r, c] * rstd[r] * w[c], rstd[r] = 1 / sqrt(mean_c(x[r, c]^2) + eps).
// Bound: memory. Forward reads x and writes y; backward reads dy and x, writes dx, and dw from per-part sums.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct RmsNormFwd {
  const void* x;  // [rows, cols] dtype, contiguous
  const void* w;  // [cols] dtype
  void* y;        // [rows, cols] dtype, may alias x
  float* rstd;    // [rows], or null when no backward follows
  int64_t rows;
  int32_t cols;
  float eps;
  DType dtype;
};

// dx = rstd * (w*dy - x * rstd^2 * mean_c(w*dy*x)); dw += sum_r dy * x * rstd, summed in a fixed order (deterministic).
struct RmsNormBwd {
  const void* dy;     // [rows, cols] dtype
  const void* x;      // [rows, cols] dtype
  const void* w;      // [cols] dtype
  const float* rstd;  // [rows]
  void* dx;           // [rows, cols] dtype, may alias dy
  float* dw;          // [cols] fp32, added to; or null
  int64_t rows;
  int32_t cols;
  DType dtype;
};

Support supports_rms_norm_fwd_cpu(const RmsNormFwd&, const Device&);
Support supports_rms_norm_bwd_cpu(const RmsNormBwd&, const Device&);
size_t workspace_rms_norm_bwd_cpu(const RmsNormBwd&);
void rms_norm_fwd_cpu(const RmsNormFwd&, const Launch&);
void rms_norm_bwd_cpu(const RmsNormBwd&, const Launch&);

Support supports_rms_norm_fwd_sm90(const RmsNormFwd&, const Device&);
Support supports_rms_norm_bwd_sm90(const RmsNormBwd&, const Device&);
size_t workspace_rms_norm_bwd_sm90(const RmsNormBwd&);
void rms_norm_fwd_sm90(const RmsNormFwd&, const Launch&);
void rms_norm_bwd_sm90(const RmsNormBwd&, const Launch&);

}  // namespace weft::kernels
