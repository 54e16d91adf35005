// How many tokens linear cross-entropy takes at once on a GPU when it makes its gradients in the forward: by count, under a limit of memory.
#pragma once
#include <cstdint>

namespace weft::ops {

struct LossShape {
  int64_t tokens, vocab, dim;
  int64_t element = 2;       // bytes of a logit and of an element of x
  int64_t processors = 132;  // of the GPU
};

constexpr int64_t kLossBytes = 1'000'000'000;  // the default limit

// Bytes beyond dx and dw while `rows` tokens are worked on: their logits, the copy of x whose ignored rows are zero, statistics of every token, the
// product's workspace.
int64_t loss_extra_bytes(const LossShape&, int64_t rows);

// Rows of a chunk, a multiple of 128, that take the least time by this count among those that fit `most_bytes` (128 where none does): rounds of
// 128 x 256 tiles of dx over the processors, and one reading and writing of dw (fp32) a chunk. The other two products have tiles enough to fill
// every round.
int64_t loss_chunk_rows(const LossShape&, int64_t most_bytes = kLossBytes);

}  // namespace weft::ops
