#include <cmath>

#include "kernels/cpu.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/row_parts.h"

namespace weft::kernels {
namespace {

RowParts parts_of(const RmsNormBwd& a) { return {a.rows, a.cols}; }

template <class T>
WEFT_CLONES void fwd_row(const T* x, const T* w, T* y, float* rstd, int32_t cols, float eps) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int32_t c = 0; c < cols; ++c) sum += to_f32(x[c]) * to_f32(x[c]);
  const float scale = 1.0f / std::sqrt(sum / static_cast<float>(cols) + eps);
  if (rstd != nullptr) *rstd = scale;
#pragma omp simd
  for (int32_t c = 0; c < cols; ++c) y[c] = from_f32<T>(to_f32(x[c]) * scale * to_f32(w[c]));
}

template <class T>
WEFT_CLONES void bwd_row(const T* dy, const T* x, const T* w, float rstd, T* dx, float* dw, int32_t cols) {
  float dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int32_t c = 0; c < cols; ++c) dot += to_f32(w[c]) * to_f32(dy[c]) * to_f32(x[c]);
  const float k = dot * rstd * rstd * rstd / static_cast<float>(cols);
#pragma omp simd
  for (int32_t c = 0; c < cols; ++c) {
    const float g = to_f32(dy[c]), v = to_f32(x[c]);
    dw[c] += g * v * rstd;
    dx[c] = from_f32<T>(rstd * to_f32(w[c]) * g - k * v);
  }
}

template <class T>
void run_fwd(const RmsNormFwd& a, const Launch& launch) {
  parallel_for(launch.parallel, a.rows, 1 + 16384 / (a.cols + 1), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      fwd_row(static_cast<const T*>(a.x) + r * a.cols, static_cast<const T*>(a.w), static_cast<T*>(a.y) + r * a.cols,
              a.rstd == nullptr ? nullptr : a.rstd + r, a.cols, a.eps);
  });
}

template <class T>
void run_bwd(const RmsNormBwd& a, const Launch& launch) {
  sum_row_parts(parts_of(a), launch, [&](int64_t r, float* dw) {
    bwd_row(static_cast<const T*>(a.dy) + r * a.cols, static_cast<const T*>(a.x) + r * a.cols, static_cast<const T*>(a.w), a.rstd[r],
            static_cast<T*>(a.dx) + r * a.cols, dw, a.cols);
  });
  add_row_parts(parts_of(a), launch, 0, a.cols, a.dw);
}

}  // namespace

Support supports_rms_norm_fwd_cpu(const RmsNormFwd& a, const Device& device) { return on_cpu(device, a.dtype); }
Support supports_rms_norm_bwd_cpu(const RmsNormBwd& a, const Device& device) { return on_cpu(device, a.dtype); }

size_t workspace_rms_norm_bwd_cpu(const RmsNormBwd& a) { return parts_of(a).workspace(); }

void rms_norm_fwd_cpu(const RmsNormFwd& a, const Launch& launch) {
  a.dtype == DType::kF32 ? run_fwd<float>(a, launch) : run_fwd<bf16>(a, launch);
}

void rms_norm_bwd_cpu(const RmsNormBwd& a, const Launch& launch) {
  a.dtype == DType::kF32 ? run_bwd<float>(a, launch) : run_bwd<bf16>(a, launch);
}

}  // namespace weft::kernels
