// DSA indexer (DeepSeek-V3.2): for token t of a document that starts at s0, over s in [s0, t]:
//   I[t, s] = sum_j gate[t, j] relu(q[t, j] . k[s])   fp32          indices[t] = the top_k of I[t, :]
// Selection: higher score first, on a tie the lower index; NaN counts as +infinity, so that it shows. No [T, T] array is stored.
// indices are token numbers of the row of packed documents, ascending within a row, -1 in the places that are left (last). Deterministic.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct IndexerTopK {
  const void* q;              // [T, J, Di] bf16, contiguous
  const void* k;              // [T, Di] bf16, contiguous
  const float* gate;          // [T, J], scales included
  const int32_t* cu_seqlens;  // [documents + 1] on the device
  int32_t* indices;           // [T, top_k]
  int64_t tokens, documents;
  int32_t heads, head_dim, top_k;  // J, Di
  DType dtype;
};

Support supports_indexer_topk_sm90(const IndexerTopK&, const Device&);
size_t workspace_indexer_topk_sm90(const IndexerTopK&);
void indexer_topk_sm90(const IndexerTopK&, const Launch&);

}  // namespace weft::kernels
