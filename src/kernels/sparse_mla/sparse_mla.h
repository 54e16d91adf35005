// Absorbed MLA on a set of keys per token (nam56r.md 3.3-3.4): one shared key row of width Dqk, its first Dv values are the value.
//   s_{t,h,j} = scale q_{t,h} . kv_{i}, i = indices[t, j]; masked where i < 0, i > t or i before the start of t's document
//   o_{t,h} = sum_j softmax_j(s)_j kv_i[:Dv]     lse_{t,h} = log2 sum_j 2^(s_j log2 e)
// Indices of a row are distinct where they are >= 0. A token with no valid key gives o = 0, lse = -infinity and no gradient.
// q and kv may be E4M3 codes (3.5): half the bytes to keep and to gather. A value is code * scale, rounded to bf16 as it enters shared
// memory (no tensor of values is ever written); products, o and gradients are those of the bf16 form.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct SparseMlaScales {          // of codes; null for bf16
  const float *q = nullptr, *kv = nullptr;  // [1], or [T] each when `rows`
  bool rows = false;
};

struct SparseMlaFwd {
  const void* q;              // [T, H, Dqk] `stored`, contiguous
  const void* kv;             // [T, Dqk] `stored`, contiguous
  const int32_t* indices;     // [T, K], token numbers of the row
  const int32_t* cu_seqlens;  // [documents + 1] on the device
  void* o;                    // [T, H, Dv] bf16
  float* lse;                 // [T, H], base 2
  int64_t tokens, documents;
  int32_t heads, dim_qk, dim_v, top_k;
  float scale;
  DType dtype;                // of o
  DType stored = DType::kBf16;  // of q and kv: bf16 or f8e4m3
  SparseMlaScales scales = {};
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
  DType stored = DType::kBf16;
  SparseMlaScales scales = {};
};

Support supports_sparse_mla_fwd_sm90(const SparseMlaFwd&, const Device&);
Support supports_sparse_mla_bwd_sm90(const SparseMlaBwd&, const Device&);
size_t workspace_sparse_mla_bwd_sm90(const SparseMlaBwd&);
void sparse_mla_fwd_sm90(const SparseMlaFwd&, const Launch&);
void sparse_mla_bwd_sm90(const SparseMlaBwd&, const Launch&);

}  // namespace weft::kernels
