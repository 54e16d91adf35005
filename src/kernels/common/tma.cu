#include "kernels/common/tma.cuh"

namespace weft::kernels {

namespace {

CUtensorMap encode_map(CUtensorMapDataType type, int bytes, const void* data, int64_t cols, int64_t rows, int64_t batch, int64_t row_stride, int box_rows) {
  static const auto encode = [] {
    void* f = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t e = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &found);
    if (e != cudaSuccess || f == nullptr) throw_cuda("cuTensorMapEncodeTiled", e != cudaSuccess ? e : cudaErrorNotSupported);
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(f);
  }();
  CUtensorMap map;
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows), static_cast<cuuint64_t>(batch)};
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(row_stride * bytes), static_cast<cuuint64_t>(row_stride * bytes * rows)};
  const cuuint32_t box[3] = {static_cast<cuuint32_t>(128 / bytes), static_cast<cuuint32_t>(box_rows), 1}, steps[3] = {1, 1, 1};
  const CUresult r = encode(&map, type, 3, const_cast<void*>(data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                            CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (r != CUDA_SUCCESS) throw_cuda("cuTensorMapEncodeTiled", cudaErrorInvalidValue);
  return map;
}

}  // namespace

CUtensorMap tensor_map(const void* data, int64_t cols, int64_t rows, int64_t batch, int64_t row_stride, int box_rows) {
  return encode_map(CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, data, cols, rows, batch, row_stride, box_rows);
}
CUtensorMap tensor_map_f32(const float* data, int64_t cols, int64_t rows, int64_t batch, int64_t row_stride, int box_rows) {
  return encode_map(CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4, data, cols, rows, batch, row_stride, box_rows);
}

int sm_count() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}

}  // namespace weft::kernels
