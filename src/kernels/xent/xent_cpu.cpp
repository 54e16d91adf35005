#include <cmath>
#include <limits>

#include "kernels/cpu.h"
#include "kernels/xent/xent.h"

namespace weft::kernels {
namespace {

template <class T>
WEFT_CLONES float row_max(const T* z, int32_t cols) {
  float most = -std::numeric_limits<float>::infinity();
#pragma omp simd reduction(max : most)
  for (int32_t c = 0; c < cols; ++c) most = to_f32(z[c]) > most ? to_f32(z[c]) : most;
  return most;
}

// In blocks: a float sum over a whole vocabulary would lose digits.
template <class T>
WEFT_CLONES float row_sum_exp(const T* z, int32_t cols, float most) {
  double total = 0;
  for (int32_t begin = 0; begin < cols; begin += 4096) {
    const int32_t end = begin + 4096 < cols ? begin + 4096 : cols;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int32_t c = begin; c < end; ++c) sum += exp_f32(to_f32(z[c]) - most);
    total += sum;
  }
  return static_cast<float>(total);
}

template <class T>
WEFT_CLONES float row_sum(const T* z, int32_t cols) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int32_t c = 0; c < cols; ++c) sum += to_f32(z[c]);
  return sum;
}

template <class T>
int32_t first_at(const T* z, int32_t cols, float value) {
  for (int32_t c = 0; c < cols; ++c)
    if (to_f32(z[c]) == value) return c;
  return 0;
}

template <class T>
void run_tile(const XentTile& a, const Launch& launch) {
  parallel_for(launch.parallel, a.rows, row_grain(a.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* z = static_cast<const T*>(a.logits) + r * a.stride;
      const float tile_max = row_max(z, a.cols);
      const float most = a.first || tile_max > a.max[r] ? tile_max : a.max[r];
      const float here = row_sum_exp(z, a.cols, most);
      if (a.best != nullptr && (a.first || tile_max > a.max[r])) a.best[r] = static_cast<int32_t>(a.first_col) + first_at(z, a.cols, tile_max);
      a.sum[r] = a.first ? here : a.sum[r] * std::exp(a.max[r] - most) + here;
      a.max[r] = most;
      if (a.logit_sum != nullptr) a.logit_sum[r] = (a.first ? 0.0f : a.logit_sum[r]) + row_sum(z, a.cols);
      const int64_t label = a.labels[r] - a.first_col;
      if (label >= 0 && label < a.cols)
        a.target[r] = to_f32(z[label]);
      else if (a.first)
        a.target[r] = 0;
    }
  });
}

template <class T>
WEFT_CLONES void grad_row(const T* z, T* dz, int32_t cols, float lse, float scale, float constant) {
#pragma omp simd
  for (int32_t c = 0; c < cols; ++c) dz[c] = from_f32<T>(scale * exp_f32(to_f32(z[c]) - lse) - constant);
}

template <class T>
void run_grad(const XentGrad& a, const Launch& launch) {
  parallel_for(launch.parallel, a.rows, row_grain(a.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T* z = static_cast<const T*>(a.logits) + r * a.stride;
      T* dz = static_cast<T*>(a.dlogits) + r * a.stride;
      const bool ignored = a.labels[r] == a.ignore_index;
      const float g = a.g[r], scale = g + (a.glse != nullptr ? a.glse[r] : 0.0f), constant = g * a.smoothing / static_cast<float>(a.vocab);
      if (ignored || (g == 0 && scale == 0)) {
        for (int32_t c = 0; c < a.cols; ++c) dz[c] = T{};
        continue;
      }
      const int64_t label = a.labels[r] - a.first_col;
      const bool has_label = label >= 0 && label < a.cols;
      const float at_label = has_label ? scale * std::exp(to_f32(z[label]) - a.lse[r]) - constant - g * (1 - a.smoothing) : 0.0f;
      grad_row(z, dz, a.cols, a.lse[r], scale, constant);
      if (has_label) dz[label] = from_f32<T>(at_label);
    }
  });
}

template <class Args>
Support supports(const Args& a, const Device& device) {
  if (device.kind != Device::kCpu) return {"runs on the CPU only"};
  if (a.dtype != DType::kF32 && a.dtype != DType::kBf16) return {"dtype is not f32 or bf16"};
  return {};
}

}  // namespace

Support supports_xent_tile_cpu(const XentTile& a, const Device& device) { return supports(a, device); }
Support supports_xent_grad_cpu(const XentGrad& a, const Device& device) { return supports(a, device); }
Support supports_xent_loss_cpu(const XentLoss&, const Device& device) {
  if (device.kind != Device::kCpu) return {"runs on the CPU only"};
  return {};
}

void xent_tile_cpu(const XentTile& a, const Launch& launch) {
  a.dtype == DType::kF32 ? run_tile<float>(a, launch) : run_tile<bf16>(a, launch);
}
void xent_grad_cpu(const XentGrad& a, const Launch& launch) {
  a.dtype == DType::kF32 ? run_grad<float>(a, launch) : run_grad<bf16>(a, launch);
}
void xent_loss_cpu(const XentLoss& a, const Launch&) {
  for (int64_t r = 0; r < a.rows; ++r) {
    const float lse = a.max[r] + std::log(a.sum[r]), target = a.target[r];
    const float mean = a.logit_sum != nullptr ? a.logit_sum[r] / static_cast<float>(a.vocab) : 0.0f;
    a.lse[r] = lse;
    a.loss[r] = a.labels[r] == a.ignore_index ? 0.0f : lse - (1 - a.smoothing) * target - a.smoothing * mean;
  }
}

}  // namespace weft::kernels
