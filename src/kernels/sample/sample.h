// Sampling of one token a row, in one kernel. In this order, on fp32 logits z:
//   repetition r: tokens seen in prompt or output: z > 0 ? z / r : z * r;  z -= frequency * count + presence * (count > 0)
//   temperature: z /= T;  T == 0: the highest z, the lower index on ties
//   top-k: the k highest, ties to the lower index;  top-p: the shortest run of these, from the highest down, whose mass reaches
//   p * (mass of the k);  min-p: those with prob >= min_p * (highest prob). The highest token always stays.
//   the token is where the running mass, in index order, passes u * (mass of those left)
// Masses are integers of 2^-40 of the highest token's: the result does not depend on threads (deterministic).
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct Sample {
  const void* logits;           // [rows, vocab] dtype, rows `stride` elements apart
  const float* temperature;     // [rows], or null for 1
  const int32_t* top_k;         // [rows], 0 or below: off; or null
  const float* top_p;           // [rows], 1: off; or null
  const float* min_p;           // [rows], 0: off; or null
  const float* repetition;      // [rows], 1: off; or null
  const float* presence;        // [rows], or null
  const float* frequency;       // [rows], or null
  const int32_t* counts;        // [rows, vocab] of tokens in the output so far, or null for none
  const uint8_t* in_prompt;     // [rows, vocab] 1: in the prompt, or null for none
  const float* uniform;         // [rows] u in [0, 1)
  int32_t* token;               // [rows]; -1 (and logprob NaN) where a logit is NaN or +inf, or all are -inf
  float* logprob;               // [rows] of the token under softmax(z) after penalties and temperature (T == 0: as T = 1), before
                                // the cuts; or null
  int64_t rows, stride;
  int32_t vocab;
  DType dtype;
};

Support supports_sample_sm90(const Sample&, const Device&);
void sample_sm90(const Sample&, const Launch&);
Support supports_sample_cpu(const Sample&, const Device&);
void sample_cpu(const Sample&, const Launch&);

}  // namespace weft::kernels
