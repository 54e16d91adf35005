// Absorbed multi-head latent attention on a set of keys per token (kernels/sparse_mla/sparse_mla.h has the formulas), and the per-head
// projections that absorb the up-projection into queries and outputs (nam56r.md 3.3).
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/packing.h"
#include "ops/policy.h"
#include "ops/weight.h"

namespace weft::ops {

// One key row for all heads; its first dim_v values are the value. A type of its own: keys and values of single heads do not pass for it.
struct AbsorbedKv {
  at::Tensor kv_TD;  // [T, Dqk]
  int64_t dim_v;
};
struct SparseMlaOut {
  at::Tensor o_THV;   // q's dtype
  at::Tensor lse_TH;  // base 2, fp32 (fp64 for fp64); no gradient
};
// How q and kv are kept, and read by the kernels (nam56r.md 3.5): as they are, or as E4M3 codes with a scale of each tensor or of each
// token's row. The codes stand for them in the whole op; the gradients pass the rounding by (straight through).
enum class SparseMlaStorage { kSame, kF8Tensor, kF8Row };
// q_THD [T, H, Dqk]; indices_TK int32: token numbers of the row, -1 for none; later tokens and other documents are masked. Indices >= 0 of a
// row are distinct (else undefined). A token without a valid key gives 0. ShapeError.
SparseMlaOut sparse_mla(const at::Tensor& q_THD, const AbsorbedKv&, const at::Tensor& indices_TK, const Packing&, double scale, const Policy&,
                        SparseMlaStorage = SparseMlaStorage::kSame);

// With w seen as [H, rows / H, C], and its rows [first, first + n) of each head taken as W_h [n, C]:
//   absorb: x [T, H, n] -> y_h = x_h W_h [T, H, C];   expand: x [T, H, C] -> y_h = x_h W_h^T [T, H, n]
struct HeadRows {
  int64_t heads, first, count;
};
at::Tensor absorb(const at::Tensor& x_THn, Weight& w, const HeadRows&, const Policy&);
at::Tensor expand(const at::Tensor& x_THC, Weight& w, const HeadRows&, const Policy&);

namespace reference {
SparseMlaOut sparse_mla(const at::Tensor& q, const AbsorbedKv&, const at::Tensor& indices, const Packing&, double scale);
std::pair<at::Tensor, at::Tensor> sparse_mla_bwd(const at::Tensor& d_o, const at::Tensor& q, const AbsorbedKv&, const at::Tensor& indices, const at::Tensor& o,
                                                 const at::Tensor& lse, const Packing&, double scale);  // (dq, dkv)
}
}  // namespace weft::ops
