// n-gram hash embedding (nam56r.md 7): rows of one table by hashes of the last n tokens, one row a table of hashes.
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/packing.h"
#include "ops/policy.h"
#include "ops/weight.h"

namespace weft::ops {

struct NgramTables {  // kept with the checkpoint; all on the device of the tokens
  at::Tensor multipliers;      // [tables, max_order] int64, odd, in [1, 2^31)
  at::Tensor biases;           // [tables] int64 in [0, 2^31)
  at::Tensor primes, offsets;  // [tables] int64: rows of each table, and their prefix sums
  at::Tensor orders;           // [tables] int32 in [1, max_order]
};

// tokens [T] int64 in [0, 2^31). Returns [T, tables] int64, exact. With `packing` history ends at the document's first token; null:
// it crosses documents. ShapeError.
at::Tensor ngram_rows(const at::Tensor& tokens, const NgramTables&, const Packing* packing, const Policy&);
// e [T, tables * dim] of w [sum of primes, dim]; the gradient is embedding's: deterministic, straight into main_grad.
at::Tensor ngram_embedding(const at::Tensor& tokens, const NgramTables&, const Packing* packing, Weight& w, const Policy&);

namespace reference {
at::Tensor ngram_rows(const at::Tensor& tokens, const NgramTables&, const Packing* packing);
}  // namespace reference
}  // namespace weft::ops
