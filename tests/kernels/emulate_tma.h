// The copy engine and its barriers on the host emulation. Boxes land in shared memory only when somebody waits at their barrier, and leave it
// only when their thread waits for that, so a wait that is missing shows. Included after emulate.h.
#pragma once
#include <cuda.h>

#include "emulate.h"

namespace emulate {

struct TensorMap {  // what CUtensorMap holds here
  uint8_t* data;
  int64_t cols, rows, batch, row_stride;  // of elements
  int box_rows, bytes;                    // of an element
};
static_assert(sizeof(TensorMap) <= sizeof(CUtensorMap));

inline CUtensorMap encode_map(const void* data, int64_t cols, int64_t rows, int64_t batch, int64_t row_stride, int box_rows, int bytes) {
  if (reinterpret_cast<uintptr_t>(data) % 16 != 0 || row_stride * bytes % 16 != 0 || box_rows > 256 || cols <= 0 || rows <= 0)
    std::fprintf(stderr, "emulate: a tensor map of %lld x %lld, rows %lld apart, is not one\n", static_cast<long long>(rows), static_cast<long long>(cols), static_cast<long long>(row_stride)), std::abort();
  const TensorMap m{static_cast<uint8_t*>(const_cast<void*>(data)), cols, rows, batch, row_stride, box_rows, bytes};
  CUtensorMap map;
  std::memcpy(&map, &m, sizeof m);
  return map;
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
inline TensorMap decoded(const CUtensorMap* map) {
  TensorMap m;
  std::memcpy(&m, map, sizeof m);
  return m;
}

inline void barrier_expect(uint64_t* b, int bytes) {
  block()->expected[b] += bytes;
  barrier_arrive(b);
}
inline void tma_load(void* smem, const CUtensorMap* map, uint64_t* barrier, int c0, int c1, int c2) {
  const TensorMap m = decoded(map);
  block()->loads.push_back({barrier, m.box_rows * 128, [=] {
                              each_of_box(m, static_cast<uint8_t*>(smem), c0, c1, c2, [&](uint8_t* to, const uint8_t* from) {
                                if (from != nullptr) std::memcpy(to, from, m.bytes); else std::memset(to, 0, m.bytes);
                              });
                            }});
}
template <bool add>
void tma_out(const CUtensorMap* map, const void* smem, int c0, int c1, int c2) {
  const TensorMap m = decoded(map);
  Thread& t = *block()->now;
  t.outs.push_back({t.out_group, [=] {
                      each_of_box(m, static_cast<uint8_t*>(const_cast<void*>(smem)), c0, c1, c2, [&](const uint8_t* from, uint8_t* to) {
                        if (to == nullptr) return;
                        if constexpr (add) *reinterpret_cast<float*>(to) += *reinterpret_cast<const float*>(from); else std::memcpy(to, from, m.bytes);
                      });
                    }});
}

}  // namespace emulate

namespace weft::kernels {

using emulate::barrier_expect;
using emulate::tma_load;
inline void fence_barrier_init() {}
inline void tma_store(const CUtensorMap* map, const void* smem, int c0, int c1, int c2) { emulate::tma_out<false>(map, smem, c0, c1, c2); }
inline void tma_add(const CUtensorMap* map, const void* smem, int c0, int c1, int c2) { emulate::tma_out<true>(map, smem, c0, c1, c2); }
inline void tma_prefetch_map(const CUtensorMap*) {}
inline CUtensorMap tensor_map(const void* data, int64_t cols, int64_t rows, int64_t batch, int64_t row_stride, int box_rows) {
  return emulate::encode_map(data, cols, rows, batch, row_stride, box_rows, 2);
}
inline CUtensorMap tensor_map_f32(const float* data, int64_t cols, int64_t rows, int64_t batch, int64_t row_stride, int box_rows) {
  return emulate::encode_map(data, cols, rows, batch, row_stride, box_rows, 4);
}
inline int sm_count() { return 3; }  // few, so that persistent blocks go round

}  // namespace weft::kernels
