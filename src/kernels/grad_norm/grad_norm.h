// Norm of many gradient buffers and the clip factor, all on the device.
//   grad_norm: *sum_sq (+)= sum of squares over all spans; *non_finite (+)= number of elements that are inf or nan
//   clip_factor: norm = sqrt(*sum_sq); factor = min(1, max_norm / (norm + 1e-6)); skip = non_finite != 0
// Between the two a caller may all-reduce sum_sq and non_finite. Fixed order (deterministic). Bound: memory, read once.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct GradSpan {
  const void* data;  // [count] dtype
  int64_t count;
};

struct GradNorm {
  const GradSpan* spans;  // host array, copied during the call
  int32_t num_spans;
  double* sum_sq;       // [1] fp64
  int32_t* non_finite;  // [1]
  bool add;             // true: added to both, false: both overwritten
  DType dtype;          // f32 or bf16
};

struct ClipFactor {
  const double* sum_sq;       // [1]
  const int32_t* non_finite;  // [1]
  double max_norm;            // 0: no clipping, factor 1
  float* norm;                // [1], or null
  float* factor;              // [1]; 0 where the norm is not finite
  int32_t* skip;              // [1] 1 when anything is not finite; or null
};

// Multiplies buffers in place by *factor (for optimizers that do not take a factor).
struct ScaleBuffer {
  void* data;           // [count] dtype
  const float* factor;  // [1] on the device
  int64_t count;
  DType dtype;
};

Support supports_grad_norm_sm90(const GradNorm&, const Device&);
size_t workspace_grad_norm_sm90(const GradNorm&);
void grad_norm_sm90(const GradNorm&, const Launch&);
Support supports_clip_factor_sm90(const ClipFactor&, const Device&);
void clip_factor_sm90(const ClipFactor&, const Launch&);
Support supports_scale_buffer_sm90(const ScaleBuffer&, const Device&);
void scale_buffer_sm90(const ScaleBuffer&, const Launch&);
Support supports_grad_norm_cpu(const GradNorm&, const Device&);
Support supports_clip_factor_cpu(const ClipFactor&, const Device&);
Support supports_scale_buffer_cpu(const ScaleBuffer&, const Device&);
size_t workspace_grad_norm_cpu(const GradNorm&);
void grad_norm_cpu(const GradNorm&, const Launch&);
void clip_factor_cpu(const ClipFactor&, const Launch&);
void scale_buffer_cpu(const ScaleBuffer&, const Launch&);

}  // namespace weft::kernels
