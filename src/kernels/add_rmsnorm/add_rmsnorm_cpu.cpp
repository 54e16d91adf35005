#include <cmath>

#include "kernels/add_rmsnorm/add_rmsnorm.h"
#include "kernels/cpu.h"
#include "kernels/row_parts.h"

namespace weft::kernels {
namespace {

RowParts parts_of(const AddRmsNormBwd& a) { return {a.rows, a.cols}; }

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
  sum_row_parts(parts_of(a), launch, [&](int64_t r, float* dw) {
    bwd_row(static_cast<const T*>(a.dy) + r * a.cols, a.dsum == nullptr ? nullptr : static_cast<const T*>(a.dsum) + r * a.cols,
            static_cast<const T*>(a.sum) + r * a.cols, static_cast<const T*>(a.w), a.rstd[r], static_cast<T*>(a.dx) + r * a.cols, dw, a.cols);
  });
  add_row_parts(parts_of(a), launch, 0, a.cols, a.dw);
}

}  // namespace

Support supports_add_rms_norm_fwd_cpu(const AddRmsNormFwd& a, const Device& device) { return on_cpu(device, a.dtype); }
Support supports_add_rms_norm_bwd_cpu(const AddRmsNormBwd& a, const Device& device) { return on_cpu(device, a.dtype); }

size_t workspace_add_rms_norm_bwd_cpu(const AddRmsNormBwd& a) { return parts_of(a).workspace(); }

void add_rms_norm_fwd_cpu(const AddRmsNormFwd& a, const Launch& launch) {
  a.dtype == DType::kF32 ? run_fwd<float>(a, launch) : run_fwd<bf16>(a, launch);
}
void add_rms_norm_bwd_cpu(const AddRmsNormBwd& a, const Launch& launch) {
  a.dtype == DType::kF32 ? run_bwd<float>(a, launch) : run_bwd<bf16>(a, launch);
}

}  // namespace weft::kernels
