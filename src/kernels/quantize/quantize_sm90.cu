// Row-major copies alone stream: sixteen lanes a 128-block, or the registers of a block a row. With the transposed copy, or for
// squares, a block takes a tile of 128 x 128 in registers, and the transposed copy goes through shared memory. Row and column
// scales of kRow come from a first pass that takes maxima with integer atomics: order does not matter.
#include "kernels/quantize/quantize.h"

#include "kernels/common/flat.cuh"
#include "kernels/common/row_norm.cuh"
#include "kernels/quantize/magnitudes.cuh"

namespace weft::kernels {
namespace {

using namespace dev;

template <class To>
__device__ __forceinline__ float multiplier(float amax, bool pow2) {
  constexpr float kMost = std::is_same_v<To, __nv_fp8_e4m3> ? 448.0f : 57344.0f;
  if (!(amax > 0.0f) || amax == INFINITY) return 1.0f;
  float m = kMost / amax;
  if (m == INFINITY) m = 3.4028234663852886e38f;
  return pow2 ? __uint_as_float(__float_as_uint(m) & 0x7f800000u) : m;
}

__device__ __forceinline__ void atomic_largest(float* p, uint32_t bits) { atomicMax(reinterpret_cast<int32_t*>(p), static_cast<int32_t>(bits)); }

__global__ void zero(float* p, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i < count) p[i] = 0;
}

template <class T>
__global__ void __launch_bounds__(256) amax(Amax a, bool aligned) {
  constexpr int kUnroll = 4;
  __shared__ uint32_t scratch[16];
  const T* x = static_cast<const T*>(a.x);
  Magnitudes<T> m(Vec8<T>{});
  const int64_t base = (static_cast<int64_t>(blockIdx.x) * (kUnroll * 256) + threadIdx.x) * 8;
  Vec8<T> raw[kUnroll];
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const int64_t i = base + k * 2048, left = a.count - i;
    raw[k] = left > 0 ? load_raw(x + i, left < 8 ? static_cast<int>(left) : 8, aligned && left >= 8) : Vec8<T>{};
  }
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) m.join(Magnitudes<T>(raw[k]));
  const uint32_t v = block_largest(m.largest(), scratch);
  if (threadIdx.x == 0 && v > __float_as_uint(*static_cast<volatile float*>(a.amax))) atomic_largest(a.amax, v);
}

// kTensor and k1x128, row-major only: sixteen lanes own 128 neighbours of a row, and as many of another.
template <class T, class To>
__global__ void __launch_bounds__(256) quantize_blocks(Quantize a, FastDiv blocks_per_row, uint32_t blocks, bool aligned) {
  constexpr int kUnroll = 2;
  const int lane = threadIdx.x % 16;
  const float given = a.block == QuantBlock::kTensor ? *a.amax : 0.0f;
  Vec8<T> raw[kUnroll];
  int64_t at[kUnroll];
  int count[kUnroll];
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const uint32_t block = (blockIdx.x * kUnroll + k) * 16 + threadIdx.x / 16, row = blocks_per_row.div(block);
    const int col = static_cast<int>(block - row * blocks_per_row.d) * kEdge + lane * 8;
    at[k] = static_cast<int64_t>(row) * a.cols + col, count[k] = block < blocks ? (a.cols - col < 8 ? a.cols - col : 8) : 0;
    raw[k] = count[k] > 0 ? load_raw(static_cast<const T*>(a.x) + at[k], count[k], aligned && count[k] == 8) : Vec8<T>{};
  }
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const uint32_t block = (blockIdx.x * kUnroll + k) * 16 + threadIdx.x / 16;
    const float m = multiplier<To>(a.block == QuantBlock::kTensor ? given : __uint_as_float(lanes_largest(Magnitudes<T>(raw[k]).largest(), 16)), a.pow2);
    if (block >= blocks) continue;
    float f[8];
    unpack(raw[k], f);
#pragma unroll
    for (int j = 0; j < 8; ++j) f[j] *= m;
    if (count[k] > 0) write8(static_cast<To*>(a.q) + at[k], count[k], aligned && count[k] == 8, f);
    if (lane == 0 && (a.block != QuantBlock::kTensor || block == 0)) a.scale[block] = 1.0f / m;
  }
}

// kRow, row-major only.
template <class T, class To, int NV>
__global__ void __launch_bounds__(512) quantize_rows(Quantize a, int lanes) {
  __shared__ uint32_t scratch[16];
  const int vecs = a.cols / 8, lane = threadIdx.x % lanes, per_block = blockDim.x / lanes;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * per_block + threadIdx.x / lanes;
  const bool here = row < a.rows;
  Vec8<T> raw[NV];
#pragma unroll
  for (int i = 0; i < NV; ++i)
    raw[i] = here && lane + i * lanes < vecs ? load8(static_cast<const T*>(a.x) + row * a.cols + (lane + i * lanes) * 8) : Vec8<T>{};
  Magnitudes<T> most(raw[0]);
#pragma unroll
  for (int i = 1; i < NV; ++i) most.join(Magnitudes<T>(raw[i]));
  const uint32_t bits = lanes <= 32 ? lanes_largest(most.largest(), lanes) : block_largest(most.largest(), scratch);
  const float m = multiplier<To>(__uint_as_float(bits), a.pow2);
#pragma unroll
  for (int i = 0; i < NV; ++i) {
    if (!(here && lane + i * lanes < vecs)) continue;
    float f[8];
    unpack(raw[i], f);
#pragma unroll
    for (int j = 0; j < 8; ++j) f[j] *= m;
    write8(static_cast<To*>(a.q) + row * a.cols + (lane + i * lanes) * 8, 8, true, f);
  }
  if (here && lane == 0) a.scale[row] = 1.0f / m;
}

// A thread's 8 x 8 of a tile of 128 x 128, sixteen threads a row; zeros outside the tensor.
// kWhole: the tensor is whole aligned tiles.
template <bool kWhole, class T>
__device__ __forceinline__ void load_square(const Quantize& a, int64_t row0, int col, int first, bool aligned, Vec8<T> (&raw)[8]) {
  const int count = a.cols - col;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const T* x = static_cast<const T*>(a.x) + (row0 + first + k) * a.cols + col;
    if constexpr (kWhole) raw[k] = load8(x);
    else raw[k] = row0 + first + k < a.rows && count > 0 ? load_raw(x, count < 8 ? count : 8, aligned && count >= 8) : Vec8<T>{};
  }
}

// First pass of kRow: maxima of rows and columns.
template <bool kWhole, class T>
__global__ void __launch_bounds__(256) maxima(Quantize a, float* rows, float* cols, bool aligned) {
  __shared__ __align__(16) ColumnMaxima<T> columns;
  __shared__ float row[kEdge];
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kEdge;
  const int part = threadIdx.x % 16 * 8, first = threadIdx.x / 16 * 8, i = threadIdx.x % kEdge;
  Vec8<T> raw[8];
  load_square<kWhole>(a, row0, static_cast<int>(blockIdx.y) * kEdge + part, first, aligned, raw);
  row_maxima(raw, row + first), columns.put(raw);
  __syncthreads();
  if (threadIdx.x < kEdge) {
    if (row0 + i < a.rows) atomic_largest(rows + row0 + i, __float_as_uint(row[i]));
  } else if (static_cast<int>(blockIdx.y) * kEdge + i < a.cols) {
    atomic_largest(cols + blockIdx.y * kEdge + i, __float_as_uint(columns.get(i)));
  }
}

struct QuantTile {
  uint4 q_t[kEdge][kEdge / 16];  // the transposed copy; sixteens of a column are permuted by its eight: no bank twice
  float row_mult[kEdge], col_mult[kEdge];
  float row_amax[kEdge];
};

// A thread owns 8 x 8 neighbours in registers, sixteen threads a row.
template <bool kWhole, class T, class To>
__global__ void __launch_bounds__(256, sizeof(T) == 2 ? 4 : 2)
    quantize_tile(Quantize a, const float* rows, const float* cols, bool aligned, bool aligned_t) {
  __shared__ QuantTile tile;
  __shared__ uint32_t scratch[16];
  const int64_t row0 = static_cast<int64_t>(blockIdx.x) * kEdge;
  const int part = threadIdx.x % 16 * 8, first = threadIdx.x / 16 * 8, col0 = blockIdx.y * kEdge, count = kWhole ? 8 : a.cols - col0 - part;
  const int rows_here = !kWhole && a.rows - row0 < kEdge ? static_cast<int>(a.rows - row0) : kEdge,
            cols_here = !kWhole && a.cols - col0 < kEdge ? a.cols - col0 : kEdge;
  Vec8<T> raw[8];
  load_square<kWhole>(a, row0, col0 + part, first, aligned, raw);
  float all = 0, given_r = 0, given_c = 0;  // maxima that are known: asked for beside the tile
  if (const int i = threadIdx.x; i < kEdge) {
    if (a.block == QuantBlock::kTensor) given_r = given_c = *a.amax;
    if (a.block == QuantBlock::kRow) given_r = i < rows_here ? rows[row0 + i] : 0.0f, given_c = i < cols_here ? cols[col0 + i] : 0.0f;
  }
  ColumnMaxima<T>& columns = *reinterpret_cast<ColumnMaxima<T>*>(tile.q_t);  // done with before q_t is written
  static_assert(sizeof(columns) <= sizeof(tile.q_t));
  if (a.block == QuantBlock::k1x128) {
    row_maxima(raw, tile.row_amax + first);
    if (a.q_t != nullptr) columns.put(raw);
  } else if (a.block == QuantBlock::k128x128) {
    Magnitudes<T> most(raw[0]);
#pragma unroll
    for (int k = 1; k < 8; ++k) most.join(Magnitudes<T>(raw[k]));
    all = __uint_as_float(block_largest(most.largest(), scratch));
  }
  __syncthreads();
  if (threadIdx.x < kEdge) {
    const int i = threadIdx.x;
    float r, c;
    switch (a.block) {
      case QuantBlock::kTensor:
      case QuantBlock::kRow: r = given_r, c = given_c; break;
      case QuantBlock::k1x128: r = tile.row_amax[i], c = a.q_t != nullptr ? columns.get(i) : 0.0f; break;
      default: r = c = all;
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
      write8(static_cast<To*>(a.q) + (row0 + first + k) * a.cols + col0 + part, count < 8 ? count : 8, kWhole || (aligned && count >= 8), f);
    }
  }
  if (a.q_t == nullptr) return;
#pragma unroll
  for (int j = 0; j < 8; ++j) {  // eight tokens of a column: half of a sixteen
    const int c = part + j, at = first / 16 ^ (c >> 3 & 7);
    const float m = tile.col_mult[c];
    uint32_t word[2];
#pragma unroll
    for (int k = 0; k < 2; ++k)
      word[k] = fp8_pair<To>(element(raw[4 * k], j) * m, element(raw[4 * k + 1], j) * m) | fp8_pair<To>(element(raw[4 * k + 2], j) * m, element(raw[4 * k + 3], j) * m) << 16;
    reinterpret_cast<uint2*>(&tile.q_t[c][at])[first / 8 % 2] = make_uint2(word[0], word[1]);
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < 4; ++k) {  // eight threads a column
    const int c = static_cast<int>(threadIdx.x) / 8 + 32 * k, h = threadIdx.x % 8, left = rows_here - 16 * h;
    if (c >= cols_here || left <= 0) continue;
    const uint4 v = tile.q_t[c][h ^ (c >> 3 & 7)];
    To* out = static_cast<To*>(a.q_t) + static_cast<int64_t>(col0 + c) * a.rows + row0 + 16 * h;
    if (kWhole || (aligned_t && left >= 16)) {
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
             aligned_t = a.rows % 16 == 0 && is_aligned(a.q_t, 16), whole = aligned && aligned_t && a.rows % kEdge == 0 && a.cols % kEdge == 0;
  const int64_t tiles_down = ceil_div(a.rows, kEdge);
  const unsigned tiles_across = static_cast<unsigned>(ceil_div(a.cols, kEdge));
  if (a.q_t == nullptr && (a.block == QuantBlock::kTensor || a.block == QuantBlock::k1x128)) {
    const int64_t step = kFlatMost / tiles_across;
    for (int64_t first = 0; first < a.rows; first += step) {
      Quantize part = a;
      part.rows = a.rows - first < step ? a.rows - first : step;
      part.x = static_cast<const T*>(a.x) + first * a.cols, part.q = static_cast<To*>(a.q) + first * a.cols;
      if (a.block != QuantBlock::kTensor) part.scale = a.scale + first * tiles_across;
      const int64_t blocks = part.rows * tiles_across;
      launch_grid(quantize_blocks<T, To>, dim3(static_cast<unsigned>(ceil_div(blocks, 32))), dim3(256), 0, launch.stream, part, FastDiv(tiles_across),
                  static_cast<uint32_t>(blocks), aligned);
    }
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
    launch_grid(whole ? maxima<true, T> : maxima<false, T>, grid, dim3(256), 0, launch.stream, a, rows, cols, aligned);
  }
  launch_grid(whole ? quantize_tile<true, T, To> : quantize_tile<false, T, To>, grid, dim3(256), 0, launch.stream, a, static_cast<const float*>(rows),
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
    launch_grid(amax<typename decltype(type)::type>, dim3(static_cast<unsigned>(ceil_div(a.count, 8192))), dim3(256), 0, launch.stream, a,
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
