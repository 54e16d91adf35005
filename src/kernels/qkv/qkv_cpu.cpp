#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu.h"
#include "kernels/qkv/qkv.h"

namespace weft::kernels {
namespace {

constexpr int64_t kTokensPerPart = 64;  // norm gradients are summed part by part: the same order for any number of threads
constexpr int32_t kMaxHeadDim = 1024;

template <class T>
WEFT_CLONES void head_fwd(const T* x, const T* w, const float* cos, const float* sin, T* y, int32_t d, int32_t rotated, float eps) {
  float buf[kMaxHeadDim];
#pragma omp simd
  for (int32_t i = 0; i < d; ++i) buf[i] = to_f32(x[i]);
  if (w != nullptr) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int32_t i = 0; i < d; ++i) sum += buf[i] * buf[i];
    const float rstd = 1.0f / std::sqrt(sum / static_cast<float>(d) + eps);
#pragma omp simd
    for (int32_t i = 0; i < d; ++i) buf[i] *= rstd * to_f32(w[i]);
  }
  if (cos != nullptr) {
    const int32_t half = rotated / 2;
#pragma omp simd
    for (int32_t i = 0; i < half; ++i) {
      const float a = buf[i], b = buf[i + half], c = cos[i], s = sin[i];
      buf[i] = a * c - b * s, buf[i + half] = b * c + a * s;
    }
  }
#pragma omp simd
  for (int32_t i = 0; i < d; ++i) y[i] = from_f32<T>(buf[i]);
}

template <class T>
WEFT_CLONES void head_bwd(const T* dy, const T* x, const T* w, const float* cos, const float* sin, T* dx, float* dw, int32_t d, int32_t rotated, float eps) {
  float g[kMaxHeadDim];
#pragma omp simd
  for (int32_t i = 0; i < d; ++i) g[i] = to_f32(dy[i]);
  if (cos != nullptr) {
    const int32_t half = rotated / 2;
#pragma omp simd
    for (int32_t i = 0; i < half; ++i) {
      const float a = g[i], b = g[i + half], c = cos[i], s = sin[i];
      g[i] = a * c + b * s, g[i + half] = b * c - a * s;
    }
  }
  if (w != nullptr) {
    float sum = 0, dot = 0;
#pragma omp simd reduction(+ : sum, dot)
    for (int32_t i = 0; i < d; ++i) {
      const float v = to_f32(x[i]);
      sum += v * v, dot += g[i] * to_f32(w[i]) * v;
    }
    const float rstd = 1.0f / std::sqrt(sum / static_cast<float>(d) + eps);
    const float k = dot * rstd * rstd * rstd / static_cast<float>(d);
#pragma omp simd
    for (int32_t i = 0; i < d; ++i) {
      const float v = to_f32(x[i]);
      dw[i] += g[i] * v * rstd;
      g[i] = rstd * to_f32(w[i]) * g[i] - k * v;
    }
  }
#pragma omp simd
  for (int32_t i = 0; i < d; ++i) dx[i] = from_f32<T>(g[i]);
}

template <class T>
void run_fwd(const QkvFwd& a, const Launch& launch) {
  const int64_t d = a.head_dim, width = (a.heads + 2 * a.kv_heads) * d;
  parallel_for(launch.parallel, a.tokens, 1 + 16384 / (width + 1), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const T* row = static_cast<const T*>(a.qkv) + t * width;
      const int64_t angle = a.cos == nullptr ? 0 : static_cast<int64_t>(a.positions[t]) * (a.rotated / 2);
      const float *cos = a.cos == nullptr ? nullptr : a.cos + angle, *sin = a.cos == nullptr ? nullptr : a.sin + angle;
      for (int64_t h = 0; h < a.heads; ++h)
        head_fwd(row + h * d, static_cast<const T*>(a.q_norm), cos, sin, static_cast<T*>(a.q) + (t * a.heads + h) * d, a.head_dim, a.rotated, a.eps);
      for (int64_t h = 0; h < a.kv_heads; ++h)
        head_fwd(row + (a.heads + h) * d, static_cast<const T*>(a.k_norm), cos, sin, static_cast<T*>(a.k) + (t * a.kv_heads + h) * d, a.head_dim, a.rotated, a.eps);
      std::memcpy(static_cast<T*>(a.v) + t * a.kv_heads * d, row + (a.heads + a.kv_heads) * d, sizeof(T) * static_cast<size_t>(a.kv_heads * d));
    }
  });
}

template <class T>
void run_bwd(const QkvBwd& a, const Launch& launch) {
  const int64_t d = a.head_dim, width = (a.heads + 2 * a.kv_heads) * d, parts = (a.tokens + kTokensPerPart - 1) / kTokensPerPart;
  float* sums = static_cast<float*>(launch.workspace);
  parallel_for(launch.parallel, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      float* dw = sums == nullptr ? nullptr : sums + p * 2 * d;
      if (dw != nullptr) std::fill(dw, dw + 2 * d, 0.0f);
      for (int64_t t = p * kTokensPerPart; t < std::min(a.tokens, (p + 1) * kTokensPerPart); ++t) {
        const T* row = a.qkv == nullptr ? nullptr : static_cast<const T*>(a.qkv) + t * width;
        T* out = static_cast<T*>(a.dqkv) + t * width;
        const int64_t angle = a.cos == nullptr ? 0 : static_cast<int64_t>(a.positions[t]) * (a.rotated / 2);
      const float *cos = a.cos == nullptr ? nullptr : a.cos + angle, *sin = a.cos == nullptr ? nullptr : a.sin + angle;
        for (int64_t h = 0; h < a.heads; ++h)
          head_bwd(static_cast<const T*>(a.dq) + (t * a.heads + h) * d, row == nullptr ? nullptr : row + h * d,
                   static_cast<const T*>(a.q_norm), cos, sin, out + h * d, dw, a.head_dim, a.rotated, a.eps);
        for (int64_t h = 0; h < a.kv_heads; ++h)
          head_bwd(static_cast<const T*>(a.dk) + (t * a.kv_heads + h) * d, row == nullptr ? nullptr : row + (a.heads + h) * d,
                   static_cast<const T*>(a.k_norm), cos, sin, out + (a.heads + h) * d, dw == nullptr ? nullptr : dw + d, a.head_dim, a.rotated, a.eps);
        std::memcpy(out + (a.heads + a.kv_heads) * d, static_cast<const T*>(a.dv) + t * a.kv_heads * d, sizeof(T) * static_cast<size_t>(a.kv_heads * d));
      }
    }
  });
  if (sums == nullptr) return;
  for (int64_t p = 0; p < parts; ++p)
    for (int64_t i = 0; i < d; ++i) {
      if (a.d_q_norm != nullptr) a.d_q_norm[i] += sums[p * 2 * d + i];
      if (a.d_k_norm != nullptr) a.d_k_norm[i] += sums[p * 2 * d + d + i];
    }
}

template <class Args>
Support supports(const Args& a, const Device& device) {
  if (const Support s = on_cpu(device, a.dtype); !s) return s;
  if (a.head_dim > kMaxHeadDim) return {"head_dim is above 1024"};
  return {};
}

}  // namespace

Support supports_qkv_fwd_cpu(const QkvFwd& a, const Device& device) { return supports(a, device); }
Support supports_qkv_bwd_cpu(const QkvBwd& a, const Device& device) { return supports(a, device); }

size_t workspace_qkv_bwd_cpu(const QkvBwd& a) {
  if (a.q_norm == nullptr) return 0;
  return static_cast<size_t>((a.tokens + kTokensPerPart - 1) / kTokensPerPart) * 2 * static_cast<size_t>(a.head_dim) * sizeof(float);
}

void qkv_fwd_cpu(const QkvFwd& a, const Launch& launch) { a.dtype == DType::kF32 ? run_fwd<float>(a, launch) : run_fwd<bf16>(a, launch); }
void qkv_bwd_cpu(const QkvBwd& a, const Launch& launch) { a.dtype == DType::kF32 ? run_bwd<float>(a, launch) : run_bwd<bf16>(a, launch); }

}  // namespace weft::kernels
