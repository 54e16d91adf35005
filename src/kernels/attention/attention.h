// Softmax attention over packed documents, grouped query heads, with recompute in the backward from the log-sum-exp
// (Dao 2023, FlashAttention-2). Query i of a document (its last query meets its last key: bottom-right) sees key j where
//   i' - left <= j <= i' + right,   i' = i + keys - queries;   -1 is no bound. Causal is right = 0.
//   s = scale q.k;  p = exp(s - lse), lse = ln(sum_j exp(s_j) [+ exp(sink)]);  o = sum_j p_j v_j
// Dropout multiplies p by keep / (1 - dropout), keep from a counter (`attention_keep`), so that any split draws the same.
// Bound: flops, 4 d per visible pair and head forward, 10 d backward.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct AttentionShape {
  const int32_t* cu_q;         // [documents + 1] device
  const int32_t* kv_lens;      // [documents] device
  const int32_t* k_starts;     // [documents] device: row of k and v where a document's keys begin
  const int32_t* host_cu_q;    // the same three on the host; a CUDA call may leave the last two null: not known there
  const int32_t* host_kv_lens;
  const int32_t* host_k_starts;
  int64_t tokens, key_rows;    // rows of q; rows of k and v
  int64_t q_stride, k_stride, v_stride;  // elements between tokens; heads and dims contiguous
  int32_t documents, heads, groups, dim, dim_v;  // groups divides heads: head h reads key head h / (heads / groups)
  int32_t max_q, max_kv;
  int32_t left, right;
  float scale, dropout;
  uint64_t seed;               // of the dropout
  DType dtype;                 // of q, k, v, o and their gradients
};

struct AttentionFwd {
  AttentionShape s;
  const void *q, *k, *v;  // [tokens, heads, dim], [key_rows, groups, dim], [key_rows, groups, dim_v]
  const float* sinks;     // [heads] or null
  void* o;                // [tokens, heads, dim_v] contiguous; 0 for a query that sees no key
  float* lse;             // [tokens, heads], natural log; -inf for a query that sees nothing
  float* max_logit;       // [heads]: largest s of any pair, for QK-clip; -inf without pairs; or null
};

struct AttentionBwd {
  AttentionShape s;
  const void *q, *k, *v, *o, *d_o;  // o and d_o contiguous
  const float *lse, *sinks;
  void *dq, *dk, *dv;     // contiguous, overwritten; key rows of no document get 0
  float* d_sinks;         // [heads], added to; or null
  bool deterministic;     // the same bits in every run
};

// Whether pair (query row, key row) of a head survives dropout: a 32-bit hash of the counter against dropout * 2^32.
constexpr uint32_t attention_hash(uint32_t seed, uint32_t query, uint32_t key) {
  uint32_t x = seed ^ (query * 0x9e3779b1u) ^ (key * 0x85ebca77u + 0x165667b1u);
  x ^= x >> 16, x *= 0x7feb352du, x ^= x >> 15, x *= 0x846ca68bu, x ^= x >> 16;
  return x;
}
constexpr uint32_t attention_head_seed(uint64_t seed, int32_t head) {
  return attention_hash(static_cast<uint32_t>(seed) ^ static_cast<uint32_t>(seed >> 32) * 0xc2b2ae3du, static_cast<uint32_t>(head), 0x27d4eb2fu);
}

Support supports_attention_fwd_cpu(const AttentionFwd&, const Device&);
Support supports_attention_bwd_cpu(const AttentionBwd&, const Device&);
size_t workspace_attention_fwd_cpu(const AttentionFwd&);
size_t workspace_attention_bwd_cpu(const AttentionBwd&);
void attention_fwd_cpu(const AttentionFwd&, const Launch&);
void attention_bwd_cpu(const AttentionBwd&, const Launch&);

// cuDNN: bf16 and f16, no dropout. The first call for a shape compiles its plan; later calls enqueue and may be captured.
Support supports_attention_fwd_cudnn(const AttentionFwd&, const Device&);
Support supports_attention_bwd_cudnn(const AttentionBwd&, const Device&);
Support limits_attention_fwd_cudnn(const AttentionFwd&, const Device&);  // the documented ones: no plan is built, which takes a second a shape
Support limits_attention_bwd_cudnn(const AttentionBwd&, const Device&);
size_t workspace_attention_fwd_cudnn(const AttentionFwd&);
size_t workspace_attention_bwd_cudnn(const AttentionBwd&);
void attention_fwd_cudnn(const AttentionFwd&, const Launch&);
void attention_bwd_cudnn(const AttentionBwd&, const Launch&);

// Own, deterministic, wgmma: bf16 of dims 64, 128, 128/64 (and 192/128 forward), every option but dropout. Made for windows and packed documents:
// products are taken in tiles of 64 queries by 64 keys, and only in those that hold a pair that counts.
Support supports_attention_fwd_wgmma(const AttentionFwd&, const Device&);
size_t workspace_attention_fwd_wgmma(const AttentionFwd&);
void attention_fwd_wgmma(const AttentionFwd&, const Launch&);
Support supports_attention_bwd_wgmma(const AttentionBwd&, const Device&);
size_t workspace_attention_bwd_wgmma(const AttentionBwd&);
void attention_bwd_wgmma(const AttentionBwd&, const Launch&);

// Own kernels, deterministic. General: f32 and bf16, dims to 256, every option; sums on the plain fp32 units. Decode: few queries a document;
// decode_mma the same on tensor cores, bf16 of dims 64, 128, 256, 128/64, 192/128.
Support supports_attention_fwd_sm90(const AttentionFwd&, const Device&);
Support supports_attention_bwd_sm90(const AttentionBwd&, const Device&);
Support supports_attention_decode_sm90(const AttentionFwd&, const Device&);
Support supports_attention_decode_mma(const AttentionFwd&, const Device&);
size_t workspace_attention_fwd_sm90(const AttentionFwd&);
size_t workspace_attention_bwd_sm90(const AttentionBwd&);
size_t workspace_attention_decode_sm90(const AttentionFwd&);
size_t workspace_attention_decode_mma(const AttentionFwd&);
void attention_fwd_sm90(const AttentionFwd&, const Launch&);
void attention_bwd_sm90(const AttentionBwd&, const Launch&);
void attention_decode_sm90(const AttentionFwd&, const Launch&);
void attention_decode_mma(const AttentionFwd&, const Launch&);

}  // namespace weft::kernels
