// out[c] += sum_p parts[p, c], each column by 16 threads over every 16th part, then those 16 in order: one fixed order.
#pragma once
#include "kernels/common/device.cuh"

namespace weft::kernels::dev {

template <int kRows>
__global__ void __launch_bounds__(32 * kRows)
    column_sum(const float* parts, const float* parts2, int64_t num_parts, int64_t cols, int64_t stride, float* out, float* out2) {
  if (blockIdx.y == 1) parts = parts2, out = out2;
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

// Few parts: four columns a thread, part after part.
static __global__ void __launch_bounds__(256) column_sum_few(const float* parts, int64_t num_parts, int64_t vectors, int64_t stride, float* out) {
  const int64_t c = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (c >= vectors) return;
  float4 s = reinterpret_cast<const float4*>(out)[c];
#pragma unroll 8
  for (int64_t p = 0; p < num_parts; ++p) {
    const float4 v = *reinterpret_cast<const float4*>(parts + p * stride + c * 4);
    s.x += v.x, s.y += v.y, s.z += v.z, s.w += v.w;
  }
  reinterpret_cast<float4*>(out)[c] = s;
}

}  // namespace weft::kernels::dev

namespace weft::kernels {

// `parts` [num_parts, cols] fp32, rows `stride` apart (0: cols).
inline void add_column_sums(const float* parts, int64_t num_parts, int64_t cols, float* out, cudaStream_t stream,
                            int64_t stride = 0) {
  if (cols == 0 || num_parts == 0) return;
  if (stride == 0) stride = cols;
  if (num_parts <= 16 && cols % 4 == 0 && stride % 4 == 0 && is_aligned(parts, 16) && is_aligned(out, 16)) {
    launch_grid(dev::column_sum_few, dim3(static_cast<unsigned>(ceil_div(cols, 1024))), dim3(256), 0, stream, parts, num_parts, cols / 4, stride, out);
    return;
  }
  launch_grid(dev::column_sum<16>, dim3(static_cast<unsigned>(ceil_div(cols, 32))), dim3(32, 16), 0, stream, parts, parts,
              num_parts, cols, stride, out, out);
}
// Two such sums in one launch; one whose `out` is null is left out.
inline void add_column_sums(const float* parts, float* out, const float* parts2, float* out2, int64_t num_parts, int64_t cols, cudaStream_t stream) {
  if (out == nullptr || out2 == nullptr) {
    if (out != nullptr) add_column_sums(parts, num_parts, cols, out, stream);
    if (out2 != nullptr) add_column_sums(parts2, num_parts, cols, out2, stream);
    return;
  }
  if (cols == 0 || num_parts == 0) return;
  launch_grid(dev::column_sum<16>, dim3(static_cast<unsigned>(ceil_div(cols, 32)), 2), dim3(32, 16), 0, stream, parts, parts2, num_parts, cols, cols, out, out2);
}

}  // namespace weft::kernels
