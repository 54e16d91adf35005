// Rows of a table: y[t, :] = table[ids[t] - vocab_begin, :], zeros for ids outside [vocab_begin, vocab_begin + vocab)
// (a vocabulary cut over ranks). Backward: dtable[id - vocab_begin, :] += sum over t with that id of dy[t, :], in the order of t
// within fixed chunks of the sorted ids, in fp32 (deterministic).
// Bound: memory. Forward moves 2 * tokens * dim elements; backward reads dy once, reads and writes the rows that occur.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct EmbeddingFwd {
  const void* table;   // [vocab, dim] dtype, contiguous
  const int64_t* ids;  // [tokens]
  void* y;             // [tokens, dim] dtype
  int64_t tokens, vocab_begin, vocab;
  int32_t dim;
  DType dtype;
};

struct EmbeddingBwd {
  const void* dy;      // [tokens, dim] dtype
  const int64_t* ids;  // [tokens]
  float* dtable;       // [vocab, dim] fp32, added to
  int64_t tokens, vocab_begin, vocab;
  int32_t dim;
  DType dtype;
};

Support supports_embedding_fwd_sm90(const EmbeddingFwd&, const Device&);
Support supports_embedding_bwd_sm90(const EmbeddingBwd&, const Device&);
size_t workspace_embedding_bwd_sm90(const EmbeddingBwd&);
void embedding_fwd_sm90(const EmbeddingFwd&, const Launch&);
void embedding_bwd_sm90(const EmbeddingBwd&, const Launch&);
Support supports_embedding_fwd_cpu(const EmbeddingFwd&, const Device&);
Support supports_embedding_bwd_cpu(const EmbeddingBwd&, const Device&);
void embedding_fwd_cpu(const EmbeddingFwd&, const Launch&);
void embedding_bwd_cpu(const EmbeddingBwd&, const Launch&);

}  // namespace weft::kernels
