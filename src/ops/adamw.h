// AdamW and Adam over flat buffers in one pass, the gradient norm and its clip factor (training.md E1, A20).
// Nothing here is differentiable, and nothing waits for the device.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "ops/policy.h"

namespace weft::ops {

struct AdamWUpdate {
  at::Tensor param;                // [n] f32 or bf16, written
  at::Tensor master;               // [n] fp32, or undefined: param (with remainder) is the master
  at::Tensor remainder;            // [n] u16 low halves of the masters of a bf16 param; or undefined
  at::Tensor grad;                 // [n] f32 or bf16
  at::Tensor exp_avg, exp_avg_sq;  // [n] f32 or bf16
  at::Tensor grad_scale;           // [1] fp32 on the device; or undefined for 1
  at::Tensor skip;                 // [1] int32 on the device: when not 0 nothing is written; or undefined
  double lr, correction1, correction2, beta1, beta2, eps, decay;  // correction_i = 1 - beta_i^t
  bool decoupled = true;           // false: decay goes into the gradient (Adam with L2)
  bool stochastic = false;         // bf16 params without master, and bf16 moments, round stochastically
  uint64_t seed = 0, step = 0;     // of the rounding
  int64_t first_index = 0;         // global index of element 0
};
void adamw(const AdamWUpdate&, const Policy&);

struct GradNorm {
  at::Tensor sum_sq;      // [1] fp64
  at::Tensor non_finite;  // [1] int32: how many elements are inf or nan
};
// Over all buffers (f32 or bf16, contiguous, one dtype), in a fixed order.
GradNorm grad_norm(const std::vector<at::Tensor>& buffers, const Policy&);

struct ClipFactor {
  at::Tensor norm;    // [1] fp32
  at::Tensor factor;  // [1] fp32: min(1, max_norm / (norm + 1e-6)); 1 when max_norm is 0; 0 when the norm is not finite
  at::Tensor skip;    // [1] int32: 1 when anything is not finite
};
ClipFactor clip_factor(const GradNorm&, double max_norm, const Policy&);

// Elements of `flat` that are inf or nan, by the name of the span they lie in: "layers.3.mlp.up (12 of 4096 elements)"; empty when all
// are finite. Reads the device. `spans` are (name, offset, count) in the order that shall be blamed first.
struct NamedSpan {
  std::string name;
  int64_t offset, count;
};
std::string first_non_finite(const at::Tensor& flat, const std::vector<NamedSpan>& spans, const Policy&);

namespace reference {
void adamw(const AdamWUpdate&);  // no remainder, no stochastic rounding: those are kernels' storage
}  // namespace reference
}  // namespace weft::ops
