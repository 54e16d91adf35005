#include <cstring>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/rope/rope.h"

namespace weft::kernels {
namespace {

// Strides of u and of w inside a head for one side: pair i is at (i * step, i * step + gap).
struct Side {
  int32_t step, gap;
};
Side side(bool adjacent, int32_t rotated) { return adjacent ? Side{2, 1} : Side{1, rotated / 2}; }

template <class T>
WEFT_CLONES void rotate_half(const T* x, T* y, const float* cos, const float* sin, float sign, int32_t half) {
#pragma omp simd
  for (int32_t i = 0; i < half; ++i) {
    const float u = to_f32(x[i]), w = to_f32(x[i + half]), c = cos[i], s = sign * sin[i];
    y[i] = from_f32<T>(u * c - w * s);
    y[i + half] = from_f32<T>(u * s + w * c);
  }
}

template <class T>
void rotate(const T* x, T* y, const float* cos, const float* sin, float sign, int32_t half, Side in, Side out) {
  for (int32_t i = 0; i < half; ++i) {
    const float u = to_f32(x[i * in.step]), w = to_f32(x[i * in.step + in.gap]), c = cos[i], s = sign * sin[i];
    y[i * out.step] = from_f32<T>(u * c - w * s);
    y[i * out.step + out.gap] = from_f32<T>(u * s + w * c);
  }
}

template <class T>
void run(const Rope& a, const Launch& launch) {
  const bool turns_half = a.pairing == Rope::kAdjacentToHalf;
  const bool in_adjacent = a.pairing == Rope::kAdjacent || (turns_half && !a.inverse);
  const bool out_adjacent = a.pairing == Rope::kAdjacent || (turns_half && a.inverse);
  const Side in = side(in_adjacent, a.rot_dim), out = side(out_adjacent, a.rot_dim);
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
        if (a.pairing == Rope::kHalf) {
          rotate_half(x + a.rot_begin, y + a.rot_begin, cos, sin, sign, half);
        } else {
          rotate(x + a.rot_begin, row.data(), cos, sin, sign, half, in, out);
          std::memcpy(y + a.rot_begin, row.data(), sizeof(T) * row.size());
        }
      }
    }
  });
}

}  // namespace

Support supports_rope_cpu(const Rope& a, const Device& device) { return on_cpu(device, a.dtype); }

void rope_cpu(const Rope& a, const Launch& launch) { a.dtype == DType::kF32 ? run<float>(a, launch) : run<bf16>(a, launch); }

}  // namespace weft::kernels
