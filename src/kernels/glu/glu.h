// Gated linear units: y = act(g) * (u + offset) * prob, with g = min(gate, clamp), u = clamp(up, -clamp, clamp) when clamp > 0.
//   kSwiglu: act = g * sigmoid(g);  kQuickGeglu: g * sigmoid(1.702 g);  kGegluExact: g * Phi(g);
//   kGegluTanh: 0.5 g (1 + tanh(sqrt(2/pi)(g + 0.044715 g^3)));  kReglu: max(g, 0)
// Math in fp32, rounded once. Gradients are zero where clamped; the bound itself passes the gradient.
// Bound: memory. Forward reads gate, up, writes y; backward reads dy, gate, up, writes dgate, dup.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

enum class Glu : uint8_t { kSwiglu, kQuickGeglu, kGegluExact, kGegluTanh, kReglu };

struct GluFwd {
  const void* gate;   // [rows, cols] dtype, rows in_stride elements apart (fused gate|up: up = gate + cols, in_stride = 2 * cols)
  const void* up;     // [rows, cols] dtype, rows in_stride apart
  const float* prob;  // [rows] fp32, or null for ones
  void* y;            // [rows, cols] dtype, contiguous
  int64_t rows, in_stride;
  int32_t cols;
  float clamp;   // 0: no clamp
  float offset;  // 0, or 1 for gpt-oss
  Glu kind;
  DType dtype;
};

struct GluBwd {
  const void* dy;     // [rows, cols] dtype, contiguous
  const void* gate;   // as forward
  const void* up;     // as forward
  const float* prob;  // as forward
  void* dgate;        // [rows, cols] dtype, rows dx_stride apart; may alias gate when the strides agree
  void* dup;          // [rows, cols] dtype, rows dx_stride apart; may alias up
  float* dprob;       // [rows] fp32 = sum_c dy * act(g) * (u + offset), written; or null. Fixed order (deterministic)
  int64_t rows, in_stride, dx_stride;
  int32_t cols;
  float clamp, offset;
  Glu kind;
  DType dtype;
};

Support supports_glu_fwd_sm90(const GluFwd&, const Device&);
Support supports_glu_bwd_sm90(const GluBwd&, const Device&);
void glu_fwd_sm90(const GluFwd&, const Launch&);
void glu_bwd_sm90(const GluBwd&, const Launch&);
Support supports_glu_fwd_cpu(const GluFwd&, const Device&);
Support supports_glu_bwd_cpu(const GluBwd&, const Device&);
void glu_fwd_cpu(const GluFwd&, const Launch&);
void glu_bwd_cpu(const GluBwd&, const Launch&);

}  // namespace weft::kernels
