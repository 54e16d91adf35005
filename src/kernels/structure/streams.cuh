// What both directions of the structure embedding share.
#pragma once
#include "kernels/common/device.cuh"
#include "kernels/structure/structure.h"

namespace weft::kernels::structure {

// Row of the table for stream c at token t, or -1.
__device__ __forceinline__ int32_t row_of(const StructureStreams& s, int c, int32_t offset, int64_t t) {
  if (s.ids[c] == nullptr) return -1;
  const int32_t id = s.ids[c][t];
  return id < 0 || s.classes[c] == 0 ? -1 : offset + (id < s.classes[c] ? id : s.classes[c] - 1);
}

inline int32_t rows_of(const StructureStreams& s) {
  int32_t rows = 0;
  for (int c = 0; c < s.num; ++c) rows += s.classes[c];
  return rows;
}
inline Support fits(const StructureStreams& s, const Device& d, DType t) {
  if (s.num < 1 || s.num > 8) return {"streams are not 1 to 8"};
  return on_sm90(d, t);
}

}  // namespace weft::kernels::structure
