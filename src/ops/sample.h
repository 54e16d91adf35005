// One token a row from logits: penalties, temperature, top-k, top-p, min-p, in this order (kernels/sample/sample.h has the exact rule).
// The random number of a row is the caller's, from a counter: the same request draws the same tokens in any batch.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "ops/policy.h"

namespace weft::ops {

struct SampleRow {
  double temperature = 1, top_p = 1, min_p = 0;  // temperature 0: the highest logit; top_p 1, min_p 0: off
  int64_t top_k = 0;                             // 0: off
  double uniform = 0;                            // in [0, 1)
  double repetition = 1, presence = 0, frequency = 0;
};
struct SampleOptions {
  std::vector<SampleRow> rows;  // one a row of the logits
  at::Tensor counts;            // [rows, V] int32: tokens of the output so far; needed by the penalties
  at::Tensor in_prompt;         // [rows, V] u8: 1 where the prompt has the token; or undefined
};
struct Sampled {
  at::Tensor token;    // [rows] int32; -1 where every logit is NaN or -inf
  at::Tensor logprob;  // [rows] fp32, under the softmax after penalties and temperature, before the cuts
};

// logits [rows, V] f32 or bf16, rows evenly apart. ShapeError for wrong shapes or settings outside their ranges.
Sampled sample(const at::Tensor& logits, const SampleOptions&, const Policy&);

namespace reference {
Sampled sample(const at::Tensor& logits, const SampleOptions&);
}  // namespace reference
}  // namespace weft::ops
