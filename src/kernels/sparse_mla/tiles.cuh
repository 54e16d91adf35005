// What sparse MLA forward and backward share. A block takes one token and 32 heads; each of four warps takes every fourth block of 64 keys
// and meets the others only at the end.
#pragma once
#include "kernels/common/mma.cuh"
#include "kernels/sparse_mla/sparse_mla.h"

namespace weft::kernels::sparse_mla {

constexpr int kHeads = 32, kKeys = 64, kD = 128, kV = 64, kThreads = 128;

// First token of t's document, by the whole warp: a search with 32 places at a time.
__device__ __forceinline__ int document_start(const int32_t* cu, int64_t documents, int64_t t) {
  int64_t low = 0, span = documents;  // the document is in [low, low + span)
  while (span > 1) {
    const int64_t step = (span + 31) / 32, at = low + lane_id() * step;
    const unsigned below = __ballot_sync(0xffffffffu, lane_id() * step < span && cu[at < documents ? at : documents] <= t);
    const int64_t next = low + (31 - __clz(static_cast<int>(below | 1))) * step;
    span = step < low + span - next ? step : low + span - next, low = next;
  }
  // Documents of no tokens share their start with the next: the last of them was taken, which is the one that holds t.
  return cu[low];
}

// A warp gathers 64 key rows; bit j of the pair of masks says that key j counts.
__device__ __forceinline__ void gather(const Tile<kD>& tile, const bf16* kv, const int32_t* indices, int count, int64_t t, int start, uint32_t (&valid)[2]) {
  const int lane = lane_id();
  int index[2];
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    index[e] = lane + 32 * e < count ? indices[lane + 32 * e] : -1;
    const bool ok = index[e] >= start && index[e] <= t && index[e] >= 0;
    if (!ok) index[e] = -1;
    valid[e] = __ballot_sync(0xffffffffu, ok);
  }
#pragma unroll
  for (int e = 0; e < 2; ++e)
#pragma unroll 4
    for (int j = 0; j < 32; j += 2) {
      const int half = lane >> 4, row = __shfl_sync(0xffffffffu, index[e], j + half);
      cp_async16(tile.unit(e * 32 + j + half, (lane & 15) * 8), kv + (row >= 0 ? static_cast<int64_t>(row) * kD + (lane & 15) * 8 : 0), row >= 0);
    }
}
__device__ __forceinline__ bool counts(const uint32_t (&valid)[2], int j) { return (valid[j >> 5] >> (j & 31)) & 1; }

template <class Args>
const char* refusal(const Args& a, const Device& device) {
  if (device.kind != Device::kCuda || device.sm / 10 != 9) return "needs a GPU of compute capability 9.x";
  if (a.dtype != DType::kBf16) return "dtype is not bf16";
  if (a.dim_qk != kD || a.dim_v != kV) return "built for dim_qk 128, dim_v 64";
  if (a.heads < 1 || a.top_k < 1) return "no heads or no keys";
  auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (!aligned(a.q) || !aligned(a.kv)) return "q or kv is not 16-byte aligned";
  return nullptr;
}

}  // namespace weft::kernels::sparse_mla
