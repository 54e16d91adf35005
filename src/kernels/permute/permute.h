// Token permutation of a mixture of experts. A slot is (token, j), flat index token * k + j.
//   plan:      rows expert by expert, inside an expert in slot order; each expert's rows padded up to a multiple of `align`
//   permute:   y[row, :] = x[token of row, :] (zeros in padding rows), row_probs[row] = probs[slot of row] (0 in padding)
//   unpermute: y[t, :] = sum_j p * x[row_of_slot[t, j], :] in the order of j, in fp32; p = probs[t, j], or 1 where probs is null
// permute's backward is unpermute without probs; unpermute's is unpermute_bwd. All deterministic. Bound: memory.
// `max_rows` = tokens * k + experts * (align - 1) always suffices; rows past offsets[experts] are written as zeros by permute.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct PermutePlan {
  const int32_t* indices;  // [tokens, k] expert of each slot, -1: dropped
  int32_t* counts;         // [experts] rows without padding, written
  int32_t* offsets;        // [experts + 1] first row of each expert, padding included, written
  int32_t* row_of_slot;    // [tokens, k], -1: dropped, written
  int32_t* slot_of_row;    // [max_rows], -1: padding, written
  int64_t tokens, max_rows;
  int32_t k, experts, align;
};

struct PermuteFwd {
  const void* x;               // [tokens, dim] dtype
  const float* probs;          // [tokens, k], or null
  const int32_t* slot_of_row;  // [max_rows]
  void* y;                     // [max_rows, dim] dtype
  float* row_probs;            // [max_rows]; null exactly when probs is null
  int64_t max_rows;
  int32_t k, dim;
  DType dtype;
  const int32_t* row_of_slot = nullptr;  // [tokens, k]; given with tokens, x is read once a token instead of once a row
  int64_t tokens = 0;
};

struct UnpermuteFwd {
  const void* x;               // [max_rows, dim] dtype
  const float* probs;          // [tokens, k], or null
  const int32_t* row_of_slot;  // [tokens, k]
  void* y;                     // [tokens, dim] dtype
  int64_t tokens;
  int32_t k, dim;
  DType dtype;
};

// dx[row] = p * dy[token] (zeros in padding rows); dprobs[t, j] = <dy[t], x[row]> (0 for dropped slots).
struct UnpermuteBwd {
  const void* dy;              // [tokens, dim] dtype
  const void* x;               // [max_rows, dim] dtype; may be null when dprobs is null
  const float* probs;          // [tokens, k], or null
  const int32_t* slot_of_row;  // [max_rows]
  void* dx;                    // [max_rows, dim] dtype, may alias x
  float* dprobs;               // [tokens, k]; or null. Dropped slots are not written: zero it before
  int64_t max_rows;
  int32_t k, dim;
  DType dtype;
  const int32_t* row_of_slot = nullptr;  // [tokens, k]; given with tokens, dy is read once a token instead of once a row
  int64_t tokens = 0;
};

Support supports_permute_plan_sm90(const PermutePlan&, const Device&);
size_t workspace_permute_plan_sm90(const PermutePlan&);
void permute_plan_sm90(const PermutePlan&, const Launch&);
Support supports_permute_fwd_sm90(const PermuteFwd&, const Device&);
void permute_fwd_sm90(const PermuteFwd&, const Launch&);
Support supports_unpermute_fwd_sm90(const UnpermuteFwd&, const Device&);
void unpermute_fwd_sm90(const UnpermuteFwd&, const Launch&);
Support supports_unpermute_bwd_sm90(const UnpermuteBwd&, const Device&);
void unpermute_bwd_sm90(const UnpermuteBwd&, const Launch&);

Support supports_permute_plan_cpu(const PermutePlan&, const Device&);
Support supports_permute_fwd_cpu(const PermuteFwd&, const Device&);
Support supports_unpermute_fwd_cpu(const UnpermuteFwd&, const Device&);
Support supports_unpermute_bwd_cpu(const UnpermuteBwd&, const Device&);
void permute_plan_cpu(const PermutePlan&, const Launch&);
void permute_fwd_cpu(const PermuteFwd&, const Launch&);
void unpermute_fwd_cpu(const UnpermuteFwd&, const Launch&);
void unpermute_bwd_cpu(const UnpermuteBwd&, const Launch&);

}  // namespace weft::kernels
