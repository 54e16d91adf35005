#include <cuda_bf16.h>

#include "kernels/common/device.cuh"
#include "kernels/gemm/split.h"

namespace weft::kernels {
namespace {

__global__ void __launch_bounds__(256) split(SplitBf16 a) {
  const int64_t count = a.rows * a.cols, step = static_cast<int64_t>(gridDim.x) * 256;
  __nv_bfloat16* out = static_cast<__nv_bfloat16*>(a.out);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x; i < count; i += step) {
    const int64_t r = i / a.cols, c = i - r * a.cols;
    float left = a.x[i];
    __nv_bfloat16 part[3];
#pragma unroll
    for (int p = 0; p < 3; ++p) {
      part[p] = __float2bfloat16_rn(left);
      const float rest = left - __bfloat162float(part[p]);
      left = isfinite(left) ? rest : 0.0f;  // an infinity or NaN stands in the first part alone
    }
#pragma unroll
    for (int j = 0; j < 3; ++j) out[j * a.place_stride + r * a.row_stride + c] = a.part_at[j] == 0 ? part[0] : a.part_at[j] == 1 ? part[1] : part[2];
  }
}

}  // namespace

Support supports_split_bf16(const SplitBf16& a, const Device& device) {
  if (device.kind != Device::kCuda) return {"runs on CUDA only"};
  for (const int8_t p : a.part_at)
    if (p < 0 || p > 2) return {"a part is not 0, 1 or 2"};
  return {};
}

void split_bf16(const SplitBf16& a, const Launch& l) {
  const int64_t count = a.rows * a.cols;
  if (count == 0) return;
  const int64_t blocks = (count + 255) / 256;
  launch_grid(split, dim3(static_cast<unsigned>(blocks < 4096 ? blocks : 4096)), dim3(256), 0, l.stream, a);
}

}  // namespace weft::kernels
