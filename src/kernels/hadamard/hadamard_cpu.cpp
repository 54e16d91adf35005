#include <vector>

#include "kernels/cpu.h"
#include "kernels/hadamard/hadamard.h"

namespace weft::kernels {
namespace {

WEFT_CLONES void butterfly(float* v, int32_t cols) {
  for (int32_t half = 1; half < cols; half *= 2)
    for (int32_t at = 0; at < cols; at += 2 * half) {
#pragma omp simd
      for (int32_t i = at; i < at + half; ++i) {
        const float a = v[i], b = v[i + half];
        v[i] = a + b, v[i + half] = a - b;
      }
    }
}

template <class T>
WEFT_CLONES void run_row(const T* x, T* y, float* v, int32_t cols, float scale) {
#pragma omp simd
  for (int32_t c = 0; c < cols; ++c) v[c] = to_f32(x[c]);
  butterfly(v, cols);
#pragma omp simd
  for (int32_t c = 0; c < cols; ++c) y[c] = from_f32<T>(v[c] * scale);
}

template <class T>
void run(const Hadamard& a, const Launch& launch) {
  parallel_for(launch.parallel, a.rows, row_grain(a.cols), [&](int64_t begin, int64_t end) {
    std::vector<float> v(static_cast<size_t>(a.cols));
    for (int64_t r = begin; r < end; ++r)
      run_row(static_cast<const T*>(a.x) + r * a.cols, static_cast<T*>(a.y) + r * a.cols, v.data(), a.cols, a.scale);
  });
}

}  // namespace

Support supports_hadamard_cpu(const Hadamard& a, const Device& device) {
  if (const Support s = on_cpu(device, a.dtype); !s) return s;
  if (a.cols <= 0 || (a.cols & (a.cols - 1)) != 0) return {"cols is not a power of two"};
  return {};
}

void hadamard_cpu(const Hadamard& a, const Launch& launch) { a.dtype == DType::kF32 ? run<float>(a, launch) : run<bf16>(a, launch); }

}  // namespace weft::kernels
