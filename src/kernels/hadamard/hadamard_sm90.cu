// A row of at most 256 columns lives in the registers of a few lanes, eight values each. In bf16 one tensor core product with a
// matrix of +-1 does columns' bits 0, 1, 3 and 4 of those lanes, exact but for the order of the sum; the rest are butterflies in a thread
// (bit 2) and by shuffles. bf16 rows of 1024 to 8192 columns begin the same way, then two exchanges through shared memory bring the
// other bits into a thread, 32 values each. All else, up to 32768 columns, goes through shared memory, a block a row, up to four
// butterflies a pass.
#include "kernels/hadamard/hadamard.h"

#include "kernels/common/device.cuh"
#include "kernels/common/mma.cuh"

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

// Bits 0, 1, 3 and 4 of the columns of four neighbouring lanes' vectors, 32 columns. A product's k is (bit 1, lane, bit 0), its two tiles
// of n are bit 1, its rows bit 2 and the lanes of other vectors, so that sums come back where their columns were.
struct SignMatrix {
  uint32_t first, second;  // of the lane: k below 8 of any tile; above 8 of tile 0, and negated of tile 1
  __device__ __forceinline__ SignMatrix() {
    const int n = lane_id() >> 2, r = lane_id() & 3;
    const uint32_t minus = __popc(static_cast<unsigned>(r & (n >> 1))) & 1, odd = minus ^ (n & 1);
    first = 0x3f803f80u | minus << 15 | odd << 31;
    second = first ^ 0x80008000u;
  }
  __device__ __forceinline__ void apply(const Vec8<bf16>& v, float (&f)[8]) const {
    const uint32_t a[4] = {v.raw.x, v.raw.z, v.raw.y, v.raw.w};
    float low[4] = {}, high[4] = {};
    mma_bf16(low, a, first, first);
    mma_bf16(high, a, first, second);
    f[0] = low[0], f[1] = low[1], f[4] = low[2], f[5] = low[3];
    f[2] = high[0], f[3] = high[1], f[6] = high[2], f[7] = high[3];
  }
};

// f[j], f[j + 2^o] to their sum and difference, for all j.
template <int N>
__device__ __forceinline__ void butterfly(float (&f)[N], int o) {
#pragma unroll
  for (int j = 0; j < N; ++j)
    if (!(j >> o & 1)) {
      const float a = f[j], b = f[j | 1 << o];
      f[j] = a + b, f[j | 1 << o] = a - b;
    }
}

// Rows of 32 to 256 bf16 columns.
__global__ void __launch_bounds__(256) hadamard_lanes_bf16(Hadamard a, int lanes, int64_t vectors) {
  const SignMatrix signs;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  const Vec8<bf16> in = at < vectors ? load8(static_cast<const bf16*>(a.x) + at * 8) : Vec8<bf16>{};
  float f[8];
  signs.apply(in, f);
  butterfly(f, 2);
  for (int o = 4; o < lanes; o *= 2) {
    const float sign = threadIdx.x & o ? -1.0f : 1.0f;
#pragma unroll
    for (int j = 0; j < 8; ++j) f[j] = __shfl_xor_sync(~0u, f[j], o) + sign * f[j];
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) f[j] *= a.scale;
  if (at < vectors) store8(static_cast<bf16*>(a.y) + at * 8, f);
}

// Rows of 2^kBits bf16 columns, 2^(kBits - 5) threads each. First vectors kBits - 2 apart in bits, then 16 pairs of columns whose bits 5
// to 8 differ, then vectors again. Shared memory keeps the halves of vectors (bit 2) in planes 16 banks apart: no access meets a bank twice.
template <int kBits>
__global__ void __launch_bounds__(kBits == 13 ? 256 : 128) hadamard_wide(Hadamard a) {
  constexpr int kCols = 1 << kBits, kThreads = kCols / 32, kPlane = kCols / 2 + 16, kLast = kBits == 10 ? 5 : 6;
  WEFT_DYNAMIC_SMEM(hadamard_smem);
  float* v = reinterpret_cast<float*>(hadamard_smem) + threadIdx.x / kThreads * (2 * kPlane);
  const int t = threadIdx.x % kThreads;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kThreads) + threadIdx.x / kThreads;
  const bool here = row < a.rows;
  const SignMatrix signs;
  float f[4][8];
  {
    Vec8<bf16> in[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      in[i] = here ? load8(static_cast<const bf16*>(a.x) + row * kCols + (t + i * kThreads) * 8) : Vec8<bf16>{};
#pragma unroll
    for (int i = 0; i < 4; ++i) signs.apply(in[i], f[i]), butterfly(f[i], 2);
  }
  auto across = [&](int o) {  // of the four vectors
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (!(i >> o & 1)) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const float x = f[i][j], y = f[i | 1 << o][j];
          f[i][j] = x + y, f[i | 1 << o][j] = x - y;
        }
      }
  };
  across(0), across(1);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float4* to = reinterpret_cast<float4*>(v + (t + i * kThreads) * 4);
    to[0] = make_float4(f[i][0], f[i][1], f[i][2], f[i][3]);
    to[kPlane / 4] = make_float4(f[i][4], f[i][5], f[i][6], f[i][7]);
  }
  __syncthreads();
  {
    // Lanes: bits 1, 2, 3, 4 and 9; threads above: bits 10 and up.
    float2* at = reinterpret_cast<float2*>(v + (t & 1) * 2 + (t >> 1 & 1) * kPlane + (t >> 2 & 3) * 4 + (t >> 4) * 256);
    float x[16], y[16];
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      const float2 pair = at[j * 8];
      x[j] = pair.x, y[j] = pair.y;
    }
#pragma unroll
    for (int o = 0; o < 4; ++o)
      if (o + 5 < kBits - 2) butterfly(x, o), butterfly(y, o);
#pragma unroll
    for (int j = 0; j < 16; ++j) at[j * 8] = make_float2(x[j], y[j]);
  }
  __syncthreads();
  const int u = (t & ((1 << kLast) - 1)) | t >> kLast << (kLast + 2);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float4* from = reinterpret_cast<const float4*>(v + (u + (i << kLast)) * 4);
    const float4 low = from[0], high = from[kPlane / 4];
    f[i][0] = low.x, f[i][1] = low.y, f[i][2] = low.z, f[i][3] = low.w;
    f[i][4] = high.x, f[i][5] = high.y, f[i][6] = high.z, f[i][7] = high.w;
  }
  if constexpr (kBits >= 12) across(0);
  if constexpr (kBits >= 13) across(1);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 8; ++j) f[i][j] *= a.scale;
    if (here) store8(static_cast<bf16*>(a.y) + row * kCols + (u + (i << kLast)) * 8, f[i]);
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
  const bool vectors = is_aligned(a.x, 16) && is_aligned(a.y, 16), tensor = vectors && a.dtype == DType::kBf16;
  if (tensor && a.cols >= 32 && a.cols <= 256) {
    const int64_t n = a.rows * a.cols / 8;
    launch_grid(hadamard_lanes_bf16, dim3(static_cast<unsigned>(ceil_div(n, 256))), dim3(256), 0, launch.stream, a, a.cols / 8, n);
    return;
  }
  if (tensor && a.cols >= 1024 && a.cols <= 8192) {
    auto go = [&](auto kernel) {
      const int a_row = a.cols / 32, threads = a_row < 128 ? 128 : a_row, rows = threads / a_row;
      launch_grid(kernel, dim3(static_cast<unsigned>(ceil_div(a.rows, rows))), dim3(static_cast<unsigned>(threads)),
                  sizeof(float) * static_cast<size_t>(rows) * (a.cols + 32), launch.stream, a);
    };
    return a.cols == 1024 ? go(hadamard_wide<10>) : a.cols == 2048 ? go(hadamard_wide<11>) : a.cols == 4096 ? go(hadamard_wide<12>) : go(hadamard_wide<13>);
  }
  with_float_type(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (a.cols >= 8 && a.cols <= 256 && vectors) {
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
