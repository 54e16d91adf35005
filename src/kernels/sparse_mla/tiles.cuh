// What sparse MLA forward and backward share. A block takes one token and 32 heads; each of four warps takes every fourth block of 64 keys
// and meets the others only at the end.
#pragma once
#include <cuda_fp16.h>
#include <cuda_fp8.h>

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

// Sixteen E4M3 codes from column `col` of a row on, times their scale, into the tile.
__device__ __forceinline__ void store_codes(const Tile<kD>& tile, int row, int col, const uint4& codes, float scale) {
  const uint32_t word[4] = {codes.x, codes.y, codes.z, codes.w};
  uint32_t out[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const __half2 pair(__nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(word[i / 2] >> (i % 2 * 16)), __NV_E4M3));
    const float2 v = __half22float2(pair);
    out[i] = pack_bf16(v.x * scale, v.y * scale);
  }
  *reinterpret_cast<uint4*>(tile.unit(row, col)) = {out[0], out[1], out[2], out[3]};
  *reinterpret_cast<uint4*>(tile.unit(row, col + 8)) = {out[4], out[5], out[6], out[7]};
}

// The token's queries of `heads` heads from head0 on; zeros for the rest. Complete behind cp_async_wait and __syncthreads.
template <bool kCodes, class Args>
__device__ __forceinline__ void load_queries(const Tile<kD>& tile, const Args& a, int64_t t, int head0, int heads) {
  const int64_t first = (t * a.heads + head0) * kD;
  if constexpr (kCodes) {
    const float scale = a.scales.q[a.scales.rows ? t : 0];
#pragma unroll
    for (int i = 0; i < kHeads * kD / 16 / kThreads; ++i) {
      const int u = i * kThreads + static_cast<int>(threadIdx.x), row = u / (kD / 16), col = u % (kD / 16) * 16;
      const uint4 codes = row < heads ? *reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(a.q) + first + row * kD + col) : uint4{};
      store_codes(tile, row, col, codes, scale);
    }
  } else {
    load_tile_async<kHeads, kD, kThreads>(tile, static_cast<const bf16*>(a.q) + first, kD, heads);
  }
}

// Where the codes of a warp's keys wait: the second half of its tile.
__device__ __forceinline__ uint8_t* codes_of(const Tile<kD>& tile) { return reinterpret_cast<uint8_t*>(tile.data) + kKeys * kD; }

// Codes of 64 keys to values, in place. A row takes twice its codes' bytes: the codes whose place rows 32 to 63 take are read before.
__device__ __forceinline__ void widen(const Tile<kD>& tile, const float (&scale)[2]) {
  const int part = lane_id() >> 3, unit = lane_id() & 7;
  const uint8_t* codes = codes_of(tile) + part * kD + unit * 16;
  uint4 second[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) second[i] = *reinterpret_cast<const uint4*>(codes + (32 + i * 4) * kD);
#pragma unroll
  for (int i = 0; i < 8; ++i) store_codes(tile, i * 4 + part, unit * 16, *reinterpret_cast<const uint4*>(codes + i * 4 * kD), __shfl_sync(0xffffffffu, scale[0], i * 4 + part));
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 8; ++i) store_codes(tile, 32 + i * 4 + part, unit * 16, second[i], __shfl_sync(0xffffffffu, scale[1], i * 4 + part));
}

// A warp gathers 64 key rows; bit j of the pair of masks says that key j counts. Codes are there, with their scales, when the copies are;
// `widen` is still to come.
template <bool kCodes, class Args>
__device__ __forceinline__ void gather(const Tile<kD>& tile, const Args& a, const int32_t* indices, int count, int64_t t, int start, uint32_t (&valid)[2], float (&scale)[2]) {
  const int lane = lane_id();
  int index[2];
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    index[e] = lane + 32 * e < count ? indices[lane + 32 * e] : -1;
    const bool ok = index[e] >= start && index[e] <= t && index[e] >= 0;
    if (!ok) index[e] = -1;
    valid[e] = __ballot_sync(0xffffffffu, ok);
  }
  if constexpr (kCodes) {
    const int part = lane >> 3, unit = lane & 7;
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      scale[e] = a.scales.kv[a.scales.rows && index[e] >= 0 ? index[e] : 0];
#pragma unroll 4
      for (int j = 0; j < 32; j += 4) {
        const int row = __shfl_sync(0xffffffffu, index[e], j + part);
        cp_async16(codes_of(tile) + (e * 32 + j + part) * kD + unit * 16, static_cast<const uint8_t*>(a.kv) + (row >= 0 ? static_cast<int64_t>(row) * kD + unit * 16 : 0), row >= 0);
      }
    }
  } else {
    const bf16* kv = static_cast<const bf16*>(a.kv);
#pragma unroll
    for (int e = 0; e < 2; ++e)
#pragma unroll 4
      for (int j = 0; j < 32; j += 2) {
        const int half = lane >> 4, row = __shfl_sync(0xffffffffu, index[e], j + half);
        cp_async16(tile.unit(e * 32 + j + half, (lane & 15) * 8), kv + (row >= 0 ? static_cast<int64_t>(row) * kD + (lane & 15) * 8 : 0), row >= 0);
      }
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
  if (a.stored != DType::kBf16 && a.stored != DType::kF8E4M3) return "q and kv are not stored in bf16 or f8e4m3";
  if (a.stored == DType::kF8E4M3 && (a.scales.q == nullptr || a.scales.kv == nullptr)) return "f8e4m3 without scales";
  return nullptr;
}

}  // namespace weft::kernels::sparse_mla
