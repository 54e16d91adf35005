// DSA's indexer (DeepSeek-V3.2): scores, the choice of keys, and the loss that trains it (nam56r.md 4).
//   I[t, s] = sum_j gate[t, j] relu(q[t, j] . k[s]), s of t's document up to t.  No [T, T] array is ever stored: queries go in blocks.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/packing.h"
#include "ops/policy.h"

namespace weft::ops {

struct IndexerInputs {
  at::Tensor q_TJD;    // [T, J, Di]
  at::Tensor k_TD;     // [T, Di]
  at::Tensor gate_TJ;  // [T, J] fp32, scales included
  bool relu = true;
};

// [T, top_k] int32: the highest scores' tokens (on a tie the lower one), ascending, -1 in the places left (last). NaN counts as
// +infinity. No gradient. ShapeError.
at::Tensor indexer_topk(const IndexerInputs&, const Packing&, int64_t top_k, const Policy&);

struct IndexerTarget {  // the main attention, taken as it is: no gradient flows to it
  at::Tensor q_THD;      // [T, H, D]
  at::Tensor k_TGD;      // [T, G, D]; an absorbed key row is G = 1
  double scale = 1;
};
// coeff * sum_t w_t sum_s p (log p - log softmax(I)_s) / sum_t w_t over s with p > 0, p[t, :] the mean over heads of softmax(scale q k). Both
// softmaxes run over the keys that t sees (dense, `indices_TK` undefined) or over its chosen ones. weights_T fp32, undefined: ones.
// Returns [] fp32 (fp64), differentiable in q, k, gate. A token without keys or with weight 0 adds nothing.
at::Tensor indexer_loss(const IndexerInputs&, const IndexerTarget&, const at::Tensor& indices_TK, const at::Tensor& weights_T, double coeff, const Packing&,
                        const Policy&);

namespace reference {
at::Tensor indexer_topk(const IndexerInputs&, const Packing&, int64_t top_k);
struct IndexerLoss {
  at::Tensor loss, dq, dk, d_gate;  // gradients for a loss gradient of 1; undefined unless asked for
};
IndexerLoss indexer_loss(const IndexerInputs&, const IndexerTarget&, const at::Tensor& indices_TK, const at::Tensor& weights_T, double coeff, const Packing&,
                         bool with_gradient);
}  // namespace reference
}  // namespace weft::ops
