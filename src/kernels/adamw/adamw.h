// AdamW over flat buffers (Kingma and Ba 2015; Loshchilov and Hutter 2019), math in fp32:
//   g = grad * *grad_scale;  coupled decay: g += decay * p
//   m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   p -= lr * ((m / correction1) / (sqrt(v / correction2) + eps) + decay * p)      (decay term: decoupled only)
// correction_i = 1 - beta_i^t, t from 1. The master is, in this order: `master`; param and `remainder` together; `param`.
// Bound: memory. Element-wise, so deterministic; the random bits of stochastic rounding depend on (seed, step, index) only.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct AdamW {
  void* param;            // [count] param_dtype, f32 or bf16, written
  float* master;          // [count] fp32, or null: see above
  uint16_t* remainder;    // [count] low halves of the fp32 masters whose high halves, rounded half up, are `param` (bf16); or null
  const void* grad;       // [count] grad_dtype, f32 or bf16
  void* exp_avg;          // [count] moment_dtype, f32 or bf16
  void* exp_avg_sq;       // [count] moment_dtype
  const float* grad_scale;    // [1] on the device, such as a clip factor; or null for 1
  const int32_t* skip;        // [1] on the device: when not zero nothing is written; or null
  const float* scalars;       // [3] on the device: lr, correction1, correction2, read when the kernel runs; or null: those below
  int64_t count;
  float lr, correction1, correction2, beta1, beta2, eps, decay;
  bool decoupled;      // true: AdamW; false: L2 in the gradient
  bool stochastic;     // bf16 param without master or remainder (and bf16 moments) round stochastically, else to nearest even
  uint64_t seed, step;  // of stochastic rounding
  int64_t first_index;  // global index of element 0, a multiple of 8 when stochastic: any cut of a buffer gives the same bits
  DType param_dtype, grad_dtype, moment_dtype;
};

Support supports_adamw_sm90(const AdamW&, const Device&);
void adamw_sm90(const AdamW&, const Launch&);
Support supports_adamw_cpu(const AdamW&, const Device&);
void adamw_cpu(const AdamW&, const Launch&);

}  // namespace weft::kernels
