// Absorbed MLA on a set of keys per token (nam56r.md 3.3-3.4): one shared key row of width Dqk, its first Dv values are the value.
//   s_{t,h,j} = scale q_{t,h} . kv_{i}, i = indices[t, j]; masked where i < 0, i > t or i before the start of t's document
//   o_{t,h} = sum_j softmax_j(s)_j kv_i[:Dv]     lse_{t,h} = log2 sum_j 2^(s_j log2 e)
// Indices of a row are distinct where they are >= 0. A token with no valid key gives o = 0, lse = -infinity and no gradient.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct SparseMlaFwd {
  const void* q;              // [T, H, Dqk] bf16, contiguous
  const void* kv;             // [T, Dqk] bf16, contiguous
  const int32_t* indices;     // [T, K], token numbers of the row
  const int32_t* cu_seqlens;  // [documents + 1] on the device
  void* o;                    // [T, H, Dv] bf16
  float* lse;                 // [T, H], base 2
  int64_t tokens, documents;
  int32_t heads, dim_qk, dim_v, top_k;
  float scale;
  DType dtype;
};

struct SparseMlaBwd {
  const void* q;
  const void* kv;
  const int32_t* indices;
  const int32_t* cu_seqlens;
  const void* o;     // [T, H, Dv] bf16
  const void* d_o;   // [T, H, Dv] bf16
  const float* lse;  // [T, H]
  void* dq;          // [T, H, Dqk] bf16
  void* dkv;         // [T, Dqk] bf16
  int64_t tokens, documents;
  int32_t heads, dim_qk, dim_v, top_k;
  float scale;
  DType dtype;
  bool deterministic;  // dkv summed in token order (slower) instead of by fp32 atomics
};

Support supports_sparse_mla_fwd_sm90(const SparseMlaFwd&, const Device&);
Support supports_sparse_mla_bwd_sm90(const SparseMlaBwd&, const Device&);
size_t workspace_sparse_mla_bwd_sm90(const SparseMlaBwd&);
void sparse_mla_fwd_sm90(const SparseMlaFwd&, const Launch&);
void sparse_mla_bwd_sm90(const SparseMlaBwd&, const Launch&);

}  // namespace weft::kernels
