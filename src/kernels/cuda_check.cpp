#include "kernels/cuda_check.h"

#include <cuda_runtime_api.h>

#include <string>

#include "base/error.h"

namespace weft::kernels {

void throw_cuda(const char* what, int code) {
  const auto error = static_cast<cudaError_t>(code);
  throw CudaError(std::string(what) + ": CUDA call failed: got " + cudaGetErrorName(error) + " (" + cudaGetErrorString(error) +
                  "), want cudaSuccess");
}

void check_launch(const char* what) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) throw_cuda(what, error);
}

bool cuda_present() {
  static const bool present = [] {
    int count = 0;
    const bool ok = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
    if (!ok) cudaGetLastError();  // no launch is to blame for it
    return ok;
  }();
  return present;
}

}  // namespace weft::kernels
