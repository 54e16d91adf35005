// Cross-entropy of a linear head without stored logits. z = x w^T [T, V] (fp32 sums), y the labels:
//   lse_i = log sum_v exp z_iv     loss_i = lse_i - z_{i,y_i}, 0 where y_i < 0 (ignored; lse is still written)
// Backward, with g = dL/dloss and h = dL/dlse (z-loss, or null), P = exp(z - lse):
//   dz_iv = (g_i + h_i) P_iv - g_i [v = y_i]   (g_i taken as 0 on ignored rows)     dx = dz w     dw += dz^T x
// dz is rounded to bf16 between the products. x of a token whose g and h are 0 is not read into dw. Deterministic.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct LinearXentFwd {
  const void* x;          // [T, D] bf16, contiguous
  const void* w;          // [V, D] bf16, contiguous
  const int64_t* labels;  // [T]; a label in [0, V), or negative: ignored
  float* loss;            // [T]
  float* lse;             // [T]
  int32_t* top1;          // [T] argmax of z, the lowest index on a tie; or null
  int64_t tokens, vocab;
  int32_t dim;
  DType dtype;
};

struct LinearXentBwd {
  const void* x;
  const void* w;
  const int64_t* labels;
  const float* lse;     // [T], of the forward
  const float* d_loss;  // [T]
  const float* d_lse;   // [T] or null
  void* dx;             // [T, D] bf16
  float* dw;            // [V, D] fp32, added to; null: not wanted
  int64_t tokens, vocab;
  int32_t dim;
  DType dtype;
};

// Losses and the gradient of the logits from one product, where the losses' gradients g are known before it. The product leaves numerators
// exp(z - m) in bf16, m the running maximum of a row in fp32, which one pass turns into dz: the loss and P at the label are those of fp32 logits,
// every P is rounded once before dz is (a logit of 20 in bf16 is off by up to 0.06, and its P by as much of itself). With z_loss c:
//   loss_i = lse_i - z_{i,y_i} + c lse_i^2     dz_iv = g_i (1 + 2 c lse_i) P_iv - g_i [v = y_i], zeros where y_i < 0 or g_i = 0, whatever x holds
struct LinearXentRows {
  const void* x;          // [T, D] bf16, contiguous
  const void* w;          // [V, D] bf16, contiguous
  const int64_t* labels;  // [T]; negative: ignored
  const float* d_loss;    // [T]
  void* dz;               // [T, V] bf16, contiguous
  float* loss;            // [T]
  float* lse;             // [T]
  int32_t* top1;          // [T] or null
  int64_t tokens, vocab;
  int32_t dim;
  float z_loss;
  DType dtype;
};

Support supports_linear_xent_rows_sm90(const LinearXentRows&, const Device&);
size_t workspace_linear_xent_rows_sm90(const LinearXentRows&);
void linear_xent_rows_sm90(const LinearXentRows&, const Launch&);

Support supports_linear_xent_fwd_sm90(const LinearXentFwd&, const Device&);
Support supports_linear_xent_bwd_sm90(const LinearXentBwd&, const Device&);
size_t workspace_linear_xent_fwd_sm90(const LinearXentFwd&);
size_t workspace_linear_xent_bwd_sm90(const LinearXentBwd&);
void linear_xent_fwd_sm90(const LinearXentFwd&, const Launch&);
void linear_xent_bwd_sm90(const LinearXentBwd&, const Launch&);

}  // namespace weft::kernels
