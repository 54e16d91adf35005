// KL divergence of softmax(student / temperature) from softmax(teacher / temperature), a row of logits at a time.
//   loss = sum_v p_v (log p_v - log q_v), a term with p_v = 0 is 0;  d_student = d_loss (q - p) / temperature
// One pass over both rows forward, one backward. Bound: memory. Deterministic. A NaN in a row makes that row's results NaN.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct KlFwd {
  const void* student;  // [tokens, vocab] dtype, contiguous
  const void* teacher;  // [tokens, vocab] dtype, contiguous
  float* loss;          // [tokens]
  float* log_sums;      // [2, tokens]: log sum exp of student / temperature, then of the teacher's; null: no backward follows
  int64_t tokens, vocab;
  float temperature;
  DType dtype;
};
struct KlBwd {
  const void* student;
  const void* teacher;
  const float* log_sums;
  const float* d_loss;  // [tokens]
  void* d_student;      // [tokens, vocab] dtype
  int64_t tokens, vocab;
  float temperature;
  DType dtype;
};

Support supports_kl_fwd_sm90(const KlFwd&, const Device&);
Support supports_kl_bwd_sm90(const KlBwd&, const Device&);
void kl_fwd_sm90(const KlFwd&, const Launch&);
void kl_bwd_sm90(const KlBwd&, const Launch&);

}  // namespace weft::kernels
