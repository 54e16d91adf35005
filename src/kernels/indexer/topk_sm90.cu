// DSA indexer with a streaming top-k. A warp owns one token: its queries are B fragments in registers, keys come by in tiles of 64 that the
// block's eight tokens share, and the sums over heads are in the lanes at once. Scores above the token's threshold join a list of kCap in
// shared memory, in index order; when it is full the exact top_k stay (binary search of the k-th score's bits) and the threshold rises.
// No global memory beyond the result. Floor at b8 s4096 J32 Di64: 2.7e11 FLOP of MMA (0.35 ms at 800 TFLOP/s, 0.6 on mma.sync).
#include "kernels/common/mma.cuh"
#include "kernels/indexer/indexer.h"

namespace weft::kernels {
namespace indexer {
namespace {

constexpr int kTokens = 8, kKeys = 64, kD = 64, kThreads = 32 * kTokens;

template <int kCap>
struct Smem {
  bf16 k[2][kKeys * kD];
  uint2 list[kTokens][kCap];  // (ordered score, index)
  int first_key;
};

// Larger floats have larger keys; NaN is above all.
__device__ __forceinline__ uint32_t ordered(float v) {
  const uint32_t u = __float_as_uint(v);
  return v != v ? 0xffffffffu : u & 0x80000000u ? ~u : u | 0x80000000u;
}

// One warp keeps the top_k of `count` entries, in order; ties go to the earlier entry. Returns the k-th key.
template <int kCap>
__device__ __forceinline__ uint32_t keep_best(uint2* list, int count, int top_k) {
  constexpr int kPer = kCap / 32;
  const int lane = lane_id();
  uint2 e[kPer];
#pragma unroll
  for (int i = 0; i < kPer; ++i) e[i] = i * 32 + lane < count ? list[i * 32 + lane] : uint2{0, 0};
  uint32_t kth = 0;  // the largest value that at least top_k keys reach
  for (int bit = 31; bit >= 0; --bit) {
    const uint32_t trial = kth | (1u << bit);
    int n = 0;
#pragma unroll
    for (int i = 0; i < kPer; ++i) n += e[i].x >= trial;
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) n += __shfl_xor_sync(0xffffffffu, n, o);
    if (n >= top_k) kth = trial;
  }
  int above = 0;
#pragma unroll
  for (int i = 0; i < kPer; ++i) above += e[i].x > kth;
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) above += __shfl_xor_sync(0xffffffffu, above, o);
  int ties = top_k - above, at = 0;
  const unsigned before = (1u << lane) - 1;
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const bool real = i * 32 + lane < count;
    const unsigned equal = __ballot_sync(0xffffffffu, real && e[i].x == kth);
    const bool keep = real && (e[i].x > kth || (e[i].x == kth && __popc(equal & before) < ties));
    const unsigned kept = __ballot_sync(0xffffffffu, keep);
    if (keep) list[at + __popc(kept & before)] = e[i];
    at += __popc(kept);
    ties -= __popc(equal) < ties ? __popc(equal) : ties;
  }
  __syncwarp();
  return kth;
}

template <int kTiles, int kCap>
__global__ void __launch_bounds__(kThreads, kTiles == 4 && kCap == 512 ? 2 : 1) topk_kernel(const IndexerTopK a) {
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<Smem<kCap>*>(raw);
  const int lane = lane_id(), warp = warp_id(), q = lane >> 2, r = lane & 3;
  const int64_t block0 = (static_cast<int64_t>(gridDim.x) - 1 - blockIdx.x) * kTokens, t = block0 + warp;  // later tokens, which see more keys, first
  const bool real = t < a.tokens;
  // The token's document: the last one that starts at or before it.
  int64_t low = 0, high = a.documents - 1;
  while (low < high) {
    const int64_t mid = (low + high + 1) / 2;
    if (a.cu_seqlens[mid] <= (real ? t : a.tokens - 1)) low = mid; else high = mid - 1;
  }
  const int start = a.cu_seqlens[low], last = static_cast<int>(real ? t : -1);
  if (warp == 0 && lane == 0) sm.first_key = start;
  uint32_t fq[kTiles][4][2];
  float gate[kTiles][2];
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    const int head = n * 8 + q;
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int h = 0; h < 2; ++h)
        fq[n][k][h] = real && head < a.heads ? *reinterpret_cast<const uint32_t*>(static_cast<const bf16*>(a.q) + (t * a.heads + head) * kD + k * 16 + h * 8 + r * 2) : 0u;
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const int j = n * 8 + r * 2 + b;
      gate[n][b] = real && j < a.heads ? a.gate[t * a.heads + j] : 0.f;
    }
  }
  __syncthreads();
  const int64_t first = sm.first_key, end = block0 + kTokens < a.tokens ? block0 + kTokens : a.tokens;
  const int tiles = static_cast<int>((end - first + kKeys - 1) / kKeys);
  auto load = [&](int i) {
    const int64_t s0 = first + static_cast<int64_t>(i) * kKeys;
    load_tile_async<kKeys, kD, kThreads>(Tile<kD>{sm.k[i & 1]}, static_cast<const bf16*>(a.k) + s0 * kD, kD, static_cast<int>(a.tokens - s0 < kKeys ? a.tokens - s0 : kKeys));
    cp_async_commit();
  };
  uint2* list = sm.list[warp];
  int count = 0;
  uint32_t threshold = 0;
  bool full = false;  // top_k entries are known: only larger keys matter
  load(0);
  for (int i = 0; i < tiles; ++i) {
    cp_async_wait<0>();
    __syncthreads();
    if (i + 1 < tiles) load(i + 1);
    const Tile<kD> K{sm.k[i & 1]};
    for (int m = 0; m < kKeys / 16; ++m) {
      const int64_t s0 = first + static_cast<int64_t>(i) * kKeys + m * 16;
      if (s0 > last || s0 + 15 < start) continue;
      float low_sum = 0, high_sum = 0, c[kTiles][4] = {};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        uint32_t fa[4];
        load_a(fa, K, m * 16, k * 16);
#pragma unroll
        for (int n = 0; n < kTiles; ++n) mma_bf16(c[n], fa, fq[n][k][0], fq[n][k][1]);
      }
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
#pragma unroll
        for (int b = 0; b < 2; ++b) {
          const float u = c[n][b], v = c[n][2 + b];
          low_sum += gate[n][b] * (u < 0 ? 0.f : u), high_sum += gate[n][b] * (v < 0 ? 0.f : v);  // NaN stays NaN
        }
      low_sum = warp_sum<4>(low_sum), high_sum = warp_sum<4>(high_sum);
      // Lanes 0 to 15 take the 16 keys in order.
      const float from_low = __shfl_sync(0xffffffffu, low_sum, (lane & 7) * 4), from_high = __shfl_sync(0xffffffffu, high_sum, (lane & 7) * 4);
      const uint32_t key = ordered(lane & 8 ? from_high : from_low);
      const int64_t s = s0 + lane;
      const bool join = lane < 16 && s >= start && s <= last && (!full || key > threshold);
      const unsigned joins = __ballot_sync(0xffffffffu, join);
      if (joins == 0) continue;
      if (count + 16 > kCap) {
        __syncwarp();
        threshold = keep_best<kCap>(list, count, a.top_k);
        count = a.top_k, full = true;
      }
      if (join) list[count + __popc(joins & ((1u << lane) - 1))] = {key, static_cast<uint32_t>(s)};
      count += __popc(joins);
    }
  }
  __syncwarp();
  if (count > a.top_k) keep_best<kCap>(list, count, a.top_k), count = a.top_k;
  if (!real) return;
  for (int i = lane; i < a.top_k; i += 32) a.indices[t * a.top_k + i] = i < count ? static_cast<int32_t>(list[i].y) : -1;
}

template <int kTiles, int kCap>
void launch(const IndexerTopK& a, const Launch& l) {
  launch_grid(topk_kernel<kTiles, kCap>, dim3(static_cast<unsigned>((a.tokens + kTokens - 1) / kTokens)), dim3(kThreads), sizeof(Smem<kCap>), l.stream, a);
}

}  // namespace
}  // namespace indexer

Support supports_indexer_topk_sm90(const IndexerTopK& a, const Device& device) {
  if (device.kind != Device::kCuda || device.sm / 10 != 9) return {"needs a GPU of compute capability 9.x"};
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
  if (a.heads <= 32) return a.top_k <= 256 ? indexer::launch<4, 512>(a, l) : indexer::launch<4, 1024>(a, l);
  a.top_k <= 256 ? indexer::launch<8, 512>(a, l) : indexer::launch<8, 1024>(a, l);
}

}  // namespace weft::kernels
