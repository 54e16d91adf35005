// Attention's operands from the fused projection, in one node: split q | k | v, RMSNorm of each head of q and k (Henry et al.
// 2020), rotary positions on the pairs (i, i + R/2) (Su et al. 2021).
#pragma once
#include <ATen/core/Tensor.h>

#include "ops/policy.h"
#include "ops/rope_table.h"
#include "ops/weight.h"

namespace weft::ops {

struct Qkv { at::Tensor q_THd, k_TGd, v_TGd; };  // contiguous, of the projection's dtype

struct QkvOptions {
  int64_t heads, kv_heads;      // H, G
  Weight* q_norm = nullptr;     // [d]; both norms or none
  Weight* k_norm = nullptr;
  double eps = 1e-5;
  RopeTable rope = {};          // its dims turn; undefined: no rotary positions
};

// qkv [T, (H + 2G) d]; positions_T int32, read when there is a table. ShapeError on any mismatch.
Qkv qkv(const at::Tensor& qkv, const at::Tensor& positions_T, const QkvOptions&, const Policy&);

}  // namespace weft::ops
