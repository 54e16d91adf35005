// What sparse MLA forward and backward share: a block takes one token and 32 heads, each of its warps a part of the keys.
#pragma once
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "kernels/common/mma.cuh"
#include "kernels/sparse_mla/sparse_mla.h"

namespace weft::kernels::sparse_mla {

constexpr int kHeads = 32, kD = 128, kV = 64;

// First token of t's document, by the whole warp: a search with 32 places at a time.
__device__ __forceinline__ int document_start(const int32_t* cu, int64_t documents, int64_t t) {
  int low = 0, span = static_cast<int>(documents);  // the document is in [low, low + span)
  while (true) {
    const int step = (span + 31) / 32, offset = lane_id() * step;
    const bool inside = offset < span;
    const int first = cu[low + (inside ? offset : 0)];
    // Documents of no tokens share their start with the next: the last of them was taken, which is the one that holds t.
    const unsigned below = __ballot_sync(0xffffffffu, inside && first <= t);
    const int taken = 31 - __clz(static_cast<int>(below | 1)), start = __shfl_sync(0xffffffffu, first, taken);
    if (step == 1) return start;
    const int next = taken * step;
    span = step < span - next ? step : span - next, low += next;
  }
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
template <bool kCodes, int kThreads, class Args>
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
    const int row = static_cast<int>(threadIdx.x >> 4), col = static_cast<int>(threadIdx.x & 15) * 8;
    constexpr int kRows = kThreads / 16;  // a multiple of 8: the swizzle is that of the first
    bf16* to = tile.unit(row, col);
    const bf16* from = static_cast<const bf16*>(a.q) + first + row * kD + col;
#pragma unroll
    for (int i = 0; i < kHeads / kRows; ++i) cp_async16(to + i * kRows * kD, row + i * kRows < heads ? from + i * kRows * kD : from, row + i * kRows < heads);
  }
}

// A warp's keys: 32 for each of kEach; a lane's are `lane` and, of 64, `lane + 32`.
// Where their codes wait: the second half of the warp's tile.
template <int kEach>
__device__ __forceinline__ uint8_t* codes_of(const Tile<kD>& tile) { return reinterpret_cast<uint8_t*>(tile.data) + kEach * 32 * kD; }

// Codes to values, in place. A row takes twice its codes' bytes: the codes whose place the second half of the rows takes are read before.
template <int kEach>
__device__ __forceinline__ void widen(const Tile<kD>& tile, const float (&scale)[kEach]) {
  constexpr int kHalf = kEach * 16;
  const int part = lane_id() >> 3, unit = lane_id() & 7;
  const uint8_t* codes = codes_of<kEach>(tile) + part * kD + unit * 16;
  uint4 second[kHalf / 4];
#pragma unroll
  for (int i = 0; i < kHalf / 4; ++i) second[i] = *reinterpret_cast<const uint4*>(codes + (kHalf + i * 4) * kD);
#pragma unroll
  for (int i = 0; i < kHalf / 4; ++i) store_codes(tile, i * 4 + part, unit * 16, *reinterpret_cast<const uint4*>(codes + i * 4 * kD), __shfl_sync(0xffffffffu, scale[0], i * 4 + part));
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kHalf / 4; ++i) store_codes(tile, kHalf + i * 4 + part, unit * 16, second[i], __shfl_sync(0xffffffffu, scale[kEach - 1], (kHalf + i * 4) % 32 + part));
}

// A lane's indices among the warp's keys, which start at k0 of the token's list; -1 behind its end.
template <int kEach, class Args>
__device__ __forceinline__ void load_indices(int (&index)[kEach], const Args& a, int64_t t, int k0) {
  const int32_t* list = a.indices + t * a.top_k;
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    const int at = k0 + e * 32 + lane_id();
    index[e] = list[at < a.top_k ? at : a.top_k - 1];
    if (at >= a.top_k) index[e] = -1;
  }
}

// Lane j's value of the lane's own group of kLanes.
template <int kLanes>
__device__ __forceinline__ int of_group(int v, int j) {
#if defined(WEFT_EMULATE)
  return __shfl_sync(0xffffffffu, v, (lane_id() & ~(kLanes - 1)) + j);
#else
  return __shfl_sync(0xffffffffu, v, j, kLanes);  // j a constant: no lane number to compute
#endif
}
// 16 bytes of row `row` of kBytes each, from `base` on; zeros where `real` is 0. In this form a copy is three instructions beside its own.
template <int kBytes>
__device__ __forceinline__ void copy_row_part(SmemAddress to, const void* base, int row, uint32_t real) {
#if defined(WEFT_EMULATE)
  cp_async16(reinterpret_cast<void*>(to), static_cast<const uint8_t*>(base) + static_cast<int64_t>(row) * kBytes, real != 0);
#else
  asm volatile(
      "{\n.reg .pred none;\n.reg .u64 from;\nsetp.eq.u32 none, %3, 0;\nmad.wide.u32 from, %2, %4, %1;\ncp.async.cg.shared.global [%0], [from], 16, none;\n}\n" ::"r"(to),
      "l"(base), "r"(row), "r"(real), "n"(kBytes)
      : "memory");
#endif
}

// A warp gathers its key rows; bit j of the masks says that key j counts, rows of the others become zeros. Codes are there, with their
// scales, when the copies are; `widen` is still to come.
template <bool kCodes, int kEach, class Args>
__device__ __forceinline__ void gather(const Tile<kD>& tile, const Args& a, int (&index)[kEach], int64_t t, int start, uint32_t (&valid)[kEach], float (&scale)[kEach]) {
  const int lane = lane_id();
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    const bool ok = index[e] >= start && index[e] <= t && index[e] >= 0;
    if (!ok) index[e] = 0;
    valid[e] = __ballot_sync(0xffffffffu, ok);
  }
  if constexpr (kCodes) {
    const int part = lane >> 3, unit = lane & 7;  // a quarter of the warp's lanes takes eight rows of 32
    const SmemAddress to = smem_address(codes_of<kEach>(tile) + part * 8 * kD + unit * 16);
    const uint8_t* kv = static_cast<const uint8_t*>(a.kv) + unit * 16;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      scale[e] = a.scales.kv[a.scales.rows ? index[e] : 0];
      const uint32_t mine = valid[e] >> (part * 8);
#pragma unroll
      for (int j = 0; j < 8; ++j) copy_row_part<kD>(to + (e * 32 + j) * kD, kv, of_group<8>(index[e], j), mine & (1u << j));
    }
  } else {
    const int half = lane >> 4, unit = lane & 15;  // 16 rows of 32
    const SmemAddress to = smem_address(tile.unit(half * 16, unit * 8));
    const bf16* kv = static_cast<const bf16*>(a.kv) + unit * 8;
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const uint32_t mine = valid[e] >> (half * 16);
#pragma unroll
      for (int j = 0; j < 16; ++j) copy_row_part<kD * 2>((to ^ ((j & 7) << 4)) + (e * 32 + j) * kD * 2, kv, of_group<16>(index[e], j), mine & (1u << j));
    }
  }
}
template <int kEach>
__device__ __forceinline__ bool counts(const uint32_t (&valid)[kEach], int j) { return (valid[j >> 5] >> (j & 31)) & 1; }

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
