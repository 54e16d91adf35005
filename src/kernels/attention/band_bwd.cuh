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

// Streamed tiles that others of the block work on.
template <class S>
__device__ __forceinline__ void pass(typename S::Smem& sm, Ring<S::kStages>& ring, int tiles) {
#pragma unroll 1
  for (int j = 0; j < tiles; ++j) {
    barrier_wait(&sm.a_full[ring.stage], ring.phase);
    warp_arrive(&sm.a_free[ring.stage]);
    barrier_wait(&sm.b_full[ring.stage], ring.phase);
    warp_arrive(&sm.b_free[ring.stage]);
    ring.next();
  }
}

}  // namespace weft::kernels::band
