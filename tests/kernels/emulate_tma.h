// The copy engine on the host emulation. What leaves shared memory is read only when its thread waits for that, so a buffer that is written
// again too early shows. Included by kernels/common/tma.cuh.
#pragma once
#include "emulate.h"

namespace emulate {

// What a tensor map says: boxes of 128 bytes a row in the 128-byte swizzle; what lies outside the tensor comes as zeros and is not written.
struct TensorMap {
  uint8_t* data;
  int64_t cols, rows, batch, row_stride;  // of elements
  int box_rows, bytes;                    // of an element
};
inline TensorMap tensor_map_of(const void* data, int64_t cols, int64_t rows, int64_t batch, int64_t row_stride, int box_rows, int bytes) {
  if (reinterpret_cast<uintptr_t>(data) % 16 != 0 || row_stride * bytes % 16 != 0 || cols < 1 || rows < 1 || box_rows > 256) std::fprintf(stderr, "emulate: a tensor map's limits\n"), std::abort();
  return {static_cast<uint8_t*>(const_cast<void*>(data)), cols, rows, batch, row_stride, box_rows, bytes};
}

// f(element in shared memory, element in the tensor or null outside of it) for a box of 128 bytes a row in the 128-byte swizzle.
template <class F>
void each_of_box(const TensorMap& m, uint8_t* smem, int c0, int c1, int c2, F f) {
  if (reinterpret_cast<uintptr_t>(smem) % 1024 != 0) std::fprintf(stderr, "emulate: a box is not 1024-byte aligned\n"), std::abort();
  for (int r = 0; r < m.box_rows; ++r)
    for (int c = 0; c < 128 / m.bytes; ++c) {
      uintptr_t at = reinterpret_cast<uintptr_t>(smem) + r * 128 + c * m.bytes;
      at ^= (at >> 7 & 7) << 4;
      const int64_t row = int64_t{c1} + r, col = int64_t{c0} + c;
      const bool inside = row >= 0 && row < m.rows && col >= 0 && col < m.cols && c2 >= 0 && c2 < m.batch;
      f(reinterpret_cast<uint8_t*>(at), inside ? m.data + ((c2 * m.rows + row) * m.row_stride + col) * m.bytes : nullptr);
    }
}
inline void tma_load(void* smem, const TensorMap* map, uint64_t* barrier, int c0, int c1, int c2) {
  std::memset(smem, 0xff, static_cast<size_t>(map->box_rows) * 128);
  block()->bulks.push_back({[=, m = *map] {
    each_of_box(m, static_cast<uint8_t*>(smem), c0, c1, c2, [&](uint8_t* to, const uint8_t* from) {
      if (from != nullptr) std::memcpy(to, from, m.bytes); else std::memset(to, 0, m.bytes);
    });
  }, barrier, map->box_rows * 128});
}
inline void bulk_load(void* smem, const void* global, int bytes, uint64_t* barrier) {
  if ((reinterpret_cast<uintptr_t>(global) | reinterpret_cast<uintptr_t>(smem) | static_cast<uintptr_t>(bytes)) % 16 != 0) std::fprintf(stderr, "emulate: bulk copy is not 16-byte aligned\n"), std::abort();
  std::memset(smem, 0xff, static_cast<size_t>(bytes));
  block()->bulks.push_back({[=] { std::memcpy(smem, global, static_cast<size_t>(bytes)); }, barrier, bytes});
}
template <bool add>
void tma_out(const TensorMap* map, const void* smem, int c0, int c1, int c2) {
  Thread& t = *block()->now;
  t.stores.push_back({[=, m = *map] {
    each_of_box(m, static_cast<uint8_t*>(const_cast<void*>(smem)), c0, c1, c2, [&](const uint8_t* from, uint8_t* to) {
      if (to == nullptr) return;
      if constexpr (add) *reinterpret_cast<float*>(to) += *reinterpret_cast<const float*>(from); else std::memcpy(to, from, m.bytes);
    });
  }, t.store_group});
}

}  // namespace emulate

namespace weft::kernels {

using CUtensorMap = emulate::TensorMap;
using emulate::barrier_expect;
using emulate::bulk_load;
using emulate::tma_load;
inline void fence_barrier_init() {}
inline void tma_store(const CUtensorMap* map, const void* smem, int c0, int c1, int c2) { emulate::tma_out<false>(map, smem, c0, c1, c2); }
inline void tma_add(const CUtensorMap* map, const void* smem, int c0, int c1, int c2) { emulate::tma_out<true>(map, smem, c0, c1, c2); }
inline void tma_prefetch_map(const CUtensorMap*) {}
inline CUtensorMap tensor_map(const void* data, int64_t cols, int64_t rows, int64_t batch, int64_t row_stride, int box_rows) {
  return emulate::tensor_map_of(data, cols, rows, batch, row_stride, box_rows, 2);
}
inline CUtensorMap tensor_map_f32(const float* data, int64_t cols, int64_t rows, int64_t batch, int64_t row_stride, int box_rows) {
  return emulate::tensor_map_of(data, cols, rows, batch, row_stride, box_rows, 4);
}
inline int sm_count() { return 3; }  // few, so that every block of a persistent grid goes round more than once

}  // namespace weft::kernels
