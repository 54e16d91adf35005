// The radix sort of CUB, in one translation unit: its templates are slow to build.
#include "kernels/common/sort.h"

#if defined(WEFT_EMULATE)
#include <algorithm>
#include <numeric>
#include <vector>

namespace weft::kernels {

size_t sort_pairs_workspace(int64_t, int) { return 256; }
void sort_pairs(const uint32_t* keys, uint32_t* sorted_keys, const uint32_t* values, uint32_t* sorted_values, int64_t count, int, void*, cudaStream_t) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return keys[a] < keys[b]; });
  for (int64_t i = 0; i < count; ++i) sorted_keys[i] = keys[order[i]], sorted_values[i] = values[order[i]];
}

}  // namespace weft::kernels
#else
#include <cub/device/device_radix_sort.cuh>

#include "kernels/cuda_check.h"

namespace weft::kernels {

size_t sort_pairs_workspace(int64_t count, int bits) {
  size_t bytes = 0;
  const uint32_t* in = nullptr;
  uint32_t* out = nullptr;
  if (const cudaError_t e = cub::DeviceRadixSort::SortPairs(nullptr, bytes, in, out, in, out, static_cast<uint32_t>(count), 0, bits); e != cudaSuccess)
    throw_cuda("sort_pairs_workspace", e);
  return bytes;
}

void sort_pairs(const uint32_t* keys, uint32_t* sorted_keys, const uint32_t* values, uint32_t* sorted_values, int64_t count, int bits,
                void* workspace, cudaStream_t stream) {
  size_t bytes = sort_pairs_workspace(count, bits);
  if (const cudaError_t e = cub::DeviceRadixSort::SortPairs(workspace, bytes, keys, sorted_keys, values, sorted_values, static_cast<uint32_t>(count), 0,
                                                            bits, stream);
      e != cudaSuccess)
    throw_cuda("sort_pairs", e);
}

}  // namespace weft::kernels
#endif
