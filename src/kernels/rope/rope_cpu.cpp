#include <cstring>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/rope/rope.h"

namespace weft::kernels {
namespace {

// One head's rotated part. Pair i lies at 2 i and 2 i + 1 where pairs are adjacent, else at i and i + half. y may be x where both lie alike.
template <class T, bool kAdjacentIn, bool kAdjacentOut>
WEFT_CLONES void rotate(const T* x, T* y, const float* cos, const float* sin, float sign, int32_t half) {
  const int32_t in = kAdjacentIn ? 1 : half, out = kAdjacentOut ? 1 : half;
#pragma omp simd
  for (int32_t i = 0; i < half; ++i) {
    const int32_t from = kAdjacentIn ? 2 * i : i, to = kAdjacentOut ? 2 * i : i;
    const float u = to_f32(x[from]), w = to_f32(x[from + in]), c = cos[i], s = sign * sin[i];
    y[to] = from_f32<T>(u * c - w * s);
    y[to + out] = from_f32<T>(u * s + w * c);
  }
}

template <class T>
void run(const Rope& a, const Launch& launch) {
  const bool turns = a.pairing == Rope::kAdjacentToHalf;
  const auto rotate_head = a.pairing == Rope::kHalf       ? rotate<T, false, false>
                           : a.pairing == Rope::kAdjacent ? rotate<T, true, true>
                           : a.inverse                    ? rotate<T, false, true>
                                                          : rotate<T, true, false>;
  const int32_t half = a.rot_dim / 2, rest = a.rot_begin + a.rot_dim;
  const float sign = a.inverse ? -1.0f : 1.0f;
  parallel_for(launch.parallel, a.tokens, 1 + 16384 / (a.heads * a.head_dim + 1), [&](int64_t begin, int64_t end) {
    std::vector<T> row(static_cast<size_t>(a.rot_dim));
    for (int64_t t = begin; t < end; ++t) {
      const int64_t position = a.positions == nullptr ? t : a.positions[t];
      const float *cos = a.cos + position * half, *sin = a.sin + position * half;
      for (int32_t h = 0; h < a.heads; ++h) {
        const T* x = static_cast<const T*>(a.x) + t * a.x_token_stride + h * a.x_head_stride;
        T* y = static_cast<T*>(a.y) + t * a.y_token_stride + h * a.y_head_stride;
        if (x != y) {
          std::memcpy(y, x, sizeof(T) * static_cast<size_t>(a.rot_begin));
          std::memcpy(y + rest, x + rest, sizeof(T) * static_cast<size_t>(a.head_dim - rest));
        }
        T* to = turns && x == y ? row.data() : y + a.rot_begin;
        rotate_head(x + a.rot_begin, to, cos, sin, sign, half);
        if (to == row.data()) std::memcpy(y + a.rot_begin, to, sizeof(T) * row.size());
      }
    }
  });
}

}  // namespace

Support supports_rope_cpu(const Rope& a, const Device& device) { return on_cpu(device, a.dtype); }

void rope_cpu(const Rope& a, const Launch& launch) { a.dtype == DType::kF32 ? run<float>(a, launch) : run<bf16>(a, launch); }

}  // namespace weft::kernels
