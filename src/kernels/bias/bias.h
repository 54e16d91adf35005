// A bias over the last dim: y[r, c] = x[r, c] + b[c]; backward db[c] += sum_r dy[r, c], in a fixed order (deterministic).
// Bound: memory.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct BiasFwd {
  const void* x;  // [rows, cols] dtype, contiguous
  const void* b;  // [cols] dtype
  void* y;        // [rows, cols] dtype, may alias x
  int64_t rows;
  int32_t cols;
  DType dtype;
};

struct BiasBwd {
  const void* dy;  // [rows, cols] dtype
  float* db;       // [cols] fp32, added to
  int64_t rows;
  int32_t cols;
  DType dtype;
};

Support supports_bias_fwd_cpu(const BiasFwd&, const Device&);
Support supports_bias_bwd_cpu(const BiasBwd&, const Device&);
size_t workspace_bias_bwd_cpu(const BiasBwd&);
void bias_fwd_cpu(const BiasFwd&, const Launch&);
void bias_bwd_cpu(const BiasBwd&, const Launch&);

Support supports_bias_fwd_sm90(const BiasFwd&, const Device&);
Support supports_bias_bwd_sm90(const BiasBwd&, const Device&);
size_t workspace_bias_bwd_sm90(const BiasBwd&);
void bias_fwd_sm90(const BiasFwd&, const Launch&);
void bias_bwd_sm90(const BiasBwd&, const Launch&);

}  // namespace weft::kernels
