// Row-major copies alone stream: sixteen lanes a 128-block, or the registers of a block a row. With the transposed copy, or for
// squares, a block takes a tile of 128 x 128 in registers, and the transposed copy goes through shared memory. Row and column
// scales of kRow come from a first pass that takes maxima with integer atomics: order does not matter.
#include "kernels/quantize/quantize.h"

#include "kernels/common/convert.cuh"
#include "kernels/common/row_norm.cuh"

namespace weft::kernels {
namespace {

using namespace dev;

constexpr int kEdge = 128;

template <class To>
__device__ __forceinline__ float multiplier(float amax, bool pow2) {
  constexpr float kMost = std::is_same_v<To, __nv_fp8_e4m3> ? 448.0f : 57344.0f;
  if (!(amax > 0.0f) || amax == INFINITY) return 1.0f;
  float m = kMost / amax;
  if (m == INFINITY) m = 3.4028234663852886e38f;
  return pow2 ? __uint_as_float(__float_as_uint(m) & 0x7f800000u) : m;
}

template <class T>
__device__ __forceinline__ float amax8(const float (&f)[8]) {
  float m = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) m = MaxOp{}(m, fabsf(f[j]));
  return m;
}

__device__ __forceinline__ void atomic_amax(float* p, float v) {  // v >= 0 or NaN: their bits are ordered as integers
  atomicMax(reinterpret_cast<int32_t*>(p), static_cast<int32_t>(__float_as_uint(v) & 0x7fffffffu));
}

__global__ void zero(float* p, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i < count) p[i] = 0;
}

template <class T>
__global__ void __launch_bounds__(256) amax(Amax a, bool aligned) {
  __shared__ float scratch[33];
  float m = 0;
#pragma unroll 4
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x) * 8; i < a.count;
       i += static_cast<int64_t>(gridDim.x) * 2048) {
    float f[8];
    load_some(static_cast<const T*>(a.x) + i, a.count - i < 8 ? static_cast<int>(a.count - i) : 8, aligned && a.count - i >= 8,
              f);
    m = MaxOp{}(m, amax8<T>(f));
  }
  m = block_reduce<MaxOp>(m, scratch, 0.0f);
  if (threadIdx.x == 0) atomic_amax(a.amax, m);
}

// kTensor and k1x128, row-major only: sixteen lanes own 128 neighbours of a row.
template <class T, class To>
__global__ void __launch_bounds__(256) quantize_blocks(Quantize a, int blocks_per_row, bool aligned) {
  const int lane = threadIdx.x % 16;
  const int64_t block = static_cast<int64_t>(blockIdx.x) * 16 + threadIdx.x / 16, row = block / blocks_per_row;
  const int col = static_cast<int>(block - row * blocks_per_row) * kEdge + lane * 8, count = a.cols - col;
  const bool here = row < a.rows, full = aligned && count >= 8;
  float f[8] = {};
  if (here && count > 0) load_some(static_cast<const T*>(a.x) + row * a.cols + col, count < 8 ? count : 8, full, f);
  const float m = multiplier<To>(a.block == QuantBlock::kTensor ? *a.amax : lanes_reduce<MaxOp>(amax8<T>(f), 16), a.pow2);
  if (!here) return;
#pragma unroll
  for (int j = 0; j < 8; ++j) f[j] *= m;
  if (count > 0) write8(static_cast<To*>(a.q) + row * a.cols + col, count < 8 ? count : 8, full, f);
  if (a.block == QuantBlock::kTensor) {
    if (block == 0 && lane == 0) a.scale[0] = 1.0f / m;
  } else if (lane == 0) {
    a.scale[block] = 1.0f / m;
  }
}

// kRow, row-major only.
template <class T, class To, int NV>
__global__ void __launch_bounds__(512) quantize_rows(Quantize a, int lanes) {
  __shared__ float scratch[33];
  const int vecs = a.cols / 8, lane = threadIdx.x % lanes, per_block = blockDim.x / lanes;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * per_block + threadIdx.x / lanes;
  const bool here = row < a.rows;
  float f[NV][8], m = 0;
#pragma unroll
  for (int i = 0; i < NV; ++i)
    if (here && lane + i * lanes < vecs)
      load8(static_cast<const T*>(a.x) + row * a.cols + (lane + i * lanes) * 8, f[i]), m = MaxOp{}(m, amax8<T>(f[i]));
  m = lanes <= 32 ? lanes_reduce<MaxOp>(m, lanes) : block_reduce<MaxOp>(m, scratch, 0.0f);
  m = multiplier<To>(m, a.pow2);
#pragma unroll
  for (int i = 0; i < NV; ++i) {
    if (!(here && lane + i * lanes < vecs)) continue;
#pragma unroll
    for (int j = 0; j < 8; ++j) f[i][j] *= m;
    write8(static_cast<To*>(a.q) + row * a.cols + (lane + i * lanes) * 8, 8, true, f[i]);
  }
  if (here && lane == 0) a.scale[row] = 1.0f / m;
}

// First pass of kRow: maxima of rows and columns.
template <class T>
__global__ void __launch_bounds__(256) maxima(Quantize a, float* rows, float* cols, bool aligned) {
  __shared__ float column[kEdge];
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kEdge;
  const int col = blockIdx.y * kEdge + threadIdx.x % 16 * 8, count = a.cols - col;
  if (threadIdx.x < kEdge) column[threadIdx.x] = 0;
  __syncthreads();
  float best[8] = {};
  for (int i = threadIdx.x / 16; i < kEdge; i += 16) {
    float f[8] = {};
    if (row0 + i < a.rows && count > 0)
      load_some(static_cast<const T*>(a.x) + (row0 + i) * a.cols + col, count < 8 ? count : 8, aligned && count >= 8, f);
    const float m = lanes_reduce<MaxOp>(amax8<T>(f), 16);
    if (threadIdx.x % 16 == 0 && row0 + i < a.rows) atomic_amax(rows + row0 + i, m);
#pragma unroll
    for (int j = 0; j < 8; ++j) best[j] = MaxOp{}(best[j], fabsf(f[j]));
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) atomic_amax(&column[threadIdx.x % 16 * 8 + j], best[j]);
  __syncthreads();
  if (threadIdx.x < kEdge && blockIdx.y * kEdge + static_cast<int>(threadIdx.x) < a.cols)
    atomic_amax(cols + blockIdx.y * kEdge + threadIdx.x, column[threadIdx.x]);
}

struct QuantTile {
  uint4 q_t[kEdge][kEdge / 16];  // the transposed copy; sixteens of a column are permuted by its eight: no bank twice
  float row_mult[kEdge], col_mult[kEdge];
  float row_amax[kEdge], col_amax[kEdge];
};

// A thread owns 8 x 8 neighbours in registers, sixteen threads a row.
template <class T, class To>
__global__ void __launch_bounds__(256)
    quantize_tile(Quantize a, const float* rows, const float* cols, bool aligned, bool aligned_t) {
  __shared__ QuantTile tile;
  __shared__ float scratch[33];
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kEdge;
  const int part = threadIdx.x % 16 * 8, first = threadIdx.x / 16 * 8, col0 = blockIdx.y * kEdge, count = a.cols - col0 - part;
  const int rows_here = a.rows - row0 < kEdge ? static_cast<int>(a.rows - row0) : kEdge,
            cols_here = a.cols - col0 < kEdge ? a.cols - col0 : kEdge;
  const bool by_column = a.block == QuantBlock::k1x128 && a.q_t != nullptr;
  if (threadIdx.x < kEdge) tile.col_amax[threadIdx.x] = 0;
  Vec8<T> raw[8];
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const T* x = static_cast<const T*>(a.x) + (row0 + first + k) * a.cols + col0 + part;
    if (first + k < rows_here && count >= 8 && aligned) {
      raw[k] = load8(x);
    } else {
      float f[8] = {};
      if (first + k < rows_here && count > 0) load_some(x, count < 8 ? count : 8, false, f);
      raw[k] = pack<T>(f);
    }
  }
  if (by_column) __syncthreads();
  float all = 0, column[8] = {};
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    float f[8];
    unpack(raw[k], f);
    const float m = amax8<T>(f);
    all = MaxOp{}(all, m);
    if (a.block == QuantBlock::k1x128) {
      const float in_row = lanes_reduce<MaxOp>(m, 16);
      if (threadIdx.x % 16 == 0) tile.row_amax[first + k] = in_row;
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) column[j] = MaxOp{}(column[j], fabsf(f[j]));
  }
  if (by_column) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float m = MaxOp{}(column[j], __shfl_xor_sync(~0u, column[j], 16));
      if ((threadIdx.x & 16) == 0) atomic_amax(&tile.col_amax[part + j], m);
    }
  }
  if (a.block == QuantBlock::k128x128) all = block_reduce<MaxOp>(all, scratch, 0.0f);
  __syncthreads();
  if (threadIdx.x < kEdge) {
    const int i = threadIdx.x;
    float r, c;
    switch (a.block) {
      case QuantBlock::kTensor:
        r = c = *a.amax;
        break;
      case QuantBlock::kRow:
        r = i < rows_here ? rows[row0 + i] : 0.0f, c = i < cols_here ? cols[col0 + i] : 0.0f;
        break;
      case QuantBlock::k1x128:
        r = tile.row_amax[i], c = tile.col_amax[i];
        break;
      default:
        r = c = all;
    }
    r = tile.row_mult[i] = multiplier<To>(r, a.pow2), c = tile.col_mult[i] = multiplier<To>(c, a.pow2);
    const int64_t row_blocks = (a.rows + kEdge - 1) / kEdge, col_blocks = (a.cols + kEdge - 1) / kEdge;
    switch (a.block) {
      case QuantBlock::kTensor:
        if (row0 == 0 && col0 == 0 && i == 0) a.scale[0] = 1.0f / r;
        break;
      case QuantBlock::kRow:
        if (a.q != nullptr && col0 == 0 && i < rows_here) a.scale[row0 + i] = 1.0f / r;
        if (a.q_t != nullptr && row0 == 0 && i < cols_here) a.scale_t[col0 + i] = 1.0f / c;
        break;
      case QuantBlock::k1x128:
        if (a.q != nullptr && i < rows_here) a.scale[(row0 + i) * col_blocks + blockIdx.y] = 1.0f / r;
        if (a.q_t != nullptr && i < cols_here) a.scale_t[static_cast<int64_t>(col0 + i) * row_blocks + blockIdx.x] = 1.0f / c;
        break;
      default:
        if (i != 0) break;
        if (a.q != nullptr) a.scale[static_cast<int64_t>(blockIdx.x) * col_blocks + blockIdx.y] = 1.0f / r;
        if (a.q_t != nullptr) a.scale_t[static_cast<int64_t>(blockIdx.y) * row_blocks + blockIdx.x] = 1.0f / r;
    }
  }
  __syncthreads();
  if (a.q != nullptr && count > 0) {
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      if (first + k >= rows_here) continue;
      float f[8];
      unpack(raw[k], f);
      const float m = tile.row_mult[first + k];
#pragma unroll
      for (int j = 0; j < 8; ++j) f[j] *= m;
      write8(static_cast<To*>(a.q) + (row0 + first + k) * a.cols + col0 + part, count < 8 ? count : 8, aligned && count >= 8, f);
    }
  }
  if (a.q_t == nullptr) return;
  float f[8][8];
#pragma unroll
  for (int k = 0; k < 8; ++k) unpack(raw[k], f[k]);
#pragma unroll
  for (int j = 0; j < 8; ++j) {  // eight tokens of a column: half of a sixteen
    const int c = part + j, at = first / 16 ^ (c >> 3 & 7);
    const float m = tile.col_mult[c];
    uint32_t word[2];
#pragma unroll
    for (int k = 0; k < 2; ++k)
      word[k] = fp8_pair<To>(f[4 * k][j] * m, f[4 * k + 1][j] * m) | fp8_pair<To>(f[4 * k + 2][j] * m, f[4 * k + 3][j] * m) << 16;
    reinterpret_cast<uint2*>(&tile.q_t[c][at])[first / 8 % 2] = make_uint2(word[0], word[1]);
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < 4; ++k) {  // eight threads a column
    const int c = static_cast<int>(threadIdx.x) / 8 + 32 * k, h = threadIdx.x % 8, left = rows_here - 16 * h;
    if (c >= cols_here || left <= 0) continue;
    const uint4 v = tile.q_t[c][h ^ (c >> 3 & 7)];
    To* out = static_cast<To*>(a.q_t) + static_cast<int64_t>(col0 + c) * a.rows + row0 + 16 * h;
    if (aligned_t && left >= 16) {
      *reinterpret_cast<uint4*>(out) = v;
    } else {
      To e[16];
      memcpy(e, &v, 16);
#pragma unroll
      for (int j = 0; j < 16; ++j)
        if (j < left) out[j] = e[j];
    }
  }
}

template <class T, class To>
void run_quantize(const Quantize& a, const Launch& launch) {
  const bool aligned = a.cols % 8 == 0 && is_aligned(a.x, 16) && is_aligned(a.q, 8),
             aligned_t = a.rows % 16 == 0 && is_aligned(a.q_t, 16);
  const int64_t tiles_down = ceil_div(a.rows, kEdge);
  const unsigned tiles_across = static_cast<unsigned>(ceil_div(a.cols, kEdge));
  if (a.q_t == nullptr && (a.block == QuantBlock::kTensor || a.block == QuantBlock::k1x128)) {
    launch_grid(quantize_blocks<T, To>, dim3(static_cast<unsigned>(ceil_div(a.rows * tiles_across, 16))), dim3(256), 0,
                launch.stream, a, static_cast<int>(tiles_across), aligned);
    return;
  }
  const RowPlan plan = plan_rows(a.cols, aligned);
  if (a.q_t == nullptr && a.block == QuantBlock::kRow && plan.vectors > 0) {
    const dim3 grid(static_cast<unsigned>(ceil_div(a.rows, plan.rows_per_block()))), threads(static_cast<unsigned>(plan.threads));
    if (plan.vectors == 1)
      launch_grid(quantize_rows<T, To, 1>, grid, threads, 0, launch.stream, a, plan.lanes);
    else if (plan.vectors == 2)
      launch_grid(quantize_rows<T, To, 2>, grid, threads, 0, launch.stream, a, plan.lanes);
    else
      launch_grid(quantize_rows<T, To, 4>, grid, threads, 0, launch.stream, a, plan.lanes);
    return;
  }
  float *rows = static_cast<float*>(launch.workspace), *cols = rows + a.rows;
  const dim3 grid(static_cast<unsigned>(tiles_down), tiles_across);
  if (a.block == QuantBlock::kRow) {
    launch_grid(zero, dim3(static_cast<unsigned>(ceil_div(a.rows + a.cols, 256))), dim3(256), 0, launch.stream, rows,
                a.rows + a.cols);
    launch_grid(maxima<T>, grid, dim3(256), 0, launch.stream, a, rows, cols, aligned);
  }
  launch_grid(quantize_tile<T, To>, grid, dim3(256), 0, launch.stream, a, static_cast<const float*>(rows),
              static_cast<const float*>(cols), aligned, aligned_t);
}

}  // namespace

Support supports_amax_sm90(const Amax& a, const Device& d) { return on_sm90(d, a.dtype); }

Support supports_quantize_sm90(const Quantize& a, const Device& d) {
  if (a.to != DType::kF8E4M3 && a.to != DType::kF8E5M2) return {"the result is not f8e4m3 or f8e5m2"};
  if (ceil_div(a.cols, kEdge) > 65535) return {"too many columns"};
  if (a.block == QuantBlock::kTensor && a.amax == nullptr) return {"kTensor needs amax"};
  return on_sm90(d, a.dtype);
}

size_t workspace_quantize_sm90(const Quantize& a) {
  return a.block == QuantBlock::kRow ? sizeof(float) * (static_cast<size_t>(a.rows) + static_cast<size_t>(a.cols)) : 0;
}

void amax_sm90(const Amax& a, const Launch& launch) {
  if (!a.add) launch_grid(zero, dim3(1), dim3(256), 0, launch.stream, a.amax, int64_t{1});
  if (a.count == 0) return;
  with_float_type(a.dtype, [&](auto type) {
    const auto kernel = amax<typename decltype(type)::type>;
    launch_grid(kernel, dim3(persistent_grid(kernel, 256, 0, ceil_div(a.count, 2048))), dim3(256), 0, launch.stream, a,
                is_aligned(a.x, 16));
  });
}

void quantize_sm90(const Quantize& a, const Launch& launch) {
  if (a.rows == 0 || a.cols == 0) return;
  with_float_type(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (a.to == DType::kF8E4M3)
      run_quantize<T, __nv_fp8_e4m3>(a, launch);
    else
      run_quantize<T, __nv_fp8_e5m2>(a, launch);
  });
}

}  // namespace weft::kernels
