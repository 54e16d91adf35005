// RMSNorm and LayerNorm over rows, with an optional residual add. A row lives in the registers of `lanes` threads (up to a warp:
// several rows a block; above: one row a block), NV vectors of eight a thread, so x is read once. Backward keeps dw (db) in
// registers over the rows of a block; the blocks' sums are added in order by a second kernel. Rows that are too long, odd or
// unaligned go to a plain kernel that reads them again from cache.
#pragma once
#include "kernels/common/column_sum.cuh"
#include "kernels/common/device.cuh"

namespace weft::kernels::dev {

struct RowNorm {
  const void *x, *residual, *w, *b, *dy, *dsum;  // dy: backward; x is then the normed value
  void *sum, *y;                                 // y is dx in backward
  float *mean, *rstd;                            // read in backward
  float *dw_parts, *db_parts;                    // [blocks, cols], or null
  int64_t rows;
  int32_t cols, lanes;
  float eps;
};

// lanes_reduce, unrolled for what rows mostly have.
__device__ __forceinline__ float group_sum(float v, int lanes) {
  return lanes == 32 ? warp_sum<32>(v) : lanes == 16 ? warp_sum<16>(v) : lanes_reduce(v, lanes);
}
template <class T>
__device__ __forceinline__ float row_sum(float v, int lanes, float* scratch) {
  return lanes <= 32 ? group_sum(v, lanes) : block_reduce(v, scratch);
}

// A thread's place where `lanes` work on a row: a power of two up to 32, or the whole block.
struct RowPlace {
  int lane, sub, rows;  // sub: which of the block's `rows` rows
  __device__ __forceinline__ explicit RowPlace(int lanes) {
    const int shift = 31 - __clz(lanes);
    const bool whole = lanes > 32;
    lane = whole ? threadIdx.x : threadIdx.x & (lanes - 1), sub = whole ? 0 : threadIdx.x >> shift, rows = whole ? 1 : blockDim.x >> shift;
  }
};

template <class T, int NV, bool kLayer>
__global__ void __launch_bounds__(512) row_norm_fwd(RowNorm a) {
  __shared__ float scratch[33];
  const int vecs = a.cols / 8, lane = threadIdx.x % a.lanes, rows_per_block = blockDim.x / a.lanes;
  const T *x = static_cast<const T*>(a.x), *residual = static_cast<const T*>(a.residual), *w = static_cast<const T*>(a.w),
          *b = static_cast<const T*>(a.b);
  T *sum = static_cast<T*>(a.sum), *y = static_cast<T*>(a.y);
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * rows_per_block; first < a.rows;
       first += static_cast<int64_t>(gridDim.x) * rows_per_block) {
    const int64_t row = first + threadIdx.x / a.lanes;
    const bool here = row < a.rows;
    Vec8<T> raw[NV];
#pragma unroll
    for (int i = 0; i < NV; ++i) {
      const int v = lane + i * a.lanes;
      if (here && v < vecs) raw[i] = load8(x + row * a.cols + v * 8);
    }
    float square = 0, total = 0;
#pragma unroll
    for (int i = 0; i < NV; ++i) {
      const int v = lane + i * a.lanes;
      if (!(here && v < vecs)) continue;
      float f[8];
      unpack(raw[i], f);
      if (residual != nullptr) {
        float g[8];
        load8(residual + row * a.cols + v * 8, g);
#pragma unroll
        for (int j = 0; j < 8; ++j) f[j] += g[j];
        raw[i] = pack<T>(f);
        store8(sum + row * a.cols + v * 8, raw[i]);
        unpack(raw[i], f);
      }
#pragma unroll
      for (int j = 0; j < 8; ++j) square += f[j] * f[j], total += f[j];
    }
    float mean = 0;
    if constexpr (kLayer) {
      mean = row_sum<T>(total, a.lanes, scratch) / static_cast<float>(a.cols);
      square = 0;
#pragma unroll
      for (int i = 0; i < NV; ++i) {
        if (!(here && lane + i * a.lanes < vecs)) continue;
        float f[8];
        unpack(raw[i], f);
#pragma unroll
        for (int j = 0; j < 8; ++j) square += (f[j] - mean) * (f[j] - mean);
      }
    }
    const float rstd = 1.0f / sqrtf(row_sum<T>(square, a.lanes, scratch) / static_cast<float>(a.cols) + a.eps);
    if (here && lane == 0) {
      if (a.rstd != nullptr) a.rstd[row] = rstd;
      if (kLayer && a.mean != nullptr) a.mean[row] = mean;
    }
#pragma unroll
    for (int i = 0; i < NV; ++i) {
      const int v = lane + i * a.lanes;
      if (!(here && v < vecs)) continue;
      float f[8], g[8];
      unpack(raw[i], f);
#pragma unroll
      for (int j = 0; j < 8; ++j) f[j] = (f[j] - mean) * rstd;
      if (w != nullptr) {
        load8(w + v * 8, g);
#pragma unroll
        for (int j = 0; j < 8; ++j) f[j] *= g[j];
      }
      if (kLayer && b != nullptr) {
        load8(b + v * 8, g);
#pragma unroll
        for (int j = 0; j < 8; ++j) f[j] += g[j];
      }
      store8(y + row * a.cols + v * 8, f);
    }
  }
}

// Where a thread stands among the threads of a block: `lanes` of them work on a row, lane, lane + lanes, ... of its vectors each.
struct RowThread {
  int vecs, lanes, lane, sub, rows;  // vectors of eight in a row; sub: which of the block's `rows` rows
};

// A thread's sums over its rows, added to those of the block's other rows, in their order: `cols` values at out. smem: [rows, cols].
template <int NV>
__device__ __forceinline__ void sum_block_rows(const RowThread& t, const float (&acc)[NV][8], int cols, float* out, float* smem) {
  __syncthreads();
#pragma unroll
  for (int i = 0; i < NV; ++i)
    if (t.lane + i * t.lanes < t.vecs) store8(smem + t.sub * cols + (t.lane + i * t.lanes) * 8, acc[i]);
  __syncthreads();
  for (int c = threadIdx.x; c < cols; c += blockDim.x) {
    float s = 0;
    for (int r = 0; r < t.rows; ++r) s += smem[r * cols + c];
    out[c] = s;
  }
}

// The same as the block's row of parts; one row at once needs no shared memory.
template <int NV>
__device__ __forceinline__ void store_block_sums(const RowNorm& a, const float (&acc)[NV][8], float* parts, float* smem) {
  const int vecs = a.cols / 8, lane = threadIdx.x % a.lanes, sub = threadIdx.x / a.lanes, rows = blockDim.x / a.lanes;
  const RowThread t{vecs, a.lanes, lane, sub, rows};
  float* out = parts + static_cast<int64_t>(blockIdx.x) * a.cols;
  if (rows == 1) {
#pragma unroll
    for (int i = 0; i < NV; ++i)
      if (t.lane + i * t.lanes < t.vecs) store8(out + (t.lane + i * t.lanes) * 8, acc[i]);
    return;
  }
  sum_block_rows(t, acc, a.cols, out, smem);
}

// Backward in fp32 (bf16: row_norm_bf16.cuh): two scratch areas take turns, so that a row costs one barrier.
template <int NV, bool kLayer>
__global__ void __launch_bounds__(NV == 1 || NV == 3 ? 256 : 512, NV == 3 || (NV == 2 && !kLayer) ? 2 : 1) row_norm_bwd(RowNorm a) {
  __shared__ float scratch[2][66];
  WEFT_DYNAMIC_SMEM(row_norm_smem);
  float* smem = reinterpret_cast<float*>(row_norm_smem);
  const int vecs = a.cols / 8, lane = threadIdx.x % a.lanes, sub = threadIdx.x / a.lanes, rows_per_block = blockDim.x / a.lanes;
  const float *x = static_cast<const float*>(a.x), *w = static_cast<const float*>(a.w), *dy = static_cast<const float*>(a.dy),
              *dsum = static_cast<const float*>(a.dsum);
  float* dx = static_cast<float*>(a.y);
  const float per_col = 1.0f / static_cast<float>(a.cols);
  float dw[NV][8] = {}, db[kLayer ? NV : 1][8] = {};
  const int64_t step = static_cast<int64_t>(gridDim.x) * rows_per_block;
  int turn = 0;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * rows_per_block; first < a.rows; first += step, turn ^= 1) {
    const int64_t row = first + sub;
    const bool here = row < a.rows;
    const float rstd = here ? a.rstd[row] : 0.0f, mean = kLayer && here ? a.mean[row] : 0.0f;
    Vec8<float> vx[NV], vg[NV];
#pragma unroll
    for (int i = 0; i < NV; ++i) {
      const int v = lane + i * a.lanes;
      if (here && v < vecs) vg[i] = load8(dy + row * a.cols + v * 8), vx[i] = load8(x + row * a.cols + v * 8);
    }
    float dot = 0, total = 0;
#pragma unroll
    for (int i = 0; i < NV; ++i) {
      const int v = lane + i * a.lanes;
      if (!(here && v < vecs)) continue;
      float f[8], g[8], s[8];
      unpack(vx[i], f), unpack(vg[i], g);
      if (w != nullptr) load8(w + v * 8, s);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float n = (f[j] - mean) * rstd, gw = w != nullptr ? g[j] * s[j] : g[j];
        dot += gw * n, total += gw;
        dw[i][j] += g[j] * n;
        if constexpr (kLayer) db[i][j] += g[j];
      }
    }
    if (a.lanes <= 32) {
      dot = lanes_reduce(dot, a.lanes);
      if constexpr (kLayer) total = lanes_reduce(total, a.lanes);
    } else {
      float* s = scratch[turn];
      const int warps = blockDim.x >> 5, in_warp = threadIdx.x & 31;
      dot = lanes_reduce(dot);
      if constexpr (kLayer) total = lanes_reduce(total);
      if (in_warp == 0) s[threadIdx.x >> 5] = dot, s[33 + (threadIdx.x >> 5)] = total;
      __syncthreads();
      dot = lanes_reduce(in_warp < warps ? s[in_warp] : 0.0f);
      if constexpr (kLayer) total = lanes_reduce(in_warp < warps ? s[33 + in_warp] : 0.0f);
    }
    dot *= -rstd * per_col * rstd, total = kLayer ? -rstd * per_col * total : 0.0f;
#pragma unroll
    for (int i = 0; i < NV; ++i) {
      const int v = lane + i * a.lanes;
      if (!(here && v < vecs)) continue;
      float f[8], g[8], s[8];
      unpack(vx[i], f), unpack(vg[i], g);
      if (w != nullptr) load8(w + v * 8, s);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float scale = w != nullptr ? rstd * s[j] : rstd;
        f[j] = g[j] * scale + ((kLayer ? f[j] - mean : f[j]) * dot + total);
      }
      if (dsum != nullptr) {
        load8(dsum + row * a.cols + v * 8, g);
#pragma unroll
        for (int j = 0; j < 8; ++j) f[j] += g[j];
      }
      store8(dx + row * a.cols + v * 8, f);
    }
  }
  if (a.dw_parts != nullptr) store_block_sums(a, dw, a.dw_parts, smem);
  if constexpr (kLayer)
    if (a.db_parts != nullptr) store_block_sums(a, db, a.db_parts, smem);
}

// Any cols, any alignment: one block a row (forward), or a strip of rows a block (backward).
template <class T, bool kLayer>
__global__ void __launch_bounds__(256) row_norm_fwd_plain(RowNorm a) {
  __shared__ float scratch[33];
  const T *residual = static_cast<const T*>(a.residual), *w = static_cast<const T*>(a.w), *b = static_cast<const T*>(a.b);
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const T* x = static_cast<const T*>(a.x) + row * a.cols;
    T* y = static_cast<T*>(a.y) + row * a.cols;
    if (residual != nullptr) {
      T* sum = static_cast<T*>(a.sum) + row * a.cols;
      for (int c = threadIdx.x; c < a.cols; c += 256) sum[c] = from_f32<T>(to_f32(x[c]) + to_f32(residual[row * a.cols + c]));
      x = sum;  // each thread reads back only what it wrote
    }
    float mean = 0, square = 0;
    if constexpr (kLayer) {
      float total = 0;
      for (int c = threadIdx.x; c < a.cols; c += 256) total += to_f32(x[c]);
      mean = block_reduce(total, scratch) / static_cast<float>(a.cols);
    }
    for (int c = threadIdx.x; c < a.cols; c += 256) square += (to_f32(x[c]) - mean) * (to_f32(x[c]) - mean);
    const float rstd = 1.0f / sqrtf(block_reduce(square, scratch) / static_cast<float>(a.cols) + a.eps);
    if (threadIdx.x == 0) {
      if (a.rstd != nullptr) a.rstd[row] = rstd;
      if (kLayer && a.mean != nullptr) a.mean[row] = mean;
    }
    for (int c = threadIdx.x; c < a.cols; c += 256) {
      float v = (to_f32(x[c]) - mean) * rstd;
      if (w != nullptr) v *= to_f32(w[c]);
      if (kLayer && b != nullptr) v += to_f32(b[c]);
      y[c] = from_f32<T>(v);
    }
  }
}

template <class T, bool kLayer>
__global__ void __launch_bounds__(256) row_norm_bwd_plain(RowNorm a) {
  __shared__ float scratch[33];
  const T *w = static_cast<const T*>(a.w), *dsum = static_cast<const T*>(a.dsum);
  float* dw = a.dw_parts == nullptr ? nullptr : a.dw_parts + static_cast<int64_t>(blockIdx.x) * a.cols;
  float* db = a.db_parts == nullptr ? nullptr : a.db_parts + static_cast<int64_t>(blockIdx.x) * a.cols;
  for (int c = threadIdx.x; c < a.cols; c += 256) {
    if (dw != nullptr) dw[c] = 0;
    if (db != nullptr) db[c] = 0;
  }
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const T *x = static_cast<const T*>(a.x) + row * a.cols, *dy = static_cast<const T*>(a.dy) + row * a.cols;
    T* dx = static_cast<T*>(a.y) + row * a.cols;
    const float rstd = a.rstd[row], mean = kLayer ? a.mean[row] : 0.0f;
    float dot = 0, total = 0;
    for (int c = threadIdx.x; c < a.cols; c += 256) {
      const float g = to_f32(dy[c]), n = (to_f32(x[c]) - mean) * rstd, gw = w != nullptr ? g * to_f32(w[c]) : g;
      dot += gw * n, total += gw;
      if (dw != nullptr) dw[c] += g * n;
      if (db != nullptr) db[c] += g;
    }
    dot = block_reduce(dot, scratch) / static_cast<float>(a.cols);
    total = kLayer ? block_reduce(total, scratch) / static_cast<float>(a.cols) : 0.0f;
    for (int c = threadIdx.x; c < a.cols; c += 256) {
      const float g = to_f32(dy[c]), n = (to_f32(x[c]) - mean) * rstd, gw = w != nullptr ? g * to_f32(w[c]) : g;
      dx[c] = from_f32<T>(rstd * (gw - total - n * dot) + (dsum != nullptr ? to_f32(dsum[row * a.cols + c]) : 0.0f));
    }
  }
}

}  // namespace weft::kernels::dev

namespace weft::kernels {

struct RowPlan {
  int vectors = 0, lanes = 0, threads = 0;  // vectors 0: the plain kernel
  int rows_per_block() const { return vectors == 0 ? 1 : threads / lanes; }
};

// `three`: the kernel is also built for three vectors a thread.
inline RowPlan plan_rows(int32_t cols, bool aligned, bool three = false) {
  const int vecs = cols / 8;
  if (!aligned || cols % 8 != 0 || vecs == 0 || vecs > 2048) return {};
  if (vecs <= 128) {
    int lanes = 1;
    while (lanes < 32 && lanes < vecs) lanes *= 2;
    const int vectors = vecs <= 32 ? 1 : vecs <= 64 ? 2 : vecs <= 96 && three ? 3 : 4;
    return {vectors, lanes, 256};
  }
  const int vectors = vecs > 1024 ? 4 : 2;
  const int threads = static_cast<int>(ceil_div(ceil_div(vecs, vectors), 32) * 32);
  return {vectors, threads, threads};
}

// Blocks of a backward: fixed, so that sums have one order and the workspace is known.
inline int64_t row_norm_parts(int64_t rows, int32_t cols) {
  const int64_t most = cols <= 1024 ? 1056 : 528;
  return rows < most ? (rows > 0 ? rows : 1) : most;
}
inline size_t row_norm_workspace(int64_t rows, int32_t cols, int sums) {
  return static_cast<size_t>(row_norm_parts(rows, cols)) * static_cast<size_t>(cols) * sizeof(float) * static_cast<size_t>(sums);
}

}  // namespace weft::kernels
