// Eight elements a thread: two draws of four words.
#include "kernels/dropout/dropout.h"

#include "kernels/common/flat.cuh"
#include "kernels/common/random.cuh"

namespace weft::kernels {
namespace {

using namespace dev;

template <class T>
__global__ void __launch_bounds__(kFlatThreads) dropout(Dropout a, uint32_t threshold, float scale, bool aligned) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kFlatThreads + threadIdx.x) * 8;
  if (i >= a.count) return;
  const int count = a.count - i < 8 ? static_cast<int>(a.count - i) : 8;
  const bool full = aligned && count == 8;
  float f[8], r[8] = {};
  load_some(static_cast<const T*>(a.x) + i, count, full, f);
  if (a.residual != nullptr) load_some(static_cast<const T*>(a.residual) + i, count, full, r);
  uint32_t words[8];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const uint64_t at = static_cast<uint64_t>(a.offset + i) / 4 + h;
    const uint4 w = philox(make_uint4(static_cast<uint32_t>(at), static_cast<uint32_t>(at >> 32), static_cast<uint32_t>(a.stream),
                                      static_cast<uint32_t>(a.stream >> 32)),
                           philox_key(a.seed));
    words[4 * h] = w.x, words[4 * h + 1] = w.y, words[4 * h + 2] = w.z, words[4 * h + 3] = w.w;
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) f[j] = words[j] >= threshold ? r[j] + f[j] * scale : r[j];
  store_some(static_cast<T*>(a.y) + i, count, full, f);
}

}  // namespace

Support supports_dropout_sm90(const Dropout& a, const Device& d) {
  if (!(a.p >= 0 && a.p < 1)) return {"p is not in [0, 1)"};
  if (a.offset % 4 != 0) return {"offset is not a multiple of 4"};
  return on_sm90(d, a.dtype);
}

void dropout_sm90(const Dropout& a, const Launch& launch) {
  if (a.count == 0) return;
  const bool aligned = is_aligned(a.x, 16) && is_aligned(a.residual, 16) && is_aligned(a.y, 16);
  const uint32_t threshold = static_cast<uint32_t>(static_cast<double>(a.p) * 4294967296.0);
  with_float_type(a.dtype, [&](auto type) {
    launch_grid(dropout<typename decltype(type)::type>, dim3(flat_grid(ceil_div(a.count, 8), 1)), dim3(kFlatThreads), 0,
                launch.stream, a, threshold, 1.0f / (1.0f - a.p), aligned);
  });
}

}  // namespace weft::kernels
