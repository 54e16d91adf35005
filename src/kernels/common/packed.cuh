// Packed documents on the device: which document and chunk a saved-state slot belongs to.
#pragma once
#include "kernels/common/grid.cuh"

namespace weft::kernels {

struct ChunkPlace {
  int64_t first;  // first token of the chunk
  int count;      // tokens in it, 0: the slot belongs to no chunk
  int document;
  int index;      // chunk within the document
};

__device__ __forceinline__ int64_t first_slot(int64_t document_start, int64_t document, int chunk) { return document_start / chunk + document; }

// The document whose slots hold `slot`: the last d with first_slot(cu[d], d) <= slot.
__device__ __forceinline__ ChunkPlace place_of_slot(const int32_t* cu, int64_t documents, int64_t slot, int chunk) {
  int64_t low = 0, high = documents - 1;
  while (low < high) {
    const int64_t mid = (low + high + 1) / 2;
    if (first_slot(cu[mid], mid, chunk) <= slot) low = mid; else high = mid - 1;
  }
  const int64_t start = cu[low], end = cu[low + 1], index = slot - first_slot(start, low, chunk);
  const int64_t left = end - start - index * chunk;
  return {start + index * chunk, static_cast<int>(left < 0 ? 0 : left < chunk ? left : chunk), static_cast<int>(low), static_cast<int>(index)};
}

}  // namespace weft::kernels
