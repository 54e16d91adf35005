// A consumer warpgroup of the wgmma attention forward: 64 queries of a head against tiles of 64 keys. S of the next tile and P V of this one are
// in the tensor cores while the softmax of the next one runs; at an item's end its last P V and its store go beside the next item's first S.
// Warpgroups go on by themselves: taking turns at the products, as dense kernels do, costs more than it hides where items are short.
// By count, a tile of 64 x 64 at d 128 (clocks of a processor, per warpgroup): wgmma 512; 4,096 exponentials at 16 a clock 256.
#pragma once
#include "kernels/attention/band_feed.cuh"

namespace weft::kernels::band {

constexpr float kGrowth = 8;       // the maximum that exponents are taken from follows the true one when it is 2^8 behind: sums and P stay exact in
                                   // fp32 and bf16, and o is seldom multiplied

template <int kD, int kV, int kGroups>
struct Gather {
  using S = Shape<kD, 0, kD, kV, kGroups, false, true, false>;
  static_assert(S::kStages >= 2 * kGroups);  // tiles between two of a warpgroup's own: kGroups - 1 after an item's last one, as many before the next
  using R = Ring<S::kStages>;
  const AttentionFwd& args;
  const Sides& sides;
  float* row_max;  // [tokens, heads] or null
  typename S::Smem& sm;
  const int w;     // the warpgroup

  __device__ __forceinline__ void run() const {
    const float scale = args.s.scale * kLog2E;
    float o[kV / 2], s[32], base[2] = {}, sum[2] = {}, top[2] = {};
    uint32_t p[4][4], q[kD / 16][4];
    R ring, held;          // held: the tile whose P V is to come
    Item done{};           // its item
    bool pending = false;
    int keep = 0, loads = 0;
#pragma unroll
    for (int i = 0; i < kV / 2; ++i) o[i] = 0;
#pragma unroll
    for (int i = 0; i < 32; ++i) s[i] = 0;
    for (Ring<S::kItems> slot;; slot.next()) {
      barrier_wait(&sm.item_full[slot.stage], slot.phase);
      const Item it = sm.item[slot.stage];
      barrier_arrive(&sm.item_free[slot.stage]);
      const Range mine = it.tiles < 0 ? Range{0, 0} : own_tiles(it, sides, w);
      if (mine.empty()) {
        if (pending) {
          barrier_wait(&sm.b_full[held.stage], held.phase);
          wgmma_fence();
          multiply_tile<kV>(o, p, values(held), keep);
          wgmma_commit();
          wgmma_wait<0>();
          wgmma_settle(o);
          warp_arrive(&sm.b_free[held.stage]);
          store(done, o, base, sum, top);
          pending = false;
        }
        if (it.tiles < 0) break;
        store_nothing(it);
        pass<S>(sm, ring, it.tiles);
        continue;
      }
      pass<S>(sm, ring, mine.begin);
      barrier_wait(&sm.resident_full[w], loads & 1);
      ++loads;
      read_rows<kD>(q, sm.resident[w]);
      barrier_arrive(&sm.resident_free[w]);
      barrier_wait(&sm.a_full[ring.stage], ring.phase);
      if (pending) barrier_wait(&sm.b_full[held.stage], held.phase);
      wgmma_wait<0>();  // nothing is open: said for the compiler
      wgmma_fence();
      multiply_rows<kD>(s, q, keys(ring));
      wgmma_commit();
      multiply_tile<kV>(o, p, values(held), keep);  // of nothing, and not looked at, where nothing is pending: a branch would serialize the products
      wgmma_commit();
      wgmma_wait<0>();
      wgmma_settle(s);
      wgmma_settle(o);
      if (pending) {
        warp_arrive(&sm.b_free[held.stage]);
        store(done, o, base, sum, top);
      }
      warp_arrive(&sm.a_free[ring.stage]);
      const int position = it.position + w * kRows;
      int tile = it.first + mine.begin * kRows;
      float factor[2];
      weigh<true>(s, position, tile, it.length, scale, base, sum, top, factor);
      pack_operand(p, s);
      held = ring, keep = 0;
      ring.next();
      if (mine.begin + 1 < mine.end) barrier_wait(&sm.a_full[ring.stage], ring.phase);
      for (int j = mine.begin + 1; j < mine.end; ++j) {
        tile += kRows;
        barrier_wait(&sm.b_full[held.stage], held.phase);
        wgmma_fence();
        multiply_rows<kD>(s, q, keys(ring));
        wgmma_commit();
        multiply_tile<kV>(o, p, values(held), keep);
        wgmma_commit();
        wgmma_wait<1>();
        wgmma_settle(s);
        warp_arrive(&sm.a_free[ring.stage]);
        const bool grown = weigh<false>(s, position, tile, it.length, scale, base, sum, top, factor);
        const R last = held;
        held = ring;
        ring.next();
        // The branch of this wait ends the exponentials' basic block: without one ptxas moves the wait for P V ahead of them. That wait itself stands
        // once, for `grown` is a warp's and all of a warpgroup must come to the same one.
        if (j + 1 < mine.end) barrier_wait(&sm.a_full[ring.stage], sum[0] + sum[1] < 0 ? -1 : ring.phase);
        wgmma_wait<0>();
        wgmma_settle(o);
        if (grown) {
#pragma unroll
          for (int e = 0; e < kV / 2; ++e) o[e] *= factor[e >> 1 & 1];
        }
        warp_arrive(&sm.b_free[last.stage]);
        pack_operand(p, s);
        keep = 1;
      }
      done = it, pending = true;
      pass<S>(sm, ring, it.tiles - mine.end);
    }
  }

 private:
  __device__ __forceinline__ const bf16* keys(const R& at) const { return sm.tile[at.stage]; }
  __device__ __forceinline__ const bf16* values(const R& at) const { return sm.tile[at.stage] + kD / 64 * 4096; }

  // s becomes 2^(scale s - base); whether base has moved and o is to be multiplied by factor.
  template <bool kFirst>
  __device__ __forceinline__ bool weigh(float (&s)[32], int position, int tile, int length, float scale, float (&base)[2], float (&sum)[2], float (&top)[2],
                                        float (&factor)[2]) const {
    if (cuts(sides, position, tile, length))
      each_pair_at_edge(sides, position, tile, length, [&](int i, bool hidden) { s[i] = hidden ? -INFINITY : s[i]; });
    float most[2] = {s[0], s[2]};
#pragma unroll
    for (int i = 4; i < 32; i += 4) most[0] = fmaxf(most[0], s[i]), most[1] = fmaxf(most[1], s[i + 2]);
#pragma unroll
    for (int i = 1; i < 32; i += 4) most[0] = fmaxf(most[0], s[i]), most[1] = fmaxf(most[1], s[i + 2]);
#pragma unroll
    for (int h = 0; h < 2; ++h) most[h] = warp_max<4>(most[h]) * scale;
    bool grown = false;
    if constexpr (kFirst) {
#pragma unroll
      for (int h = 0; h < 2; ++h) base[h] = top[h] = most[h], sum[h] = 0;
    } else {
      top[0] = fmaxf(top[0], most[0]), top[1] = fmaxf(top[1], most[1]);
      grown = __any_sync(0xffffffffu, most[0] > base[0] + kGrowth || most[1] > base[1] + kGrowth);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float to = grown ? top[h] : base[h];
        factor[h] = base[h] == -INFINITY ? 0.0f : exp2_fast(base[h] - to), base[h] = to, sum[h] *= factor[h];
      }
    }
    const float from[2] = {base[0] == -INFINITY ? 0.0f : -base[0], base[1] == -INFINITY ? 0.0f : -base[1]};
    float part[2][2] = {};
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      s[i] = exp2_fast(fmaf(s[i], scale, from[i >> 1 & 1]));
      part[i >> 1 & 1][i & 1] += s[i];
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) sum[h] += part[h][0] + part[h][1];
    return grown;
  }

  __device__ __forceinline__ void store(const Item& it, const float (&o)[kV / 2], const float (&base)[2], const float (&sum)[2], const float (&top)[2]) const {
    const int rows = it.rows - w * kRows, lane = lane_id(), row = (warp_id() & 3) * 16 + (lane >> 2), heads = args.s.heads;
    const int64_t first = it.row + w * kRows;
    float scale[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float total = warp_sum<4>(sum[h]), max = base[h], factor = 1;
      if (args.sinks != nullptr) {
        const float sink = args.sinks[it.head] * kLog2E, most = fmaxf(max, sink);
        factor = max == -INFINITY ? 0.0f : exp2_fast(max - most);
        total = total * factor + exp2_fast(sink - most), max = most;
      }
      scale[h] = total == 0 ? 0.0f : factor * reciprocal_fast(total);
      const int64_t at = (first + row + 8 * h) * heads + it.head;
      if ((lane & 3) == 0 && row + 8 * h < rows) {
        args.lse[at] = total == 0 ? -INFINITY : (max + __log2f(total)) * kLn2;
        if (row_max != nullptr) row_max[at] = top[h] * kLn2;
      }
    }
    store_sums<kV>(static_cast<bf16*>(args.o) + (first * heads + it.head) * kV, static_cast<int64_t>(heads) * kV, rows, o, scale[0], scale[1]);
  }
  // Rows that see no key.
  __device__ __forceinline__ void store_nothing(const Item& it) const {
    const int rows = it.rows - w * kRows, row = static_cast<int>(threadIdx.x) % kGroup, heads = args.s.heads;
    if (rows <= 0) return;
    const int64_t first = it.row + w * kRows;
    store_zeros<kV>(static_cast<bf16*>(args.o) + (first * heads + it.head) * kV, static_cast<int64_t>(heads) * kV, rows);
    if (row >= kRows || row >= rows) return;
    args.lse[(first + row) * heads + it.head] = args.sinks == nullptr ? -INFINITY : args.sinks[it.head];
    if (row_max != nullptr) row_max[(first + row) * heads + it.head] = -INFINITY;
  }

  static constexpr float kLn2 = 0.6931471805599453f;
};

}  // namespace weft::kernels::band
