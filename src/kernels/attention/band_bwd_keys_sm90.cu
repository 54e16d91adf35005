// dk and dv of the wgmma attention backward. A warpgroup keeps 64 keys and values in shared memory and dk, dv as sums in registers while tiles of
// 64 queries of the heads that share them go by: S and dP are made keys by queries, so that P and dS are first operands as they stand in
// registers. By count, a tile at d 128: wgmma 1,024 clocks, exponentials 256.
#include "kernels/attention/band_bwd.cuh"

namespace weft::kernels::band {
namespace {

template <int kD, int kV>
struct Keys {
  using S = Shape<kD, kV, kD, kV, 2, true, true, true>;
  const AttentionBwd& args;
  const Sides& sides;
  typename S::Smem& sm;
  const int w;

  __device__ __forceinline__ void run() const {
    const float scale = args.s.scale * kLog2E;
    const int groups = args.s.groups, heads = args.s.heads / groups;
    float dk[kD / 2], dv[kV / 2], s[32], dp[32];
    uint32_t p[4][4], ds[4][4];
#pragma unroll
    for (int i = 0; i < kD / 2; ++i) dk[i] = 0;
#pragma unroll
    for (int i = 0; i < kV / 2; ++i) dv[i] = 0;
    Ring<S::kStages> ring;
    int count = 0;  // of items, times two; bit 0: of those that it had a part in. Registers are short
    for (;; count += 2) {
      const int slot = count / 2 % S::kItems;
      barrier_wait(&sm.item_full[slot], count / (2 * S::kItems) & 1);
      const Item& it = sm.item[slot];  // read where it is used
      if (it.tiles < 0) break;
      const Range mine = own_tiles(it, sides, w);
      if (mine.empty()) {
        const int rows = it.rows - w * kRows;
        if (rows > 0) {
          store_zeros<kD>(out(args.dk, it, kD), static_cast<int64_t>(groups) * kD, rows);
          store_zeros<kV>(out(args.dv, it, kV), static_cast<int64_t>(groups) * kV, rows);
        }
        pass<S>(sm, ring, it.tiles * heads);
        barrier_arrive(&sm.item_free[slot]);
        continue;
      }
      barrier_wait(&sm.resident_full[w], count & 1);
      count ^= 1;
      const bf16 *keys = sm.resident[w], *values = keys + kD / 64 * 4096;
      int keep = 0;
      wgmma_wait<0>();  // nothing is open: said for the compiler
      for (int h = 0; h < heads; ++h) {
        pass<S>(sm, ring, mine.begin);
        for (int j = mine.begin; j < mine.end; ++j) {
          const bf16 *queries = sm.tile[ring.stage], *d_o = queries + kD / 64 * 4096;
          barrier_wait(&sm.a_full[ring.stage], ring.phase);
          barrier_wait(&sm.b_full[ring.stage], ring.phase);
          wgmma_fence();
          multiply_rows<kD>(s, keys, queries);
          wgmma_commit();
          multiply_rows<kV>(dp, values, d_o);
          wgmma_commit();
          const float4* stats = reinterpret_cast<const float4*>(sm.stats[ring.stage]) + (lane_id() & 3);  // {lse2, delta} of two queries
          wgmma_wait<1>();
          wgmma_settle(s);
#pragma unroll
          for (int n = 0; n < 8; ++n) {
            const float4 v = stats[4 * n];
#pragma unroll
            for (int e = 0; e < 4; ++e) s[4 * n + e] = exp2_fast(fmaf(s[4 * n + e], scale, e & 1 ? -v.z : -v.x));
          }
          const int tile = it.first + j * kRows, position = it.position + w * kRows;
          if (cuts(sides, position, tile, it.length))
            each_pair_at_edge(sides, position, tile, it.length, [&](int e, bool hidden) { s[e] = hidden ? 0.0f : s[e]; });
          wgmma_wait<0>();
          wgmma_settle(dp);
          if (h + 1 == heads && j + 1 == mine.end) barrier_arrive(&sm.resident_free[w]);
          pack_operand(p, s);
#pragma unroll
          for (int n = 0; n < 8; ++n) {
            const float4 v = stats[4 * n];
#pragma unroll
            for (int e = 0; e < 4; ++e) s[4 * n + e] *= dp[4 * n + e] - (e & 1 ? v.w : v.y);
          }
          pack_operand(ds, s);
          wgmma_fence();
          multiply_tile<kV>(dv, p, d_o, keep);
          multiply_tile<kD>(dk, ds, queries, keep);
          wgmma_commit();
          wgmma_wait<0>();
          wgmma_settle(dv);
          wgmma_settle(dk);
          warp_arrive(&sm.a_free[ring.stage]);
          warp_arrive(&sm.b_free[ring.stage]);
          keep = 1;
          ring.next();
        }
        pass<S>(sm, ring, it.tiles - mine.end);
      }
      const int rows = it.rows - w * kRows;
      store_sums<kD>(out(args.dk, it, kD), static_cast<int64_t>(groups) * kD, rows, dk, args.s.scale, args.s.scale);
      store_sums<kV>(out(args.dv, it, kV), static_cast<int64_t>(groups) * kV, rows, dv, 1, 1);
      barrier_arrive(&sm.item_free[slot]);
    }
  }

 private:
  // The warpgroup's first row of a gradient.
  __device__ __forceinline__ bf16* out(void* gradient, const Item& it, int dim) const {
    return static_cast<bf16*>(gradient) + ((static_cast<int64_t>(it.row) + w * kRows) * args.s.groups + it.head) * dim;
  }
};

template <int kD, int kV>
__global__ void __launch_bounds__(Keys<kD, kV>::S::kThreads, 1)
    keys_kernel(const AttentionBwd a, const __grid_constant__ CUtensorMap map_k, const __grid_constant__ CUtensorMap map_v, const __grid_constant__ CUtensorMap map_q,
                const __grid_constant__ CUtensorMap map_do, const Documents docs, const Streams from, const Work work) {
  using S = typename Keys<kD, kV>::S;
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<typename S::Smem*>(raw);
  S::init(sm);
  const int w = static_cast<int>(threadIdx.x) / kGroup;
  if (w == S::kGroups) {
    fewer_registers<S::kFeedRegisters>();
    if (threadIdx.x % kGroup < 32) Feed<S>{sm, &map_k, &map_v, &map_q, &map_do, docs, from, work}.run();
  } else {
    more_registers<S::kRegisters>();
    Keys<kD, kV>{a, docs.sides, sm, w}.run();
  }
}

template <int kD, int kV>
void launch(const AttentionBwd& a, const Statistics& statistics, void* list, cudaStream_t stream) {
  using S = typename Keys<kD, kV>::S;
  const AttentionShape& s = a.s;
  constexpr int kTileRows = S::kGroups * kRows;
  const Documents docs = key_documents(s, kTileRows);
  const Work work = make_work(list, nullptr, s.kv_lens, s.documents, kTileRows, s.groups, stream);
  const Streams from{static_cast<const bf16*>(a.q), static_cast<const bf16*>(a.d_o), s.q_stride, int64_t{s.heads} * kV, statistics.data, statistics.rows,
                     s.heads / s.groups, 1};
  const BwdMaps maps = bwd_maps<kD, kV>(a);
  const int64_t items = (s.key_rows / kTileRows + s.documents) * s.groups, blocks = sm_count() < items ? sm_count() : items;
  launch_grid(keys_kernel<kD, kV>, dim3(static_cast<unsigned>(blocks)), dim3(S::kThreads), sizeof(typename S::Smem), stream, a, maps.k, maps.v, maps.q, maps.d_o, docs, from,
              work);
}

}  // namespace

void key_gradients(const AttentionBwd& a, const Statistics& statistics, void* list, cudaStream_t stream) {
  by_dims(a.s, [&]<int kD, int kV>() { launch<kD, kV>(a, statistics, list, stream); });
}

}  // namespace weft::kernels::band
