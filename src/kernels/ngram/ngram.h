// n-gram hash embedding: for token i and table t of order n,
//   H = xor_{j<n} (multipliers[t, j] * tok_j[i]) xor biases[t]  (unsigned 64 bit),  row = offsets[t] + H mod primes[t]
//   tok_j[i] = ids[i - j] where token i - j lies in the same document (the same row where cu is null), else 0
//   e[i] = concat_t table[row_t[i]]
// Rows are exact integers. The gradient of the table is embedding_bwd over rows: dy = de as [tokens * tables, dim], ids = rows.
#pragma once
#include "kernels/launch.h"

namespace weft::kernels {

struct NgramFwd {
  const int64_t* ids;          // [tokens]
  const int32_t* cu;           // [num_documents + 1] first tokens of documents, or null: one document
  const int64_t* multipliers;  // [tables, max_order], each in [1, 2^31) and odd
  const int64_t* biases;       // [tables], each in [0, 2^31)
  const int64_t* primes;       // [tables]
  const int64_t* offsets;      // [tables]
  const int32_t* orders;       // [tables], each in [1, max_order]
  const void* table;           // [sum of primes, dim] dtype, or null: only rows are wanted
  int64_t* rows;               // [tokens, tables], or null
  void* e;                     // [tokens, tables * dim] dtype; null exactly when table is null
  int64_t tokens;
  int32_t num_documents, tables, max_order, dim;
  DType dtype;
  int64_t table_rows;  // of the table: a row beyond gives zeros
};

Support supports_ngram_fwd_sm90(const NgramFwd&, const Device&);
void ngram_fwd_sm90(const NgramFwd&, const Launch&);
Support supports_ngram_fwd_cpu(const NgramFwd&, const Device&);
void ngram_fwd_cpu(const NgramFwd&, const Launch&);

}  // namespace weft::kernels
