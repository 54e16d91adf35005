// Four vectors of eight elements a thread, two draws of four words each, while the vectors are on their way. Bound: the draws issue 100
// instructions a vector.
#include "kernels/dropout/dropout.h"

#include "kernels/common/flat.cuh"
#include "kernels/common/random.cuh"

namespace weft::kernels {
namespace {

using namespace dev;

// The words of the four elements that `element` is of.
__device__ __forceinline__ uint4 draw(const Dropout& a, int64_t element) {
  const uint64_t at = static_cast<uint64_t>(a.offset + element) / 4;
  return philox(make_uint4(static_cast<uint32_t>(at), static_cast<uint32_t>(at >> 32), static_cast<uint32_t>(a.stream),
                           static_cast<uint32_t>(a.stream >> 32)),
                philox_key(a.seed));
}

constexpr int kUnroll = 4;

template <class T, bool kResidual>
__global__ void __launch_bounds__(kFlatThreads) dropout_vectors(Dropout a, uint32_t threshold, float scale) {
  const int64_t base = static_cast<int64_t>(blockIdx.x) * kUnroll * kFlatThreads + threadIdx.x, vectors = a.count / 8;
  Vec8<T> x[kUnroll], r[kResidual ? kUnroll : 1];
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const int64_t v = base + k * kFlatThreads;
    if (v >= vectors) continue;
    x[k] = load8(static_cast<const T*>(a.x) + v * 8);
    if constexpr (kResidual) r[k] = load8(static_cast<const T*>(a.residual) + v * 8);
  }
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const int64_t v = base + k * kFlatThreads;
    if (v >= vectors) continue;
    const uint4 low = draw(a, v * 8), high = draw(a, v * 8 + 4);  // before the first use of what is loaded
    const uint32_t words[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    float f[8], g[8] = {};
    unpack(x[k], f);
    if constexpr (kResidual) unpack(r[k], g);
#pragma unroll
    for (int j = 0; j < 8; ++j) f[j] = words[j] >= threshold ? g[j] + f[j] * scale : g[j];
    store8(static_cast<T*>(a.y) + v * 8, f);
  }
}

// Elements from `first` on, one a thread: what is left over, or all of an unaligned tensor.
template <class T>
__global__ void __launch_bounds__(kFlatThreads) dropout_elements(Dropout a, uint32_t threshold, float scale, int64_t first) {
  const int64_t i = first + static_cast<int64_t>(blockIdx.x) * kFlatThreads + threadIdx.x;
  if (i >= a.count) return;
  const uint4 words = draw(a, i);
  const int64_t j = (a.offset + i) % 4;
  const uint32_t word = j == 0 ? words.x : j == 1 ? words.y : j == 2 ? words.z : words.w;
  const float r = a.residual == nullptr ? 0.0f : to_f32(static_cast<const T*>(a.residual)[i]);
  static_cast<T*>(a.y)[i] = from_f32<T>(word >= threshold ? r + to_f32(static_cast<const T*>(a.x)[i]) * scale : r);
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
  const float scale = 1.0f / (1.0f - a.p);
  with_float_type(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const int64_t vectors = aligned ? a.count / 8 : 0, left = a.count - vectors * 8;
    auto go = [&](auto kernel) {
      if (vectors > 0) launch_grid(kernel, dim3(flat_grid(vectors, kUnroll)), dim3(kFlatThreads), 0, launch.stream, a, threshold, scale);
    };
    if (a.residual != nullptr)
      go(dropout_vectors<T, true>);
    else
      go(dropout_vectors<T, false>);
    if (left > 0)
      launch_grid(dropout_elements<T>, dim3(flat_grid(left, 1)), dim3(kFlatThreads), 0, launch.stream, a, threshold, scale, vectors * 8);
  });
}

}  // namespace weft::kernels
