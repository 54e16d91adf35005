// Each span is cut in parts of a fixed size, each summed in fp64; the parts are added in order: the same for any
// number of threads.
#include <algorithm>
#include <cmath>

#include "kernels/cpu.h"
#include "kernels/grad_norm/grad_norm.h"

namespace weft::kernels {
namespace {

constexpr int64_t kPart = 1 << 16;

struct Sum {
  double squares;
  int64_t bad;
};

WEFT_CLONES double sum_squares(const float* x, int32_t n) {
  double squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int32_t i = 0; i < n; ++i) squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return squares;
}

// A square in fp64 cannot overflow, so only a block whose sum is not finite holds an inf or NaN.
template <class T>
Sum sum_part(const T* x, int64_t n) {
  Sum s{0, 0};
  Block<T> block;
  for (int64_t begin = 0; begin < n; begin += kFloats) {
    const int32_t count = static_cast<int32_t>(n - begin < kFloats ? n - begin : kFloats);
    const float* values = block.read(x + begin, count);
    const double squares = sum_squares(values, count);
    if (!std::isfinite(squares))
      for (int32_t i = 0; i < count; ++i) s.bad += std::isfinite(values[i]) ? 0 : 1;
    s.squares += squares;
  }
  return s;
}

template <class T>
WEFT_CLONES void scale(T* x, float factor, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) x[i] = from_f32<T>(to_f32(x[i]) * factor);
}

int64_t parts_of(int64_t count) { return (count + kPart - 1) / kPart; }

}  // namespace

Support supports_grad_norm_cpu(const GradNorm& a, const Device& device) { return on_cpu(device, a.dtype); }
Support supports_scale_buffer_cpu(const ScaleBuffer& a, const Device& device) { return on_cpu(device, a.dtype); }
Support supports_clip_factor_cpu(const ClipFactor&, const Device& device) { return on_cpu(device); }

size_t workspace_grad_norm_cpu(const GradNorm& a) {
  int64_t most = 0;
  for (int32_t s = 0; s < a.num_spans; ++s) most = std::max(most, parts_of(a.spans[s].count));
  return static_cast<size_t>(most) * sizeof(Sum);
}

void grad_norm_cpu(const GradNorm& a, const Launch& launch) {
  Sum total{a.add ? *a.sum_sq : 0, a.add ? *a.non_finite : 0};
  Sum* sums = static_cast<Sum*>(launch.workspace);
  for (int32_t s = 0; s < a.num_spans; ++s) {
    const GradSpan& span = a.spans[s];
    const int64_t parts = parts_of(span.count);
    parallel_for(launch.parallel, parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; ++p) {
        const int64_t n = std::min(kPart, span.count - p * kPart);
        sums[p] = a.dtype == DType::kF32 ? sum_part(static_cast<const float*>(span.data) + p * kPart, n)
                                         : sum_part(static_cast<const bf16*>(span.data) + p * kPart, n);
      }
    });
    for (int64_t p = 0; p < parts; ++p) total.squares += sums[p].squares, total.bad += sums[p].bad;
  }
  *a.sum_sq = total.squares;
  *a.non_finite = static_cast<int32_t>(std::min<int64_t>(total.bad, 0x7fffffff));
}

void clip_factor_cpu(const ClipFactor& a, const Launch&) {
  const double norm = std::sqrt(*a.sum_sq);
  const bool finite = std::isfinite(norm);
  if (a.norm != nullptr) *a.norm = static_cast<float>(norm);
  *a.factor = !finite ? 0.0f : a.max_norm > 0 ? static_cast<float>(std::min(1.0, a.max_norm / (norm + 1e-6))) : 1.0f;
  if (a.skip != nullptr) *a.skip = *a.non_finite != 0 || !finite ? 1 : 0;
}

void scale_buffer_cpu(const ScaleBuffer& a, const Launch& launch) {
  parallel_for(launch.parallel, a.count, kPart, [&](int64_t begin, int64_t end) {
    a.dtype == DType::kF32 ? scale(static_cast<float*>(a.data) + begin, *a.factor, end - begin)
                           : scale(static_cast<bf16*>(a.data) + begin, *a.factor, end - begin);
  });
}

}  // namespace weft::kernels
