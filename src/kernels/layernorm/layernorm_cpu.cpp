#include <cmath>
#include <type_traits>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/layernorm/layernorm.h"
#include "kernels/row_parts.h"

namespace weft::kernels {
namespace {

RowParts parts_of(const LayerNormBwd& a) { return {a.rows, int64_t{2} * a.cols}; }  // dw, db

template <class T>
WEFT_CLONES void add_row(const T* x, const T* residual, T* sum, int32_t cols) {
#pragma omp simd
  for (int32_t c = 0; c < cols; ++c) sum[c] = from_f32<T>(to_f32(x[c]) + to_f32(residual[c]));
}

template <class T>
WEFT_CLONES void fwd_row(const T* v, const T* w, const T* b, T* y, float* mean_out, float* rstd_out, int32_t cols, float eps) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int32_t c = 0; c < cols; ++c) sum += to_f32(v[c]);
  const float mean = sum / static_cast<float>(cols);
  float squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int32_t c = 0; c < cols; ++c) squares += (to_f32(v[c]) - mean) * (to_f32(v[c]) - mean);
  const float rstd = 1.0f / std::sqrt(squares / static_cast<float>(cols) + eps);
  if (mean_out != nullptr) *mean_out = mean, *rstd_out = rstd;
  if (w != nullptr && b != nullptr) {
#pragma omp simd
    for (int32_t c = 0; c < cols; ++c) y[c] = from_f32<T>((to_f32(v[c]) - mean) * rstd * to_f32(w[c]) + to_f32(b[c]));
  } else {
    for (int32_t c = 0; c < cols; ++c)
      y[c] = from_f32<T>((to_f32(v[c]) - mean) * rstd * (w == nullptr ? 1.0f : to_f32(w[c])) + (b == nullptr ? 0.0f : to_f32(b[c])));
  }
}

// dx may be dy or dsum.
WEFT_CLONES void bwd_row(const float* dy, const float* dsum, const float* v, const float* w, float mean, float rstd, float* dx, float* dw, float* db, int32_t cols) {
  float sum_g = 0, sum_gn = 0;
#pragma omp simd reduction(+ : sum_g, sum_gn)
  for (int32_t c = 0; c < cols; ++c) {
    const float g = dy[c] * w[c];
    sum_g += g, sum_gn += g * (v[c] - mean) * rstd;
  }
  const float mean_g = sum_g / static_cast<float>(cols), mean_gn = sum_gn / static_cast<float>(cols);
#pragma omp simd
  for (int32_t c = 0; c < cols; ++c) {
    const float d = dy[c], n = (v[c] - mean) * rstd;
    dw[c] += d * n, db[c] += d;
    dx[c] = rstd * (d * w[c] - mean_g - n * mean_gn) + dsum[c];
  }
}

// Rows as fp32: of bf16 in memory of its own, of fp32 where they lie.
template <class T>
class Row {
 public:
  explicit Row(int32_t cols) : cols_(cols), values_(std::is_same_v<T, float> ? 0 : static_cast<size_t>(cols)) {}
  const float* read(const void* all, int64_t r) {
    const T* at = static_cast<const T*>(all) + r * cols_;
    if constexpr (std::is_same_v<T, float>) return at;
    else return widen(at, values_.data(), cols_), values_.data();
  }
  float* room(void* all, int64_t r) {
    if constexpr (std::is_same_v<T, float>) return static_cast<float*>(all) + r * cols_;
    else return values_.data();
  }
  void write(void* all, int64_t r) const {
    if constexpr (!std::is_same_v<T, float>) narrow(values_.data(), static_cast<T*>(all) + r * cols_, cols_);
  }

 private:
  int32_t cols_;
  std::vector<float> values_;
};

template <class T>
const T* row(const void* all, int64_t r, int32_t cols) { return all == nullptr ? nullptr : static_cast<const T*>(all) + r * cols; }

template <class T>
void run_fwd(const LayerNormFwd& a, const Launch& launch) {
  parallel_for(launch.parallel, a.rows, row_grain(a.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      if (a.residual != nullptr) add_row(row<T>(a.x, r, a.cols), row<T>(a.residual, r, a.cols), static_cast<T*>(a.sum) + r * a.cols, a.cols);
      fwd_row(row<T>(a.residual != nullptr ? a.sum : a.x, r, a.cols), static_cast<const T*>(a.w), static_cast<const T*>(a.b),
              static_cast<T*>(a.y) + r * a.cols, a.mean == nullptr ? nullptr : a.mean + r, a.mean == nullptr ? nullptr : a.rstd + r, a.cols, a.eps);
    }
  });
}

template <class T>
void run_bwd(const LayerNormBwd& a, const Launch& launch) {
  std::vector<float> w(static_cast<size_t>(a.cols), 1.0f);
  for (int32_t c = 0; a.w != nullptr && c < a.cols; ++c) w[static_cast<size_t>(c)] = to_f32(static_cast<const T*>(a.w)[c]);
  const std::vector<float> zeros(static_cast<size_t>(a.dsum == nullptr ? a.cols : 0));
  sum_row_parts_with(parts_of(a), launch, [&] {
    return [&, dy = Row<T>(a.cols), v = Row<T>(a.cols), more = Row<T>(a.cols), out = Row<T>(a.cols)](int64_t r, float* sums) mutable {
      const float* dsum = a.dsum == nullptr ? zeros.data() : more.read(a.dsum, r);
      bwd_row(dy.read(a.dy, r), dsum, v.read(a.v, r), w.data(), a.mean[r], a.rstd[r], out.room(a.dx, r), sums, sums + a.cols, a.cols);
      out.write(a.dx, r);
    };
  });
  add_row_parts(parts_of(a), launch, 0, a.cols, a.dw);
  add_row_parts(parts_of(a), launch, a.cols, a.cols, a.db);
}

}  // namespace

Support supports_layer_norm_fwd_cpu(const LayerNormFwd& a, const Device& device) { return on_cpu(device, a.dtype); }
Support supports_layer_norm_bwd_cpu(const LayerNormBwd& a, const Device& device) { return on_cpu(device, a.dtype); }

size_t workspace_layer_norm_bwd_cpu(const LayerNormBwd& a) { return parts_of(a).workspace(); }

void layer_norm_fwd_cpu(const LayerNormFwd& a, const Launch& launch) { a.dtype == DType::kF32 ? run_fwd<float>(a, launch) : run_fwd<bf16>(a, launch); }
void layer_norm_bwd_cpu(const LayerNormBwd& a, const Launch& launch) { a.dtype == DType::kF32 ? run_bwd<float>(a, launch) : run_bwd<bf16>(a, launch); }

}  // namespace weft::kernels
