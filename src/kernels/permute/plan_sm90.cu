// A stable counting sort of slots by expert: counts of each block of slots, their prefix sums per expert, then the places.
#include "kernels/common/device.cuh"
#include "kernels/permute/permute.h"

namespace weft::kernels {
namespace {

using namespace dev;

constexpr int kSlots = 1024;  // of one block, 256 at a time

__global__ void __launch_bounds__(256) count(PermutePlan a, int64_t slots, int64_t blocks, int32_t* hist) {
  WEFT_DYNAMIC_SMEM(count_smem);
  int32_t* counts = reinterpret_cast<int32_t*>(count_smem);
  for (int e = threadIdx.x; e < a.experts; e += 256) counts[e] = 0;
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x; r < a.max_rows;
       r += static_cast<int64_t>(gridDim.x) * 256)
    a.slot_of_row[r] = -1;
  __syncthreads();
  for (int i = 0; i < kSlots; i += 256) {
    const int64_t slot = static_cast<int64_t>(blockIdx.x) * kSlots + i + threadIdx.x;
    const int32_t e = slot < slots ? a.indices[slot] : -1;
    if (e >= 0 && e < a.experts) atomicAdd(&counts[e], 1);
  }
  __syncthreads();
  for (int e = threadIdx.x; e < a.experts; e += 256) hist[e * blocks + blockIdx.x] = counts[e];
}

__device__ __forceinline__ int32_t warp_prefix(int32_t v) {  // inclusive
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int o = 1; o < 32; o *= 2) {
    const int32_t left = __shfl_up_sync(~0u, v, o);
    if (lane >= o) v += left;
  }
  return v;
}

// hist becomes the slots of the same expert in earlier blocks; counts and offsets are written.
__global__ void __launch_bounds__(1024) scan(PermutePlan a, int64_t blocks, int32_t* hist) {
  WEFT_DYNAMIC_SMEM(scan_smem);
  int32_t* totals = reinterpret_cast<int32_t*>(scan_smem);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  for (int e = warp; e < a.experts; e += warps) {
    int32_t before = 0;
    for (int64_t b = 0; b < blocks; b += 32) {
      const int32_t v = b + lane < blocks ? hist[e * blocks + b + lane] : 0, sum = warp_prefix(v);
      if (b + lane < blocks) hist[e * blocks + b + lane] = before + sum - v;
      before += __shfl_sync(~0u, sum, 31);
    }
    if (lane == 0) totals[e] = before, a.counts[e] = before;
  }
  __syncthreads();
  if (warp != 0) return;
  int32_t before = 0;
  for (int e = 0; e < a.experts; e += 32) {
    const int32_t padded = e + lane < a.experts ? (totals[e + lane] + a.align - 1) / a.align * a.align : 0,
                  sum = warp_prefix(padded);
    if (e + lane < a.experts) a.offsets[e + lane] = before + sum - padded;
    before += __shfl_sync(~0u, sum, 31);
  }
  if (lane == 0) a.offsets[a.experts] = before;
}

__global__ void __launch_bounds__(256) place(PermutePlan a, int64_t slots, int64_t blocks, const int32_t* hist) {
  WEFT_DYNAMIC_SMEM(place_smem);
  int32_t* next = reinterpret_cast<int32_t*>(place_smem);  // next row of each expert
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  for (int e = threadIdx.x; e < a.experts; e += 256) next[e] = a.offsets[e] + hist[e * blocks + blockIdx.x];
  __syncthreads();
  for (int i = 0; i < kSlots; i += 256) {
    const int64_t slot = static_cast<int64_t>(blockIdx.x) * kSlots + i + threadIdx.x;
    int32_t e = slot < slots ? a.indices[slot] : -1;
    if (e >= a.experts) e = -1;
    const unsigned same = __match_any_sync(~0u, e), earlier = same & ((1u << lane) - 1);
    for (int w = 0; w < 8; ++w) {  // warp after warp: the order of slots
      if (warp == w && e >= 0) {
        const int32_t row = next[e] + __popc(earlier);
        a.row_of_slot[slot] = row;
        if (row < a.max_rows) a.slot_of_row[row] = static_cast<int32_t>(slot);
      }
      if (warp == w) {
        __syncwarp();
        if (e >= 0 && earlier == 0) next[e] += __popc(same);
      }
      __syncthreads();
    }
    if (e < 0 && slot < slots) a.row_of_slot[slot] = -1;
  }
}

}  // namespace

Support supports_permute_plan_sm90(const PermutePlan& a, const Device& d) {
  if (a.experts < 1 || a.experts > 8192) return {"experts is not in 1 .. 8192"};
  if (a.align < 1) return {"align is below 1"};
  if (a.tokens * a.k + static_cast<int64_t>(a.experts) * (a.align - 1) >= int64_t{1} << 31) return {"more than 2^31 rows"};
  return on_sm90(d);
}

size_t workspace_permute_plan_sm90(const PermutePlan& a) {
  return sizeof(int32_t) * static_cast<size_t>(a.experts) * static_cast<size_t>(ceil_div(a.tokens * a.k, kSlots) + 1);
}

void permute_plan_sm90(const PermutePlan& a, const Launch& launch) {
  const int64_t slots = a.tokens * a.k, blocks = slots > 0 ? ceil_div(slots, kSlots) : 1;
  int32_t* hist = static_cast<int32_t*>(launch.workspace);
  const size_t smem = sizeof(int32_t) * static_cast<size_t>(a.experts);
  const dim3 grid(static_cast<unsigned>(blocks));
  launch_grid(count, grid, dim3(256), smem, launch.stream, a, slots, blocks, hist);
  launch_grid(scan, dim3(1), dim3(1024), smem, launch.stream, a, blocks, hist);
  launch_grid(place, grid, dim3(256), smem, launch.stream, a, slots, blocks, static_cast<const int32_t*>(hist));
}

}  // namespace weft::kernels
