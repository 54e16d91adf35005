// RMSNorm of every head's row, in place inside a fused projection: y[t, h, :] = x * rstd[t, h] * w,
// rstd = 1 / sqrt(mean_d(x^2) + eps). With l2 set there is no w and rstd = 1 / sqrt(sum_d(x^2) + eps) (delta nets' q, k).
// Bound: memory. Element (t, h, d) lies at t * token_stride + h * dim + d.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct QkNormFwd {
  const void* x;  // [tokens, heads, dim] dtype, tokens x_stride elements apart
  const void* w;  // [dim] dtype, or fp32 where w_f32; null when l2
  void* y;        // [tokens, heads, dim] dtype, tokens y_stride apart; may alias x when the strides agree
  float* rstd;    // [tokens, heads], or null when no backward follows
  int64_t tokens, x_stride, y_stride;
  int32_t heads, dim;
  float eps;
  bool l2;
  DType dtype;
  bool w_f32 = false;
};

// dw += sum over tokens and heads in a fixed order (deterministic).
struct QkNormBwd {
  const void* dy;     // [tokens, heads, dim] dtype, tokens dy_stride apart
  const void* x;      // as forward
  const void* w;      // as forward
  const float* rstd;  // [tokens, heads]
  void* dx;           // [tokens, heads, dim] dtype, tokens dx_stride apart; may alias dy when the strides agree
  float* dw;          // [dim] fp32, added to; or null
  int64_t tokens, dy_stride, x_stride, dx_stride;
  int32_t heads, dim;
  bool l2;
  DType dtype;
  bool w_f32 = false;
};

Support supports_qk_norm_fwd_sm90(const QkNormFwd&, const Device&);
Support supports_qk_norm_bwd_sm90(const QkNormBwd&, const Device&);
size_t workspace_qk_norm_bwd_sm90(const QkNormBwd&);
void qk_norm_fwd_sm90(const QkNormFwd&, const Launch&);
void qk_norm_bwd_sm90(const QkNormBwd&, const Launch&);

}  // namespace weft::kernels
