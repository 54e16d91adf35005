#include "kernels/bias/bias.h"
#include "kernels/cpu.h"
#include "kernels/row_parts.h"

namespace weft::kernels {
namespace {

RowParts parts_of(const BiasBwd& a) { return {a.rows, a.cols, 256}; }

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
  sum_row_parts(parts_of(a), launch, [&](int64_t r, float* sum) { add_row(static_cast<const T*>(a.dy) + r * a.cols, sum, a.cols); });
  add_row_parts(parts_of(a), launch, 0, a.cols, a.db);
}

}  // namespace

Support supports_bias_fwd_cpu(const BiasFwd& a, const Device& device) { return on_cpu(device, a.dtype); }
Support supports_bias_bwd_cpu(const BiasBwd& a, const Device& device) { return on_cpu(device, a.dtype); }

size_t workspace_bias_bwd_cpu(const BiasBwd& a) { return parts_of(a).workspace(); }

void bias_fwd_cpu(const BiasFwd& a, const Launch& launch) { a.dtype == DType::kF32 ? run_fwd<float>(a, launch) : run_fwd<bf16>(a, launch); }
void bias_bwd_cpu(const BiasBwd& a, const Launch& launch) { a.dtype == DType::kF32 ? run_bwd<float>(a, launch) : run_bwd<bf16>(a, launch); }

}  // namespace weft::kernels
