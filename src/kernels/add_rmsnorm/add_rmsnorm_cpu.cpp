#include <algorithm>
#include <cmath>

#include "kernels/add_rmsnorm/add_rmsnorm.h"
#include "kernels/cpu.h"

namespace weft::kernels {
namespace {

constexpr int64_t kRowsPerPart = 64;  // dw is summed per part, then part by part: the same order for any number of threads

template <class T>
WEFT_CLONES void fwd_row(const T* x, const T* residual, const T* w, T* sum, T* y, float* rstd, int32_t cols, float eps) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int32_t c = 0; c < cols; ++c) {
    sum[c] = from_f32<T>(to_f32(x[c]) + to_f32(residual[c]));
    squares += to_f32(sum[c]) * to_f32(sum[c]);
  }
  const float scale = 1.0f / std::sqrt(squares / static_cast<float>(cols) + eps);
  if (rstd != nullptr) *rstd = scale;
#pragma omp simd
  for (int32_t c = 0; c < cols; ++c) y[c] = from_f32<T>(to_f32(sum[c]) * scale * to_f32(w[c]));
}

template <class T>
WEFT_CLONES void bwd_row(const T* dy, const T* dsum, const T* sum, const T* w, float rstd, T* dx, float* dw, int32_t cols) {
  float product = 0;
#pragma omp simd reduction(+ : product)
  for (int32_t c = 0; c < cols; ++c) product += to_f32(w[c]) * to_f32(dy[c]) * to_f32(sum[c]);
  const float k = product * rstd * rstd * rstd / static_cast<float>(cols);
  if (dsum != nullptr) {
#pragma omp simd
    for (int32_t c = 0; c < cols; ++c) {
      const float g = to_f32(dy[c]), v = to_f32(sum[c]);
      dw[c] += g * v * rstd;
      dx[c] = from_f32<T>(to_f32(dsum[c]) + (rstd * to_f32(w[c]) * g - k * v));
    }
  } else {
#pragma omp simd
    for (int32_t c = 0; c < cols; ++c) {
      const float g = to_f32(dy[c]), v = to_f32(sum[c]);
      dw[c] += g * v * rstd;
      dx[c] = from_f32<T>(rstd * to_f32(w[c]) * g - k * v);
    }
  }
}

template <class T>
void run_fwd(const AddRmsNormFwd& a, const Launch& launch) {
  parallel_for(launch.parallel, a.rows, row_grain(a.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      fwd_row(static_cast<const T*>(a.x) + r * a.cols, static_cast<const T*>(a.residual) + r * a.cols, static_cast<const T*>(a.w),
              static_cast<T*>(a.sum) + r * a.cols, static_cast<T*>(a.y) + r * a.cols, a.rstd == nullptr ? nullptr : a.rstd + r, a.cols, a.eps);
  });
}

template <class T>
void run_bwd(const AddRmsNormBwd& a, const Launch& launch) {
  const int64_t parts = (a.rows + kRowsPerPart - 1) / kRowsPerPart;
  float* sums = static_cast<float*>(launch.workspace);
  parallel_for(launch.parallel, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      float* dw = sums + p * a.cols;
      std::fill(dw, dw + a.cols, 0.0f);
      for (int64_t r = p * kRowsPerPart; r < std::min(a.rows, (p + 1) * kRowsPerPart); ++r)
        bwd_row(static_cast<const T*>(a.dy) + r * a.cols, a.dsum == nullptr ? nullptr : static_cast<const T*>(a.dsum) + r * a.cols,
                static_cast<const T*>(a.sum) + r * a.cols, static_cast<const T*>(a.w), a.rstd[r], static_cast<T*>(a.dx) + r * a.cols, dw,
                a.cols);
    }
  });
  if (a.dw == nullptr) return;
  for (int64_t p = 0; p < parts; ++p)
    for (int32_t c = 0; c < a.cols; ++c) a.dw[c] += sums[p * a.cols + c];
}

Support supports(DType dtype, const Device& device) {
  if (device.kind != Device::kCpu) return {"runs on the CPU only"};
  if (dtype != DType::kF32 && dtype != DType::kBf16) return {"dtype is not f32 or bf16"};
  return {};
}

}  // namespace

Support supports_add_rms_norm_fwd_cpu(const AddRmsNormFwd& a, const Device& device) { return supports(a.dtype, device); }
Support supports_add_rms_norm_bwd_cpu(const AddRmsNormBwd& a, const Device& device) { return supports(a.dtype, device); }

size_t workspace_add_rms_norm_bwd_cpu(const AddRmsNormBwd& a) {
  return static_cast<size_t>((a.rows + kRowsPerPart - 1) / kRowsPerPart) * static_cast<size_t>(a.cols) * sizeof(float);
}

void add_rms_norm_fwd_cpu(const AddRmsNormFwd& a, const Launch& launch) {
  a.dtype == DType::kF32 ? run_fwd<float>(a, launch) : run_fwd<bf16>(a, launch);
}
void add_rms_norm_bwd_cpu(const AddRmsNormBwd& a, const Launch& launch) {
  a.dtype == DType::kF32 ? run_bwd<float>(a, launch) : run_bwd<bf16>(a, launch);
}

}  // namespace weft::kernels
