#include "ops/aten.h"

#include "ops/ngram.h"

#include "kernels/ngram/ngram.h"
#include "ops/address.h"
#include "ops/embedding.h"
#include "ops/run.h"

namespace weft::ops {
namespace reference {

// Products stay below 2^62 and xor of non-negative numbers is non-negative: int64 is exact.
at::Tensor ngram_rows(const at::Tensor& tokens, const NgramTables& n, const Packing* packing) {
  const int64_t T = tokens.size(0);
  at::Tensor place = at::arange(T, tokens.options());  // of each token in its document
  if (packing != nullptr && T > 0) {
    const at::Tensor cu = packing->cu_q.to(tokens.options());
    place = place - cu.index_select(0, at::searchsorted(cu, place, false, /*right=*/true) - 1);
  }
  at::Tensor hash = n.biases.unsqueeze(0).expand({T, n.biases.size(0)}).clone();
  for (int64_t j = 0; j < n.multipliers.size(1) && T > 0; ++j) {
    const at::Tensor shifted = at::where(place >= j, tokens.roll(j, 0), at::zeros_like(tokens));
    const at::Tensor product = shifted.unsqueeze(1) * n.multipliers.select(1, j).unsqueeze(0);
    hash = hash.bitwise_xor(product * (n.orders > j));
  }
  return n.offsets + hash.remainder(n.primes);
}

}  // namespace reference

namespace {

constexpr Candidate<kernels::NgramFwd> kRows[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_ngram_fwd_sm90>, nullptr,
     kernels::ngram_fwd_sm90},
#endif
    {"cpu", on_device<kernels::supports_ngram_fwd_cpu>, nullptr,
     kernels::ngram_fwd_cpu},
};

void check_table(const char* what, const at::Tensor& t, std::vector<int64_t> shape, at::ScalarType dtype) {
  check_shape(t.sizes().vec() == shape && t.scalar_type() == dtype && t.is_contiguous(), "ngram_rows", what, describe(t),
              std::to_string(shape[0]) + " tables, contiguous " + name(dtype_of(dtype)));
}

// Checked; nothing is asked for yet.
kernels::NgramFwd arguments(const at::Tensor& tokens, const NgramTables& n, const Packing* packing) {
  check_shape(tokens.dim() == 1 && tokens.scalar_type() == at::kLong && tokens.is_contiguous(), "ngram_rows", "tokens", describe(tokens),
              "[T] i64 contiguous");
  check_shape(n.multipliers.dim() == 2 && n.multipliers.size(0) > 0 && n.multipliers.size(1) > 0, "ngram_rows", "multipliers",
              describe(n.multipliers), "[tables, max_order]");
  const int64_t tables = n.multipliers.size(0);
  check_table("multipliers", n.multipliers, n.multipliers.sizes().vec(), at::kLong);
  check_table("biases", n.biases, {tables}, at::kLong), check_table("primes", n.primes, {tables}, at::kLong);
  check_table("offsets", n.offsets, {tables}, at::kLong), check_table("orders", n.orders, {tables}, at::kInt);
  check_shape(packing == nullptr || packing->tokens() == tokens.size(0), "ngram_rows", "packing",
              packing == nullptr ? "none" : std::to_string(packing->tokens()) + " tokens", std::to_string(tokens.size(0)) + " tokens");
  return {address_of<int64_t>(tokens), packing != nullptr ? address_of<int32_t>(packing->cu_q) : nullptr,
          address_of<int64_t>(n.multipliers), address_of<int64_t>(n.biases), address_of<int64_t>(n.primes),
          address_of<int64_t>(n.offsets), address_of<int32_t>(n.orders), nullptr, nullptr, nullptr, tokens.size(0),
          packing != nullptr ? static_cast<int32_t>(packing->documents()) : 0, static_cast<int32_t>(tables),
          static_cast<int32_t>(n.multipliers.size(1)), 1, DType::kF32, 0};
}

}  // namespace

at::Tensor ngram_rows(const at::Tensor& tokens, const NgramTables& n, const Packing* packing, const Policy& policy) {
  kernels::NgramFwd a = arguments(tokens, n, packing);
  const auto* c = select<kernels::NgramFwd>("ngram_rows", kRows, a, policy);
  if (c == nullptr) return reference::ngram_rows(tokens, n, packing);
  const at::Tensor rows = at::empty({a.tokens, a.tables}, tokens.options());
  a.rows = address_of<int64_t>(rows);
  run(*c, a, tokens);
  return rows;
}

// On a GPU hashes and rows in one pass; the rows' numbers are kept for the backward alone.
at::Tensor ngram_embedding(const at::Tensor& tokens, const NgramTables& n, const Packing* packing, Weight& w, const Policy& policy) {
  if (tokens.is_cuda() && (w.value.scalar_type() == at::kFloat || w.value.scalar_type() == at::kBFloat16)) {
    check_embedding_table(w.value);
    kernels::NgramFwd a = arguments(tokens, n, packing);
    a.table = w.value.data_ptr(), a.dim = static_cast<int32_t>(w.value.size(1)), a.dtype = dtype_of(w.value), a.table_rows = w.value.size(0);
    if (const auto* c = select<kernels::NgramFwd>("ngram_rows", kRows, a, policy)) {
      const at::Tensor rows = w.wants_grad() && at::GradMode::is_enabled() ? at::empty({a.tokens, a.tables}, tokens.options()) : at::Tensor();
      const at::Tensor e = at::empty({a.tokens, a.tables * a.dim}, w.value.options().requires_grad(false));
      a.rows = rows.defined() ? address_of<int64_t>(rows) : nullptr, a.e = e.data_ptr();
      run(*c, a, tokens);
      return rows.defined() ? embedding_gradient(e, rows, w, policy) : e;
    }
  }
  const at::Tensor rows = ngram_rows(tokens, n, packing, policy);
  return embedding(rows, w, policy).view({tokens.size(0), rows.size(1) * w.value.size(1)});
}

}  // namespace weft::ops
