// The loss that trains DSA's indexer, with its gradients in one go (nam56r.md 4.3). Per token t with keys s (of its document up to t; or
// those of its indices that are, each once), x_js = q_j . k_s, f = relu or identity:
//   I_s = sum_j gate_j f(x_js)     p_s = mean over heads of softmax_s(scale target_q_h . target_k_s)     w = coeff weight_t / sum of weights
//   loss_t = w sum_{s: p > 0} p_s (log p_s - log softmax(I)_s)      dI = w (softmax(I) - p)
// Scores live in shared memory, a token's row at a time. The forward is deterministic; dk is summed by atomics, in no fixed order.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct IndexerLoss {
  const void* q;              // [T, J, Di] dtype, contiguous, as all here
  const void* k;              // [T, Di] dtype
  const float* gate;          // [T, J]
  const void* target_q;       // [T, H, D] target_dtype
  const void* target_k;       // [T, G, D] target_dtype
  const int32_t* indices;     // [T, top_k]; null: dense
  const float* weights;       // [T] or null: ones
  const float* total_weight;  // [1] on the device
  const int32_t* cu_seqlens;  // [documents + 1] on the device
  float* loss;                // [T]
  float* dq;                  // [T, J, Di]; null: no gradients
  float* dk;                  // [T, Di], added to
  float* d_gate;              // [T, J]
  int64_t tokens, documents;
  int32_t heads, dim, target_heads, target_groups, target_dim, top_k, longest;  // longest: tokens of the longest document
  float scale, coeff;
  bool relu;
  DType dtype, target_dtype;
};

Support supports_indexer_loss_sm90(const IndexerLoss&, const Device&);
void indexer_loss_sm90(const IndexerLoss&, const Launch&);

}  // namespace weft::kernels
