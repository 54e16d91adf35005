// Softmax attention over packed documents: causal bottom-right, windows, grouped heads, sinks, dropout (kernels/attention/attention.h has
// the formulas). Keys may outnumber queries: decoding and chunked prefill pass each document's whole prefix.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/packing.h"
#include "ops/policy.h"
#include "ops/weight.h"

namespace weft::ops {

struct AttentionOptions {
  bool causal = true;        // no key after the query's own
  int32_t window_left = -1;  // keys before its own that a query sees; -1: all
  int32_t window_right = -1; // keys after; 0 where causal
  double scale = 0;          // 0: 1 / sqrt(dim)
  Weight* sinks = nullptr;   // [heads]: a logit that joins the sum but has no value (gpt-oss)
  double dropout = 0;
  uint64_t seed = 0;         // of the dropout: one a layer and micro-batch; element (row of q, row of k, head) is its counter
  bool max_logit = false;    // fill AttentionOut::max_logit_H
  at::Tensor key_starts;     // [documents] int32: row of k where a document's keys begin (a cache with room); undefined: packed by kv_lens
};

struct AttentionOut {
  at::Tensor o_THV;        // q's dtype
  at::Tensor lse_TH;       // natural log, fp32 (fp64 for fp64); no gradient flows through it
  at::Tensor max_logit_H;  // fp32, largest scaled logit of each head, for QK-clip; undefined unless asked for
};

// q_THD [T, heads, dim], k_SGD [S, groups, dim], v_SGV [S, groups, dim_v]; heads and dims contiguous, tokens may be strided.
// ShapeError if heads % groups, dims, dtypes or lengths do not fit.
AttentionOut attention(const at::Tensor& q_THD, const at::Tensor& k_SGD, const at::Tensor& v_SGV, const Packing&, const AttentionOptions&,
                       const Policy&);

struct AttentionGrads {
  at::Tensor dq, dk, dv, d_sinks;  // d_sinks [heads] in the wide dtype, undefined without sinks
};
// The backward on its own, for callers that merge partial results (context parallel): lse and o are those of all keys.
AttentionGrads attention_bwd(const at::Tensor& d_o, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& o,
                             const at::Tensor& lse, const Packing&, const AttentionOptions&, const Policy&);

// QK-clip (training.md C11): what to multiply query and key rows of each head with, gamma = min(1, threshold / max_logit); 1 where max <= 0.
at::Tensor qk_clip_gamma(const at::Tensor& max_logit_H, double threshold);

namespace reference {
AttentionOut attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Packing&, const AttentionOptions&);
AttentionGrads attention_bwd(const at::Tensor& d_o, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& o,
                             const at::Tensor& lse, const Packing&, const AttentionOptions&);
}  // namespace reference

// On the host: lengths of each document's keys, and where they begin. Copies from the device only what the packing does not hold.
std::vector<int32_t> host_kv_lens(const Packing&);
std::vector<int32_t> host_key_starts(const Packing&, const AttentionOptions&);

}  // namespace weft::ops
