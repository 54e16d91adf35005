// dq of the wgmma attention backward. A warpgroup keeps 64 queries (operands in registers), their do (in shared memory) and dq (sums in
// registers) while tiles of 64 keys go by. By count, a tile at d 128: wgmma 768 clocks, exponentials 256; the product with keys is in the
// tensor cores together with the next tile's S and dP.
#include "kernels/attention/band_bwd.cuh"

namespace weft::kernels::band {
namespace {

template <int kD, int kV>
struct Queries {
  using S = Shape<kD, kV, kD, kV, 2, true, false, false>;
  // Queries as operands in registers cost less shared memory traffic, but at d 64 ptxas (13.0) gives q's registers to ds, though q lives on in the loop.
  static constexpr bool kFromShared = kD == 64;
  const AttentionBwd& args;
  const Sides& sides;
  const Statistics& statistics;
  typename S::Smem& sm;
  const int w;

  __device__ __forceinline__ void run() const {
    const float scale = args.s.scale * kLog2E;
    const int lane = lane_id(), row = (warp_id() & 3) * 16 + (lane >> 2), heads = args.s.heads;
    float dq[kD / 2], s[32], dp[32];
    uint32_t q[kD / 16][4], ds[4][4];
#pragma unroll
    for (int i = 0; i < kD / 2; ++i) dq[i] = 0;
    Ring<S::kStages> ring;
    int loads = 0;
    for (Ring<S::kItems> slot;; slot.next()) {
      barrier_wait(&sm.item_full[slot.stage], slot.phase);
      const Item it = sm.item[slot.stage];
      barrier_arrive(&sm.item_free[slot.stage]);
      if (it.tiles < 0) break;
      const Range mine = own_tiles(it, sides, w);
      const int rows = it.rows - w * kRows;
      bf16* out = static_cast<bf16*>(args.dq) + (static_cast<int64_t>(it.row + w * kRows) * heads + it.head) * kD;
      const int64_t stride = static_cast<int64_t>(heads) * kD;
      if (mine.empty()) {
        if (rows > 0) store_zeros<kD>(out, stride, rows);
        pass<S>(sm, ring, it.tiles);
        continue;
      }
      const float2* from = statistics.data + it.head * statistics.rows + (it.stats + w) * kRows + row;
      const float2 stats[2] = {from[0], from[8]};
      pass<S>(sm, ring, mine.begin);
      barrier_wait(&sm.resident_full[w], loads & 1);
      ++loads;
      if constexpr (!kFromShared) read_rows<kD>(q, sm.resident[w]);
      const bf16* d_o = sm.resident[w] + kD / 64 * 4096;
      const int position = it.position + w * kRows;
      int before = 0;
      wgmma_wait<0>();  // nothing is open: said for the compiler
      for (int j = mine.begin; j < mine.end; ++j) {
        const bf16 *keys = sm.tile[ring.stage], *values = keys + kD / 64 * 4096;
        barrier_wait(&sm.a_full[ring.stage], ring.phase);
        barrier_wait(&sm.b_full[ring.stage], ring.phase);
        wgmma_fence();
        if constexpr (kFromShared) multiply_rows<kD>(s, sm.resident[w], keys);
        else multiply_rows<kD>(s, q, keys);
        wgmma_commit();
        multiply_rows<kV>(dp, d_o, values);
        wgmma_commit();
        wgmma_wait<1>();  // of dq with the tile before, too
        wgmma_settle(s);
        if (j > mine.begin) warp_arrive(&sm.a_free[before]);
        before = ring.stage;
#pragma unroll
        for (int e = 0; e < 32; ++e) s[e] = exp2_fast(fmaf(s[e], scale, -stats[e >> 1 & 1].x));
        const int tile = it.first + j * kRows;
        const bool edge = cuts(sides, position, tile, it.length);
        if (edge) each_pair_at_edge(sides, position, tile, it.length, [&](int e, bool hidden) { s[e] = hidden ? 0.0f : s[e]; });
        wgmma_wait<0>();
        wgmma_settle(dp);
        warp_arrive(&sm.b_free[ring.stage]);
        if (j + 1 == mine.end) barrier_arrive(&sm.resident_free[w]);
        if (edge) {  // values past the document's end are others': their dp may be NaN
#pragma unroll
          for (int e = 0; e < 32; ++e) dp[e] = s[e] == 0.0f ? 0.0f : dp[e];
        }
#pragma unroll
        for (int e = 0; e < 32; ++e) s[e] *= dp[e] - stats[e >> 1 & 1].y;
        pack_operand(ds, s);
        wgmma_fence();
        multiply_tile<kD>(dq, ds, keys, j > mine.begin);
        wgmma_commit();
        ring.next();
      }
      wgmma_wait<0>();
      wgmma_settle(dq);
      warp_arrive(&sm.a_free[before]);
      store_sums<kD>(out, stride, rows, dq, args.s.scale, args.s.scale);
      pass<S>(sm, ring, it.tiles - mine.end);
    }
  }
};

template <int kD, int kV>
__global__ void __launch_bounds__(Queries<kD, kV>::S::kThreads, 1)
    queries_kernel(const AttentionBwd a, const __grid_constant__ CUtensorMap map_q, const __grid_constant__ CUtensorMap map_do, const __grid_constant__ CUtensorMap map_k,
                   const __grid_constant__ CUtensorMap map_v, const Documents docs, const Streams from, const Work work, const Statistics statistics) {
  using S = typename Queries<kD, kV>::S;
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<typename S::Smem*>(raw);
  S::init(sm);
  const int w = static_cast<int>(threadIdx.x) / kGroup;
  if (w == S::kGroups) {
    fewer_registers<S::kFeedRegisters>();
    if (threadIdx.x % kGroup < 32) Feed<S>{sm, &map_q, &map_do, &map_k, &map_v, docs, from, work}.run();
  } else {
    more_registers<S::kRegisters>();
    Queries<kD, kV>{a, docs.sides, statistics, sm, w}.run();
  }
}

template <int kD, int kV>
void launch(const AttentionBwd& a, const Statistics& statistics, void* list, cudaStream_t stream) {
  using S = typename Queries<kD, kV>::S;
  const AttentionShape& s = a.s;
  constexpr int kTileRows = S::kGroups * kRows;
  const Documents docs = query_documents(s, kTileRows);
  const Work work = make_work(list, s.cu_q, nullptr, s.documents, kTileRows, s.heads, stream);
  const Streams from{static_cast<const bf16*>(a.k), static_cast<const bf16*>(a.v), s.k_stride, s.v_stride, nullptr, 0, 1, s.heads / s.groups};
  const BwdMaps maps = bwd_maps<kD, kV>(a);
  const int64_t items = most_tiles(s, kTileRows) * s.heads, blocks = sm_count() < items ? sm_count() : items;
  launch_grid(queries_kernel<kD, kV>, dim3(static_cast<unsigned>(blocks)), dim3(S::kThreads), sizeof(typename S::Smem), stream, a, maps.q, maps.d_o, maps.k, maps.v, docs, from,
              work, statistics);
}

}  // namespace

void query_gradients(const AttentionBwd& a, const Statistics& statistics, void* list, cudaStream_t stream) {
  by_dims(a.s, [&]<int kD, int kV>() { launch<kD, kV>(a, statistics, list, stream); });
}

}  // namespace weft::kernels::band
