// DSA indexer with a streaming top-k. A block of one warpgroup owns eight tokens. Their queries lie in shared memory as the B operand of
// wgmma, row (head, token), so that a thread's sums of one row of keys are all heads of two tokens: the weighted sum over heads needs no other
// lane. Keys come by in rounds of two tiles of 64, the A operand; halves of the heads take turns, one in the tensor cores while another is added up.
// The scores cross shared memory to the warp that owns the token: those above its threshold join a list of kCap, in index order; when it is
// full the exact top_k stay and the threshold rises. No global memory beyond the result.
// Floor at b8 s4096 J32 Di64: 2.7e11 FLOP (0.35 ms at 800 TFLOP/s); 2.1e9 products of a score by two instructions (0.15 ms of the issue slots).
#include "kernels/common/wgmma.cuh"
#include "kernels/indexer/indexer.h"

namespace weft::kernels {
namespace indexer {
namespace {

constexpr int kTokens = 8, kKeys = 64, kD = 64, kThreads = 128;
constexpr int kRound = 2 * kKeys, kStages = 2;  // keys between two barriers, rounds of keys in shared memory
constexpr int kSlack = 32, kRoom = 48;          // more entries than top_k that may stay; free places below which lists are thinned
constexpr int kHeads = 16, kPart = kHeads * kTokens * kD;  // of one product: heads, elements of its queries
constexpr int kPitch = kRound + 4;                         // scores of a token: a warp's stores meet no bank twice

template <int kParts, int kCap>
struct Smem {
  bf16 q[kParts * kPart];
  bf16 k[kStages][kRound * kD];
  uint2 list[kTokens][kCap];  // (ordered score, index)
  float score[2][kTokens * kPitch];
  float gate[kParts == 2 ? 1 : kParts * kHeads * kTokens];
  int first_key;
};

// Larger floats have larger keys; NaN is above all, and no key is 0.
__device__ __forceinline__ uint32_t ordered(float v) {
  const uint32_t u = __float_as_uint(v);
  return v != v ? 0xffffffffu : u & 0x80000000u ? ~u : u | 0x80000000u;
}
__device__ __forceinline__ float of_ordered(uint32_t key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

__device__ __forceinline__ float relu(float v) {  // NaN stays NaN
#if defined(WEFT_EMULATE)
  return v < 0 ? 0.f : v;
#else
  float r;
  asm("max.NaN.f32 %0, %1, 0f00000000;\n" : "=f"(r) : "f"(v));
  return r;
#endif
}

// n += key >= least; least is not 0.
__device__ __forceinline__ void add_if_reaches(unsigned& n, uint32_t key, uint32_t least) {
#if defined(WEFT_EMULATE)
  n += key >= least;
#else
  asm("{\n.reg .u32 sum;\nadd.cc.u32 sum, %1, %2;\naddc.u32 %0, %0, 0;\n}\n" : "+r"(n) : "r"(key), "r"(0u - least));  // carries where it does
#endif
}
// The compiler is to have v here, not only where it is used.
__device__ __forceinline__ void settle(uint32_t& v) {
#if !defined(WEFT_EMULATE)
  asm volatile("" : "+r"(v));
#endif
}

// A warp's two lists: of each that holds more than top_k entries the top_k stay, in order; ties go to the earlier entry. threshold: a value that
// no later entry may be at or below. Both are worked on at once, for the counts wait on one another. Up to kSlack more may stay, which
// ends the search earlier. With no slack it is the last time: put(list, place, entry) takes all that stay, of short lists too; else the list does.
template <int kCap, int kSlack, class Put>
__device__ __forceinline__ void keep_best(uint2 (*lists)[kCap], int (&count)[2], int top_k, float (&threshold)[2], Put put) {
  constexpr int kPer = kCap / 32;
  const int lane = lane_id();
  uint32_t key[2][kPer], low[2] = {0xffffffffu, 0xffffffffu}, high[2] = {0, 0};
#pragma unroll
  for (int u = 0; u < 2; ++u)
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      const bool real = i * 32 + lane < count[u];
      const uint32_t k = real ? lists[u][i * 32 + lane].x : 0;
      key[u][i] = k, low[u] = real && k < low[u] ? k : low[u], high[u] = k > high[u] ? k : high[u];
    }
  const auto reach = [&](int u, uint32_t least) {  // keys at or above, which is not 0
    unsigned n = 0;
#pragma unroll
    for (int i = 0; i < kPer; ++i) add_if_reaches(n, key[u][i], least);
    return static_cast<int>(__reduce_add_sync(0xffffffffu, n));
  };
  int n[2], over[2] = {0, 0};  // keys that reach low, at least top_k; keys above high, fewer
#pragma unroll
  for (int u = 0; u < 2; ++u) low[u] = __reduce_min_sync(0xffffffffu, low[u]), high[u] = __reduce_max_sync(0xffffffffu, high[u]), n[u] = count[u];
  bool line[2] = {true, true};  // where a straight line over the values meets top_k; in the middle of the keys when that did not halve them
  while (true) {
    const bool going[2] = {n[0] > top_k + kSlack && low[0] < high[0], n[1] > top_k + kSlack && low[1] < high[1]};
    if (!going[0] && !going[1]) break;
    uint32_t middle[2];
    int m[2];
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      const float from = of_ordered(low[u]), to = of_ordered(high[u]);
      const float part = static_cast<float>(2 * (n[u] - top_k) - kSlack) * reciprocal_fast(static_cast<float>(2 * (n[u] - over[u])));
      const uint32_t on = ordered(from + part * (to - from)), center = high[u] - (high[u] - low[u]) / 2;
      middle[u] = line[u] ? (on <= low[u] ? low[u] + 1 : on > high[u] ? high[u] : on) : center;
      m[u] = reach(u, middle[u]);
    }
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      if (!going[u]) continue;
      const uint32_t span = high[u] - low[u];
      if (m[u] >= top_k) low[u] = middle[u], n[u] = m[u]; else high[u] = middle[u] - 1, over[u] = m[u];
      line[u] = !line[u] || high[u] - low[u] <= span / 2;
    }
  }
  const unsigned before = (1u << lane) - 1;
#pragma unroll
  for (int u = 0; u < 2; ++u) {
    if (kSlack > 0 && count[u] <= top_k) continue;
    uint32_t index[kPer];
#pragma unroll
    for (int i = 0; i < kPer; ++i) index[i] = lists[u][i * 32 + lane].y;
    __syncwarp();  // read before others' entries move
    int at = 0;
    if (n[u] <= top_k + kSlack) {
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        const bool keep = key[u][i] >= low[u];
        const unsigned kept = __ballot_sync(0xffffffffu, keep);
        if (keep) put(u, at + __popc(kept & before), uint2{key[u][i], index[i]});
        at += __popc(kept);
      }
    } else {  // low is the k-th key, and others equal it
      int ties = low[u] == 0xffffffffu ? top_k : top_k - reach(u, low[u] + 1);
#pragma unroll
      for (int i = 0; i < kPer; ++i) {
        const unsigned equal = __ballot_sync(0xffffffffu, key[u][i] == low[u]);
        const bool keep = key[u][i] > low[u] || (key[u][i] == low[u] && __popc(equal & before) < ties);
        const unsigned kept = __ballot_sync(0xffffffffu, keep);
        if (keep) put(u, at + __popc(kept & before), uint2{key[u][i], index[i]});
        at += __popc(kept);
        ties -= __popc(equal) < ties ? __popc(equal) : ties;
      }
    }
    count[u] = n[u] <= top_k + kSlack ? n[u] : top_k, threshold[u] = of_ordered(low[u]);
  }
  __syncwarp();
}

template <int kParts, int kCap>
__global__ void __launch_bounds__(kThreads, sizeof(Smem<kParts, kCap>) < 113 * 1024 ? 2 : 1) topk_kernel(const IndexerTopK a) {
  constexpr bool kGatesHere = kParts == 2;  // in registers; else read from shared memory at each use
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<Smem<kParts, kCap>*>(raw);
  const int lane = lane_id(), warp = warp_id(), thread = static_cast<int>(threadIdx.x), q = lane >> 2, r = lane & 3;
  const int64_t block0 = (static_cast<int64_t>(gridDim.x) - 1 - blockIdx.x) * kTokens;  // later tokens, which see more keys, first
  // The warp's two tokens: the first key of the document (the last one that starts at or before the token), and the last.
  int start[2], last[2], count[2] = {0, 0};
  float threshold[2] = {NAN, NAN};  // no score is at most NaN: all join
#pragma unroll
  for (int u = 0; u < 2; ++u) {
    const int64_t t = block0 + warp * 2 + u, known = t < a.tokens ? t : a.tokens - 1;
    int64_t low = 0, high = a.documents - 1;
    while (low < high) {
      const int64_t middle = (low + high + 1) / 2;
      if (a.cu_seqlens[middle] <= known) low = middle; else high = middle - 1;
    }
    start[u] = a.cu_seqlens[low], last[u] = static_cast<int>(t < a.tokens ? t : -1);
  }
  if (thread == 0) sm.first_key = start[0];
  {
    const int head = thread / 8, d = thread % 8;  // a part's 16 heads of one token at a time
    const bf16* from = static_cast<const bf16*>(a.q) + (block0 * a.heads + head) * kD + d * 8;
    bf16* to = sm.q + head * kTokens * kD;
#pragma unroll
    for (int token = 0; token < kTokens; ++token)
#pragma unroll
      for (int p = 0; p < kParts; ++p) {
        const bool ok = block0 + token < a.tokens && head + p * kHeads < a.heads;
        cp_async16(to + p * kPart + token * kD + ((d ^ token) << 3), ok ? from + (token * a.heads + p * kHeads) * kD : static_cast<const bf16*>(a.q), ok);
      }
  }
  cp_async_commit();
  const auto gate_of = [&](int head, int token) { return head < a.heads && block0 + token < a.tokens ? a.gate[(block0 + token) * a.heads + head] : 0.f; };
  float gate[2][kGatesHere ? kParts * kHeads : 1];
  if constexpr (kGatesHere) {
#pragma unroll
    for (int j = 0; j < kParts * kHeads; ++j) gate[0][j] = gate_of(j, r * 2), gate[1][j] = gate_of(j, r * 2 + 1);
  } else {
    for (int i = thread; i < kParts * kHeads * kTokens; i += kThreads) sm.gate[i] = gate_of(i / kTokens, i % kTokens);
  }
  __syncthreads();
  const int64_t first = sm.first_key, end = block0 + kTokens < a.tokens ? block0 + kTokens : a.tokens;
  const int rounds = static_cast<int>((end - first + kRound - 1) / kRound);
  // A thread's part of a round's keys is every 16th row from its own on. Rows behind the last token become zeros.
  const int key_row = thread / 8, key_to = key_row * kD + ((thread ^ key_row) % 8 << 3);
  const auto load = [&](int i) {
    if (i < rounds) {
      const int64_t row0 = first + static_cast<int64_t>(i) * kRound;
      const int left = static_cast<int>(a.tokens - row0 < kRound ? a.tokens - row0 : kRound) - key_row;
      const bf16* from = static_cast<const bf16*>(a.k) + row0 * kD + thread * 8;
      bf16* to = sm.k[i % kStages] + key_to;
      if (row0 + kRound <= a.tokens) {  // no row to ask about
#pragma unroll
        for (int j = 0; j < kRound; j += kThreads / 8) cp_async16(to + j * kD, from + j * kD, true);
      } else {
#pragma unroll
        for (int j = 0; j < kRound; j += kThreads / 8) cp_async16(to + j * kD, j < left ? from + j * kD : static_cast<const bf16*>(a.k), j < left);
      }
    }
    cp_async_commit();
  };
  float z[2][kHeads * kTokens / 2];
  const auto multiply = [&](int i, int tile, int part, float(&to)[kHeads * kTokens / 2]) {
    const uint64_t keys = k_major(sm.k[i % kStages] + tile * kKeys * kD), queries = k_major(sm.q + part * kPart);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kD / 16; ++k) Wgmma<kHeads * kTokens>::template run<false, false>(to, keys + k * kStep16<false>, queries + k * kStep16<false>, k > 0);
    wgmma_commit();
  };
  // All warps thin their lists at the same time, or one or another would be at it in every round and the others wait. Few keys of a round join
  // once a threshold is known; a list that they would overflow all the same is thinned alone.
  const auto meet = [&] { return __syncthreads_or(count[0] > kCap - kRoom || count[1] > kCap - kRoom) != 0; };
  const auto select = [&](int i, bool thin) {
    constexpr int kEach = kRound / 32;
    const float* scores = sm.score[i & 1] + warp * 2 * kPitch + lane;
    float v[2][kEach];
    unsigned joins[2][kEach];
#pragma unroll
    for (int u = 0; u < 2; ++u)
#pragma unroll
      for (int e = 0; e < kEach; ++e) v[u][e] = scores[u * kPitch + e * 32];
    const int s0 = static_cast<int>(first) + i * kRound + lane;
    while (true) {
      if (thin) keep_best<kCap, kSlack>(sm.list + warp * 2, count, a.top_k, threshold, [&](int u, int at, uint2 entry) { sm.list[warp * 2 + u][at] = entry; });
      int more[2] = {0, 0};
#pragma unroll
      for (int u = 0; u < 2; ++u)
#pragma unroll
        for (int e = 0; e < kEach; ++e) {
          const int s = s0 + e * 32;
          joins[u][e] = __ballot_sync(0xffffffffu, s >= start[u] && s <= last[u] && !(v[u][e] <= threshold[u]));
          more[u] += __popc(joins[u][e]);
        }
      if (thin || (count[0] + more[0] <= kCap && count[1] + more[1] <= kCap)) break;
      thin = true;
    }
    const unsigned before = (1u << lane) - 1;
#pragma unroll
    for (int u = 0; u < 2; ++u)
#pragma unroll
      for (int e = 0; e < kEach; ++e) {  // without branches: all is at hand before the stores
        uint32_t key = ordered(v[u][e]), at = static_cast<uint32_t>(count[u] + __popc(joins[u][e] & before));
        settle(key), settle(at);
        if (joins[u][e] >> lane & 1) sm.list[warp * 2 + u][at] = {key, static_cast<uint32_t>(s0 + e * 32)};
        count[u] += __popc(joins[u][e]);
      }
  };
  load(0);
  for (int i = 0; i < rounds; ++i) {
    cp_async_wait<0>();
    fence_async_proxy();
    const bool thin = meet();  // round i's keys have come, all have done with round i - 1 and written its scores
    load(i + 1);
    // All products start and end within a round: ptxas lets none run over the end of a loop.
    constexpr int kProducts = kRound / kKeys * kParts;
    multiply(i, 0, 0, z[0]), multiply(i, 1 / kParts, 1 % kParts, z[1]);
    float sum[2][2] = {};  // token, row of keys
#pragma unroll
    for (int g = 0; g < kProducts; ++g) {
      const int tile = g / kParts, p = g % kParts;
      if (g + 1 < kProducts) {
        wgmma_wait<1>();
      } else {
        if (i > 0) select(i - 1, thin);
        wgmma_wait<0>();
      }
      auto& sums = z[g & 1];
      wgmma_settle(sums);
#pragma unroll
      for (int j = 0; j < kHeads; ++j) {
        float2 weight;
        if constexpr (kGatesHere) weight = {gate[0][p * kHeads + j], gate[1][p * kHeads + j]}; else weight = *reinterpret_cast<const float2*>(sm.gate + (p * kHeads + j) * kTokens + r * 2);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          sum[0][h] += weight.x * relu(sums[j * 4 + h * 2]);
          sum[1][h] += weight.y * relu(sums[j * 4 + h * 2 + 1]);
        }
      }
      if (g + 2 < kProducts) multiply(i, (g + 2) / kParts, (g + 2) % kParts, sums);
      if (p + 1 < kParts) continue;
#pragma unroll
      for (int b = 0; b < 2; ++b)
#pragma unroll
        for (int h = 0; h < 2; ++h) sm.score[i & 1][(r * 2 + b) * kPitch + tile * kKeys + warp * 16 + q + h * 8] = sum[b][h], sum[b][h] = 0;
    }
  }
  select(rounds - 1, meet());
  __syncwarp();
  keep_best<kCap, 0>(sm.list + warp * 2, count, a.top_k, threshold, [&](int u, int at, uint2 entry) {
    if (last[u] >= 0) a.indices[static_cast<int64_t>(last[u]) * a.top_k + at] = static_cast<int32_t>(entry.y);
  });
#pragma unroll
  for (int u = 0; u < 2; ++u)
    for (int i = count[u] + lane; i < a.top_k && last[u] >= 0; i += 32) a.indices[static_cast<int64_t>(last[u]) * a.top_k + i] = -1;
}

template <int kParts, int kCap>
void launch(const IndexerTopK& a, const Launch& l) {
  launch_grid(topk_kernel<kParts, kCap>, dim3(static_cast<unsigned>((a.tokens + kTokens - 1) / kTokens)), dim3(kThreads), sizeof(Smem<kParts, kCap>), l.stream, a);
}

}  // namespace
}  // namespace indexer

Support supports_indexer_topk_sm90(const IndexerTopK& a, const Device& device) {
  if (device.kind != Device::kCuda || device.sm != 90) return {"needs a GPU of compute capability 9.0"};
  if (a.dtype != DType::kBf16) return {"dtype is not bf16"};
  if (a.head_dim != indexer::kD) return {"built for head_dim 64"};
  if (a.heads < 1 || a.heads > 64) return {"built for 1 to 64 heads"};
  if (a.top_k < 1 || a.top_k > 512) return {"built for top_k 1 to 512"};
  if (a.tokens >= (int64_t{1} << 31)) return {"2^31 tokens or more"};
  if (reinterpret_cast<uintptr_t>(a.k) % 16 != 0 || reinterpret_cast<uintptr_t>(a.q) % 16 != 0) return {"q or k is not 16-byte aligned"};
  return {};
}

size_t workspace_indexer_topk_sm90(const IndexerTopK&) { return 0; }

void indexer_topk_sm90(const IndexerTopK& a, const Launch& l) {
  if (a.tokens == 0) return;
  if (a.heads <= 32) return a.top_k <= 256 ? indexer::launch<2, 640>(a, l) : indexer::launch<2, 1024>(a, l);
  a.top_k <= 256 ? indexer::launch<4, 512>(a, l) : indexer::launch<4, 1024>(a, l);
}

}  // namespace weft::kernels
