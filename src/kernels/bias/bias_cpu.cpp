#include <algorithm>

#include "kernels/bias/bias.h"
#include "kernels/cpu.h"

namespace weft::kernels {
namespace {

constexpr int64_t kRowsPerPart = 256;  // db is summed per part, then part by part: the same for any number of threads

template <class T>
WEFT_CLONES void fwd_row(const T* x, const T* b, T* y, int32_t cols) {
#pragma omp simd
  for (int32_t c = 0; c < cols; ++c) y[c] = from_f32<T>(to_f32(x[c]) + to_f32(b[c]));
}

template <class T>
WEFT_CLONES void add_row(const T* dy, float* sum, int32_t cols) {
#pragma omp simd
  for (int32_t c = 0; c < cols; ++c) sum[c] += to_f32(dy[c]);
}

template <class T>
void run_fwd(const BiasFwd& a, const Launch& launch) {
  parallel_for(launch.parallel, a.rows, row_grain(a.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      fwd_row(static_cast<const T*>(a.x) + r * a.cols, static_cast<const T*>(a.b), static_cast<T*>(a.y) + r * a.cols, a.cols);
  });
}

template <class T>
void run_bwd(const BiasBwd& a, const Launch& launch) {
  const int64_t parts = (a.rows + kRowsPerPart - 1) / kRowsPerPart;
  float* sums = static_cast<float*>(launch.workspace);
  parallel_for(launch.parallel, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      float* sum = sums + p * a.cols;
      std::fill(sum, sum + a.cols, 0.0f);
      for (int64_t r = p * kRowsPerPart; r < std::min(a.rows, (p + 1) * kRowsPerPart); ++r)
        add_row(static_cast<const T*>(a.dy) + r * a.cols, sum, a.cols);
    }
  });
  for (int64_t p = 0; p < parts; ++p) add_row(sums + p * a.cols, a.db, a.cols);
}

Support supports(DType dtype, const Device& device) {
  if (device.kind != Device::kCpu) return {"runs on the CPU only"};
  if (dtype != DType::kF32 && dtype != DType::kBf16) return {"dtype is not f32 or bf16"};
  return {};
}

}  // namespace

Support supports_bias_fwd_cpu(const BiasFwd& a, const Device& device) { return supports(a.dtype, device); }
Support supports_bias_bwd_cpu(const BiasBwd& a, const Device& device) { return supports(a.dtype, device); }

size_t workspace_bias_bwd_cpu(const BiasBwd& a) {
  return static_cast<size_t>((a.rows + kRowsPerPart - 1) / kRowsPerPart) * static_cast<size_t>(a.cols) * sizeof(float);
}

void bias_fwd_cpu(const BiasFwd& a, const Launch& launch) { a.dtype == DType::kF32 ? run_fwd<float>(a, launch) : run_fwd<bf16>(a, launch); }
void bias_bwd_cpu(const BiasBwd& a, const Launch& launch) { a.dtype == DType::kF32 ? run_bwd<float>(a, launch) : run_bwd<bf16>(a, launch); }

}  // namespace weft::kernels
