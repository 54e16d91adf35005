// LayerNorm (Ba et al. 2016), with the residual add in front when `residual` is given:
//   v = x, or v = sum = x + residual (rounded once to dtype)
//   y = (v - mean) * rstd * w + b,  rstd = 1 / sqrt(mean_c((v - mean)^2) + eps)
// Bound: memory. Forward reads x (and residual), writes y (and sum); backward reads dy, v (and dsum), writes dx.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct LayerNormFwd {
  const void* x;         // [rows, cols] dtype, contiguous
  const void* residual;  // [rows, cols] dtype, or null
  const void* w;         // [cols] dtype, or null for ones
  const void* b;         // [cols] dtype, or null for zeros
  void* sum;             // [rows, cols] dtype, may alias x or residual; null exactly when residual is null
  void* y;               // [rows, cols] dtype, may alias x, not sum
  float* mean;           // [rows], or null when no backward follows
  float* rstd;           // [rows], or null with mean
  int64_t rows;
  int32_t cols;
  float eps;
  DType dtype;
};

// g = w*dy, n = (v - mean)*rstd: dx = dsum + rstd * (g - mean_c(g) - n * mean_c(g*n)).
// dw += sum_r dy*n and db += sum_r dy in a fixed order (deterministic).
struct LayerNormBwd {
  const void* dy;     // [rows, cols] dtype
  const void* dsum;   // [rows, cols] dtype, or null
  const void* v;      // [rows, cols] dtype: x, or sum where the forward added a residual
  const void* w;      // [cols] dtype, or null for ones
  const float* mean;  // [rows]
  const float* rstd;  // [rows]
  void* dx;           // [rows, cols] dtype, may alias dy or dsum
  float* dw;          // [cols] fp32, added to; or null
  float* db;          // [cols] fp32, added to; or null
  int64_t rows;
  int32_t cols;
  DType dtype;
};

Support supports_layer_norm_fwd_sm90(const LayerNormFwd&, const Device&);
Support supports_layer_norm_bwd_sm90(const LayerNormBwd&, const Device&);
size_t workspace_layer_norm_bwd_sm90(const LayerNormBwd&);
void layer_norm_fwd_sm90(const LayerNormFwd&, const Launch&);
void layer_norm_bwd_sm90(const LayerNormBwd&, const Launch&);
Support supports_layer_norm_fwd_cpu(const LayerNormFwd&, const Device&);
Support supports_layer_norm_bwd_cpu(const LayerNormBwd&, const Device&);
size_t workspace_layer_norm_bwd_cpu(const LayerNormBwd&);
void layer_norm_fwd_cpu(const LayerNormFwd&, const Launch&);
void layer_norm_bwd_cpu(const LayerNormBwd&, const Launch&);

}  // namespace weft::kernels
