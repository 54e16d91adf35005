// Stable sort of (key, value) pairs by the low `bits` bits of the key, on the device; used for gradients with one order of sums.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/launch.h"

namespace weft::kernels {

size_t sort_pairs_workspace(int64_t count, int bits);
void sort_pairs(const uint32_t* keys, uint32_t* sorted_keys, const uint32_t* values, uint32_t* sorted_values, int64_t count, int bits,
                void* workspace, cudaStream_t stream);

}  // namespace weft::kernels
