// The two passes of the wgmma attention backward. Both make S and dP again: dq by tiles of queries (3 products a pair), dk and dv by tiles of keys
// (4), so that every sum stays in the registers of one warpgroup and its order is fixed.
//   p = 2^(scale log2(e) q.k - lse2); ds = p (do.v - delta); dq = scale sum_j ds k_j; dk = scale sum_i ds q_i; dv = sum_i p do_i
#pragma once
#include "kernels/attention/band_feed.cuh"

namespace weft::kernels::band {

struct Statistics {  // of queries, by head and tiles of 64 rows of a document (stats_tile): lse2 = log2(e) lse and delta = o . do
  const float2* data;  // [heads][rows]
  int64_t rows;
};
void query_gradients(const AttentionBwd&, const Statistics&, void* list, cudaStream_t);       // dq
void key_gradients(const AttentionBwd&, const Statistics&, void* list, cudaStream_t);  // dk, dv; rows of no document are left alone

// Tensor maps of what a backward pass reads, 64 rows at a time.
struct BwdMaps {
  CUtensorMap q, d_o, k, v;
};
template <int kD, int kV>
BwdMaps bwd_maps(const AttentionBwd& a) {
  const AttentionShape& s = a.s;
  return {tensor_map(a.q, int64_t{s.heads} * kD, s.tokens, 1, s.q_stride, kRows), tensor_map(a.d_o, int64_t{s.heads} * kV, s.tokens, 1, int64_t{s.heads} * kV, kRows),
          tensor_map(a.k, int64_t{s.groups} * kD, s.key_rows, 1, s.k_stride, kRows), tensor_map(a.v, int64_t{s.groups} * kV, s.key_rows, 1, s.v_stride, kRows)};
}

// f.template operator()<kD, kV>() for the dims that the backward is built for.
template <class F>
void by_dims(const AttentionShape& s, const F& f) {
  if (s.dim == 64) f.template operator()<64, 64>();
  else if (s.dim_v == 64) f.template operator()<128, 64>();
  else f.template operator()<128, 128>();
}

}  // namespace weft::kernels::band
