// out[c] += sum_p parts[p, c], each column by 16 threads over every 16th part, then those 16 in order: one fixed order.
#pragma once
#include "kernels/common/device.cuh"

namespace weft::kernels::dev {

template <int kRows>
__global__ void __launch_bounds__(32 * kRows)
    column_sum(const float* parts, int64_t num_parts, int64_t cols, int64_t stride, float* out) {
  __shared__ float sums[kRows][33];
  const int64_t c = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x;
  float s = 0;
  if (c < cols) {
#pragma unroll 8
    for (int64_t p = threadIdx.y; p < num_parts; p += kRows) s += parts[p * stride + c];
  }
  sums[threadIdx.y][threadIdx.x] = s;
  __syncthreads();
  if (threadIdx.y != 0 || c >= cols) return;
#pragma unroll
  for (int i = 1; i < kRows; ++i) s += sums[i][threadIdx.x];
  out[c] += s;
}

}  // namespace weft::kernels::dev

namespace weft::kernels {

// `parts` [num_parts, cols] fp32, rows `stride` apart (0: cols).
inline void add_column_sums(const float* parts, int64_t num_parts, int64_t cols, float* out, cudaStream_t stream,
                            int64_t stride = 0) {
  if (cols == 0 || num_parts == 0) return;
  launch_grid(dev::column_sum<16>, dim3(static_cast<unsigned>(ceil_div(cols, 32))), dim3(32, 16), 0, stream, parts, num_parts,
              cols, stride == 0 ? cols : stride, out);
}

}  // namespace weft::kernels
