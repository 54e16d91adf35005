// A row of at most 256 columns lives in the registers of a few lanes, eight values each: three butterflies inside a thread, the
// rest by shuffles. Longer rows, up to 32768, go through shared memory, a block a row, up to four butterflies a pass.
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

__device__ __forceinline__ int padded(int i) { return i + i / 32; }  // keeps strides of 16 off one bank

// B butterflies at once: a thread takes 2^B values `1 << shift` apart through registers.
template <int B, class Load, class Store>
__device__ __forceinline__ void butterflies(int cols, int shift, Load&& load, Store&& store) {
  for (int g = threadIdx.x; g < cols >> B; g += blockDim.x) {
    const int base = (g >> shift << (shift + B)) | (g & ((1 << shift) - 1));
    float f[1 << B];
#pragma unroll
    for (int j = 0; j < 1 << B; ++j) f[j] = load(base + (j << shift));
#pragma unroll
    for (int o = 1; o < 1 << B; o *= 2)
#pragma unroll
      for (int j = 0; j < 1 << B; ++j)
        if (!(j & o)) {
          const float a = f[j], b = f[j | o];
          f[j] = a + b, f[j | o] = a - b;
        }
#pragma unroll
    for (int j = 0; j < 1 << B; ++j) store(base + (j << shift), f[j]);
  }
}

template <class T>
__global__ void __launch_bounds__(512) hadamard_block(Hadamard a, int bits, bool aligned) {
  WEFT_DYNAMIC_SMEM(hadamard_smem);
  float* v = reinterpret_cast<float*>(hadamard_smem);
  const T* x = static_cast<const T*>(a.x) + blockIdx.x * static_cast<int64_t>(a.cols);
  T* y = static_cast<T*>(a.y) + blockIdx.x * static_cast<int64_t>(a.cols);
  for (int c = threadIdx.x * 8; c < a.cols; c += blockDim.x * 8) {
    const int count = a.cols - c < 8 ? a.cols - c : 8;
    float f[8];
    load_some(x + c, count, aligned && count == 8, f);
    if (count == 8) butterfly8(f);
#pragma unroll
    for (int j = 0; j < 8; ++j)
      if (j < count) v[padded(c + j)] = f[j];
  }
  auto load = [&](int i) { return v[padded(i)]; };
  auto store = [&](int i, float f) { v[padded(i)] = f; };
  auto finish = [&](int i, float f) { y[i] = from_f32<T>(f * a.scale); };
  int done = a.cols >= 8 ? 3 : 0;
  __syncthreads();
  for (; bits - done > 4; done += 4) {
    butterflies<4>(a.cols, done, load, store);
    __syncthreads();
  }
  switch (bits - done) {
    case 0:
      return butterflies<0>(a.cols, done, load, finish);
    case 1:
      return butterflies<1>(a.cols, done, load, finish);
    case 2:
      return butterflies<2>(a.cols, done, load, finish);
    case 3:
      return butterflies<3>(a.cols, done, load, finish);
    default:
      return butterflies<4>(a.cols, done, load, finish);
  }
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
      int bits = 0;
      while ((1 << bits) < a.cols) ++bits;
      const int threads = a.cols >= 4096 ? 512 : a.cols >= 256 ? a.cols / 8 : 32;
      launch_grid(hadamard_block<T>, dim3(static_cast<unsigned>(a.rows)), dim3(static_cast<unsigned>(threads)),
                  sizeof(float) * static_cast<size_t>(a.cols + a.cols / 32 + 1), launch.stream, a, bits, is_aligned(a.x, 16));
    }
  });
}

}  // namespace weft::kernels
