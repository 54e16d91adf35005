// The work list of the wgmma attention kernels: one block, a warp for each class of document lengths, two walks over the documents. No sum
// and no place depends on timing.
#include "kernels/attention/band.cuh"

namespace weft::kernels::band {
namespace {

constexpr int kClasses = 32, kThreads = kClasses * 32;

// 0: the longest. Four classes an octave of tiles, so that a class's documents differ by a quarter at most.
__device__ __forceinline__ int class_of(int tiles) {
  if (tiles < 4) return kClasses - 1 - tiles;
  const int octave = 31 - __clz(tiles), c = 4 * (octave - 1) + (tiles >> (octave - 2) & 3);
  return c >= kClasses ? 0 : kClasses - 1 - c;
}
__device__ __forceinline__ int scan(int v) {  // inclusive
#pragma unroll
  for (int o = 1; o < 32; o <<= 1) {
    const int left = __shfl_up_sync(0xffffffffu, v, o);
    if (lane_id() >= o) v += left;
  }
  return v;
}

__global__ void __launch_bounds__(kThreads) work_kernel(const int32_t* cu, const int32_t* lens, int documents, int rows, int32_t* next, WorkTile* tiles) {
  __shared__ int totals[kClasses];
  const int mine = warp_id(), lane = lane_id();
  const auto tiles_of = [&](int d) {  // 0 where the document is of another class
    if (d >= documents) return 0;
    const int n = ((lens == nullptr ? cu[d + 1] - cu[d] : lens[d]) + rows - 1) / rows;
    return n > 0 && class_of(n) == mine ? n : 0;
  };
  int total = 0;
  for (int d0 = 0; d0 < documents; d0 += 32) total += tiles_of(d0 + lane);
  total = __shfl_sync(0xffffffffu, scan(total), 31);
  if (lane == 0) totals[mine] = total;
  __syncthreads();
  const int upto = scan(totals[lane]), before = __shfl_sync(0xffffffffu, upto - totals[lane], mine);
  if (mine == 0 && lane == 31) next[0] = 0, next[1] = upto;
  int base = before;
  for (int d0 = 0; d0 < documents; d0 += 32) {
    const int n = tiles_of(d0 + lane), end = scan(n);
    unsigned has = __ballot_sync(0xffffffffu, n > 0);
    while (has != 0) {  // the warp writes one document's entries at a time
      const int from = __ffs(static_cast<int>(has)) - 1;
      has &= has - 1;
      const int count = __shfl_sync(0xffffffffu, n, from), at = base + __shfl_sync(0xffffffffu, end, from) - count;
      for (int i = lane; i < count; i += 32) tiles[at + i] = {d0 + from, at, count, 0};
    }
    base += __shfl_sync(0xffffffffu, end, 31);
  }
}

}  // namespace

size_t work_bytes(int64_t most_tiles) { return 256 + static_cast<size_t>(most_tiles) * sizeof(WorkTile); }

Work make_work(void* memory, const int32_t* cu, const int32_t* lens, int documents, int rows, int heads, cudaStream_t stream) {
  auto* next = static_cast<int32_t*>(memory);
  auto* tiles = reinterpret_cast<WorkTile*>(static_cast<uint8_t*>(memory) + 256);
  launch_grid(work_kernel, dim3(1), dim3(kThreads), 0, stream, cu, lens, documents, rows, next, tiles);
  return {next, tiles, heads};
}

}  // namespace weft::kernels::band
