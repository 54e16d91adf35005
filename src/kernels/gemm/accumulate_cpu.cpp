#include "kernels/cpu.h"
#include "kernels/gemm/gemm.h"

namespace weft::kernels {
namespace {

template <class T>
WEFT_CLONES void add_row(const T* x, float* sum, int64_t cols) {
#pragma omp simd
  for (int64_t c = 0; c < cols; ++c) sum[c] += to_f32(x[c]);
}

template <class T>
void run(const Accumulate& a, const Launch& launch) {
  parallel_for(launch.parallel, a.rows, row_grain(a.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) add_row(static_cast<const T*>(a.x) + r * a.cols, a.sum + r * a.stride, a.cols);
  });
}

}  // namespace

Support supports_accumulate_cpu(const Accumulate& a, const Device& device) {
  if (device.kind != Device::kCpu) return {"runs on the CPU only"};
  if (a.dtype != DType::kF32 && a.dtype != DType::kBf16) return {"dtype is not f32 or bf16"};
  return {};
}

void accumulate_cpu(const Accumulate& a, const Launch& launch) { a.dtype == DType::kF32 ? run<float>(a, launch) : run<bf16>(a, launch); }

}  // namespace weft::kernels
