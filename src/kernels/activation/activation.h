// Ungated activations: y = act(x) * prob.
//   kGeluExact: x * Phi(x);  kGeluTanh: 0.5 x (1 + tanh(sqrt(2/pi)(x + 0.044715 x^3)));  kQuickGelu: x * sigmoid(1.702 x);
//   kSilu: x * sigmoid(x);  kRelu: max(x, 0);  kReluSquared: max(x, 0)^2
// Math in fp32, rounded once. Bound: memory. Forward reads x, writes y; backward reads dy, x, writes dx.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

enum class Act : uint8_t { kGeluExact, kGeluTanh, kQuickGelu, kSilu, kRelu, kReluSquared };

struct ActFwd {
  const void* x;      // [rows, cols] dtype, contiguous
  const float* prob;  // [rows] fp32, or null for ones
  void* y;            // [rows, cols] dtype, may alias x
  int64_t rows;
  int32_t cols;
  Act kind;
  DType dtype;
};

struct ActBwd {
  const void* dy;     // [rows, cols] dtype
  const void* x;      // [rows, cols] dtype
  const float* prob;  // [rows] fp32, or null
  void* dx;           // [rows, cols] dtype, may alias dy or x
  float* dprob;       // [rows] fp32 = sum_c dy * act(x), written; or null. Fixed order (deterministic)
  int64_t rows;
  int32_t cols;
  Act kind;
  DType dtype;
};

Support supports_act_fwd_sm90(const ActFwd&, const Device&);
Support supports_act_bwd_sm90(const ActBwd&, const Device&);
void act_fwd_sm90(const ActFwd&, const Launch&);
void act_bwd_sm90(const ActBwd&, const Launch&);
Support supports_act_fwd_cpu(const ActFwd&, const Device&);
Support supports_act_bwd_cpu(const ActBwd&, const Device&);
void act_fwd_cpu(const ActFwd&, const Launch&);
void act_bwd_cpu(const ActBwd&, const Launch&);

}  // namespace weft::kernels
