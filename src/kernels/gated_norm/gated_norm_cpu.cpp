#include <cmath>

#include "kernels/cpu.h"
#include "kernels/gated_norm/gated_norm.h"
#include "kernels/row_parts.h"

namespace weft::kernels {
namespace {

RowParts parts_of(const GatedNormBwd& a) { return {a.rows, a.w_cols}; }

template <class T, bool kGateFirst>
WEFT_CLONES void fwd_group(const T* x, const T* z, const T* w, T* y, float* rstd, int32_t cols, float eps) {
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int32_t c = 0; c < cols; ++c) {
    const float gate = to_f32(z[c]) * sigmoid_f32(to_f32(z[c]));
    const float u = kGateFirst ? to_f32(x[c]) * gate : to_f32(x[c]);
    squares += u * u;
  }
  const float scale = 1.0f / std::sqrt(squares / static_cast<float>(cols) + eps);
  if (rstd != nullptr) *rstd = scale;
#pragma omp simd
  for (int32_t c = 0; c < cols; ++c) {
    const float gate = to_f32(z[c]) * sigmoid_f32(to_f32(z[c]));
    y[c] = from_f32<T>(to_f32(x[c]) * gate * scale * to_f32(w[c]));
  }
}

template <class T, bool kGateFirst>
WEFT_CLONES void bwd_group(const T* dy, const T* x, const T* z, const T* w, float rstd, T* dx, T* dz, float* dw, int32_t cols) {
  // n = u * rstd is what the weight sees; dn = dy * w (times the gate when it comes after); du = rstd * (dn - n * mean(dn * n)).
  float product = 0;
#pragma omp simd reduction(+ : product)
  for (int32_t c = 0; c < cols; ++c) {
    const float gate = to_f32(z[c]) * sigmoid_f32(to_f32(z[c]));
    product += to_f32(dy[c]) * to_f32(w[c]) * to_f32(x[c]) * gate;
  }
  const float k = product * rstd * rstd / static_cast<float>(cols);
#pragma omp simd
  for (int32_t c = 0; c < cols; ++c) {
    const float zc = to_f32(z[c]), s = sigmoid_f32(zc), gate = zc * s, dgate = s * (1.0f + zc * (1.0f - s));
    const float g = to_f32(dy[c]), v = to_f32(x[c]), wc = to_f32(w[c]);
    dw[c] += g * v * gate * rstd;
    if (kGateFirst) {
      const float du = rstd * (g * wc - k * v * gate);
      dx[c] = from_f32<T>(du * gate);
      dz[c] = from_f32<T>(du * v * dgate);
    } else {
      dx[c] = from_f32<T>(rstd * (g * wc * gate - k * v));
      dz[c] = from_f32<T>(g * wc * v * rstd * dgate);
    }
  }
}

template <class T, bool kGateFirst>
void run_fwd(const GatedNormFwd& a, const Launch& launch) {
  const int32_t groups = a.cols / a.group;
  parallel_for(launch.parallel, a.rows, row_grain(a.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int32_t g = 0; g < groups; ++g)
        fwd_group<T, kGateFirst>(static_cast<const T*>(a.x) + r * a.x_stride + g * a.group, static_cast<const T*>(a.z) + r * a.z_stride + g * a.group,
                                 static_cast<const T*>(a.w) + (a.w_cols == a.cols ? g * a.group : 0), static_cast<T*>(a.y) + r * a.cols + g * a.group,
                                 a.rstd == nullptr ? nullptr : a.rstd + r * groups + g, a.group, a.eps);
  });
}

template <class T, bool kGateFirst>
void run_bwd(const GatedNormBwd& a, const Launch& launch) {
  const int32_t groups = a.cols / a.group;
  sum_row_parts(parts_of(a), launch, [&](int64_t r, float* dw) {
    for (int32_t g = 0; g < groups; ++g) {
      const int64_t c = static_cast<int64_t>(g) * a.group, wc = a.w_cols == a.cols ? c : 0;
      bwd_group<T, kGateFirst>(static_cast<const T*>(a.dy) + r * a.cols + c, static_cast<const T*>(a.x) + r * a.x_stride + c,
                               static_cast<const T*>(a.z) + r * a.z_stride + c, static_cast<const T*>(a.w) + wc, a.rstd[r * groups + g],
                               static_cast<T*>(a.dx) + r * a.dx_stride + c, static_cast<T*>(a.dz) + r * a.dz_stride + c, dw + wc, a.group);
    }
  });
  add_row_parts(parts_of(a), launch, 0, a.w_cols, a.dw);
}

}  // namespace

Support supports_gated_norm_fwd_cpu(const GatedNormFwd& a, const Device& device) { return on_cpu(device, a.dtype); }
Support supports_gated_norm_bwd_cpu(const GatedNormBwd& a, const Device& device) { return on_cpu(device, a.dtype); }

size_t workspace_gated_norm_bwd_cpu(const GatedNormBwd& a) { return parts_of(a).workspace(); }

void gated_norm_fwd_cpu(const GatedNormFwd& a, const Launch& launch) {
  if (a.dtype == DType::kF32)
    a.gate_first ? run_fwd<float, true>(a, launch) : run_fwd<float, false>(a, launch);
  else
    a.gate_first ? run_fwd<bf16, true>(a, launch) : run_fwd<bf16, false>(a, launch);
}

void gated_norm_bwd_cpu(const GatedNormBwd& a, const Launch& launch) {
  if (a.dtype == DType::kF32)
    a.gate_first ? run_bwd<float, true>(a, launch) : run_bwd<float, false>(a, launch);
  else
    a.gate_first ? run_bwd<bf16, true>(a, launch) : run_bwd<bf16, false>(a, launch);
}

}  // namespace weft::kernels
