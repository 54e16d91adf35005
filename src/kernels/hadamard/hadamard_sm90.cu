// A row of at most 256 columns lives in the registers of a few lanes, eight values each: three butterflies inside a thread, the
// rest by shuffles. Longer rows, up to 32768, go through shared memory, a block a row.
#include "kernels/hadamard/hadamard.h"

#include "kernels/common/device.cuh"

namespace weft::kernels {
namespace {

using namespace dev;

__device__ __forceinline__ void butterfly8(float (&f)[8]) {
#pragma unroll
  for (int o = 1; o < 8; o *= 2)
#pragma unroll
    for (int j = 0; j < 8; ++j)
      if (!(j & o)) {
        const float a = f[j], b = f[j | o];
        f[j] = a + b, f[j | o] = a - b;
      }
}

template <class T>
__global__ void __launch_bounds__(256) hadamard_lanes(Hadamard a, int lanes) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (256 / lanes) + threadIdx.x / lanes;
  const int lane = threadIdx.x % lanes;
  float f[8] = {};
  const int64_t at = row * a.cols + lane * 8;
  if (row < a.rows) load8(static_cast<const T*>(a.x) + at, f);
  butterfly8(f);
  for (int o = 1; o < lanes; o *= 2) {
    const bool high = lane & o;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float other = __shfl_xor_sync(~0u, f[j], o);
      f[j] = high ? other - f[j] : f[j] + other;
    }
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) f[j] *= a.scale;
  if (row < a.rows) store8(static_cast<T*>(a.y) + at, f);
}

template <class T>
__global__ void __launch_bounds__(512) hadamard_block(Hadamard a) {
  WEFT_DYNAMIC_SMEM(hadamard_smem);
  float* v = reinterpret_cast<float*>(hadamard_smem);
  const T* x = static_cast<const T*>(a.x) + blockIdx.x * static_cast<int64_t>(a.cols);
  T* y = static_cast<T*>(a.y) + blockIdx.x * static_cast<int64_t>(a.cols);
  for (int c = threadIdx.x; c < a.cols; c += blockDim.x) v[c] = to_f32(x[c]);
  __syncthreads();
  for (int o = 1; o < a.cols; o *= 2) {
    for (int p = threadIdx.x; p < a.cols / 2; p += blockDim.x) {
      const int i = (p / o) * 2 * o + p % o;
      const float s = v[i], d = v[i + o];
      v[i] = s + d, v[i + o] = s - d;
    }
    __syncthreads();
  }
  for (int c = threadIdx.x; c < a.cols; c += blockDim.x) y[c] = from_f32<T>(v[c] * a.scale);
}

}  // namespace

Support supports_hadamard_sm90(const Hadamard& a, const Device& d) {
  if (a.cols < 1 || (a.cols & (a.cols - 1)) != 0 || a.cols > 32768) return {"cols is not a power of two up to 32768"};
  if (a.rows >= int64_t{1} << 31) return {"more than 2^31 rows"};
  return on_sm90(d, a.dtype);
}

void hadamard_sm90(const Hadamard& a, const Launch& launch) {
  if (a.rows == 0) return;
  with_float_type(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (a.cols >= 8 && a.cols <= 256 && is_aligned(a.x, 16) && is_aligned(a.y, 16)) {
      const int lanes = a.cols / 8;
      launch_grid(hadamard_lanes<T>, dim3(static_cast<unsigned>(ceil_div(a.rows, 256 / lanes))), dim3(256), 0, launch.stream, a,
                  lanes);
    } else {
      const int threads = a.cols >= 1024 ? 512 : a.cols >= 64 ? a.cols / 2 : 32;
      launch_grid(hadamard_block<T>, dim3(static_cast<unsigned>(a.rows)), dim3(static_cast<unsigned>(threads)),
                  sizeof(float) * static_cast<size_t>(a.cols), launch.stream, a);
    }
  });
}

}  // namespace weft::kernels
