// Rows of bf16 for RMSNorm and LayerNorm. Forward: a row a group of threads, many small blocks, so that one's loads meet another's
// stores. Backward: by way of a ring in shared memory, for the sums of dw stay with a block: every thread asks for its own vectors
// `kDepth` rows ahead (cp.async) and reads back only those, so the ring needs no barrier, and registers keep what a row needs twice.
// Bound by memory: forward x (and residual) read, y (and sum) written; backward x, dy (and dsum) read, dx written.
#pragma once
#include "kernels/common/mma.cuh"
#include "kernels/common/row_norm.cuh"

namespace weft::kernels::dev {

// Rows ahead, by vectors a thread and streams: what fits beside the other blocks of a processor.
constexpr int ring_depth(int vectors, int streams) {
  return vectors <= 2 ? 4 : vectors == 3 ? (streams == 2 ? 4 : 3) : streams == 2 ? 3 : 2;
}
// Threads of a block and blocks of a processor that the registers are cut for.
constexpr int ring_threads(int vectors) { return vectors % 2 == 1 ? 256 : 512; }
constexpr int ring_blocks(int vectors) { return vectors == 1 ? 4 : vectors == 3 ? 2 : 1; }

template <int NV, int kStreams, int kDepth>
struct RowRing {
  bf16* slots;  // [depth][stream][vector][thread] of eight
  int lane, lanes, vecs;
  __device__ __forceinline__ bf16* slot(int stage, int stream, int i) const {
    return slots + ((((stage * kStreams + stream) * NV + i) * static_cast<int>(blockDim.x)) + static_cast<int>(threadIdx.x)) * 8;
  }
  __device__ __forceinline__ void ask(const void* const (&from)[kStreams], int64_t row, int64_t rows, int stage) const {
    if (row < rows) {
#pragma unroll
      for (int k = 0; k < kStreams; ++k)
#pragma unroll
        for (int i = 0; i < NV; ++i)
          if (lane + i * lanes < vecs)
            cp_async16(slot(stage, k, i), static_cast<const bf16*>(from[k]) + (row * vecs + lane + i * lanes) * 8, true);
    }
    cp_async_commit();
  }
};

// Sums of a row's two values, in one order; each area of scratch is used again only after another barrier, and the words of warps that the
// block lacks are zero (clear_sums, before the first sum).
struct alignas(16) SumScratch {
  float of_warp[2][16];
};
__device__ __forceinline__ void clear_sums(SumScratch (&areas)[2], int lanes) {
  if (lanes <= 32) return;
  if (threadIdx.x < 64) areas[threadIdx.x / 32].of_warp[threadIdx.x / 16 % 2][threadIdx.x % 16] = 0;
  __syncthreads();
}
__device__ __forceinline__ float sum_warps(const float (&of_warp)[16]) {  // four warps a load
  const float4* v = reinterpret_cast<const float4*>(of_warp);
  float s = ((v[0].x + v[0].y) + v[0].z) + v[0].w;
  if (blockDim.x > 128) s += v[1].x, s += v[1].y, s += v[1].z, s += v[1].w;
  if (blockDim.x > 256)
#pragma unroll
    for (int i = 2; i < 4; ++i) s += v[i].x, s += v[i].y, s += v[i].z, s += v[i].w;
  return s;
}
template <bool kTwo>
__device__ __forceinline__ void row_sums(float& a, float& b, int lanes, SumScratch& scratch) {
  a = group_sum(a, lanes < 32 ? lanes : 32);
  if constexpr (kTwo) b = group_sum(b, lanes < 32 ? lanes : 32);
  if (lanes <= 32) return;
  if ((threadIdx.x & 31) == 0) {
    scratch.of_warp[0][threadIdx.x >> 5] = a;
    if constexpr (kTwo) scratch.of_warp[1][threadIdx.x >> 5] = b;
  }
  __syncthreads();
  a = sum_warps(scratch.of_warp[0]);
  if constexpr (kTwo) b = sum_warps(scratch.of_warp[1]);
}

template <int NV>
struct RowWeights {  // of a thread's columns: as fp32 where registers allow
  static constexpr bool kWide = NV <= 2;
  float wide[kWide ? NV : 1][8];
  Vec8<bf16> raw[kWide ? 1 : NV];
  __device__ __forceinline__ void read(const void* from, int lane, int lanes, int vecs, float otherwise) {
#pragma unroll
    for (int i = 0; i < NV; ++i) {
      float f[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) f[j] = otherwise;
      if (from != nullptr && lane + i * lanes < vecs) load8(static_cast<const bf16*>(from) + (lane + i * lanes) * 8, f);
      if constexpr (kWide) {
#pragma unroll
        for (int j = 0; j < 8; ++j) wide[i][j] = f[j];
      } else {
        raw[i] = pack<bf16>(f);
      }
    }
  }
  __device__ __forceinline__ void get(int i, float (&f)[8]) const {
    if constexpr (kWide) {
#pragma unroll
      for (int j = 0; j < 8; ++j) f[j] = wide[i][j];
    } else {
      unpack(raw[i], f);
    }
  }
};

// kRows rows a group, all asked for at once.
template <int NV, int kRows, bool kLayer, bool kResidual>
__global__ void __launch_bounds__(512, 2) row_norm_fwd_bf16(RowNorm a) {
  __shared__ SumScratch scratch[2];
  clear_sums(scratch, a.lanes);
  const RowPlace place(a.lanes);
  const int lane = place.lane, vecs = a.cols / 8, groups = place.rows;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * (groups * kRows) + place.sub;
  Vec8<bf16> raw[kRows][NV], other[kRows][kResidual ? NV : 1];
#pragma unroll
  for (int k = 0; k < kRows; ++k)
#pragma unroll
    for (int i = 0; i < NV; ++i) {
      const int64_t row = first + k * groups, at = row * vecs + lane + i * a.lanes;
      if (row >= a.rows || lane + i * a.lanes >= vecs) continue;
      raw[k][i] = load8(static_cast<const bf16*>(a.x) + at * 8);
      if constexpr (kResidual) other[k][i] = load8(static_cast<const bf16*>(a.residual) + at * 8);
    }
  const float per_col = 1.0f / static_cast<float>(a.cols);
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    const int64_t row = first + k * groups;
    const bool here = row < a.rows;
    float total = 0, square = 0, mean = 0, none = 0;
#pragma unroll
    for (int i = 0; i < NV; ++i) {
      if (!here || lane + i * a.lanes >= vecs) continue;
      float f[8];
      unpack(raw[k][i], f);
      if constexpr (kResidual) {
        float g[8];
        unpack(other[k][i], g);
#pragma unroll
        for (int j = 0; j < 8; ++j) f[j] += g[j];
        raw[k][i] = pack<bf16>(f);
        store8(static_cast<bf16*>(a.sum) + (row * vecs + lane + i * a.lanes) * 8, raw[k][i]);
        unpack(raw[k][i], f);
      }
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if constexpr (kLayer) total += f[j]; else square += f[j] * f[j];
    }
    if constexpr (kLayer) {
      row_sums<false>(total, none, a.lanes, scratch[0]);
      mean = total * per_col;
#pragma unroll
      for (int i = 0; i < NV; ++i) {
        if (!here || lane + i * a.lanes >= vecs) continue;
        float f[8];
        unpack(raw[k][i], f);
#pragma unroll
        for (int j = 0; j < 8; ++j) square += (f[j] - mean) * (f[j] - mean);
      }
    }
    row_sums<false>(square, none, a.lanes, scratch[1]);
    const float rstd = 1.0f / sqrtf(square * per_col + a.eps);
    if (!here) continue;
    if (lane == 0) {
      if (a.rstd != nullptr) a.rstd[row] = rstd;
      if (kLayer && a.mean != nullptr) a.mean[row] = mean;
    }
    Vec8<bf16> w[NV];
#pragma unroll
    for (int i = 0; i < NV; ++i)
      if (a.w != nullptr && lane + i * a.lanes < vecs) w[i] = load8(static_cast<const bf16*>(a.w) + (lane + i * a.lanes) * 8);
#pragma unroll
    for (int i = 0; i < NV; ++i) {
      if (lane + i * a.lanes >= vecs) continue;
      float f[8], g[8];
      unpack(raw[k][i], f);
#pragma unroll
      for (int j = 0; j < 8; ++j) f[j] = (kLayer ? f[j] - mean : f[j]) * rstd;
      if (a.w != nullptr) {
        unpack(w[i], g);
#pragma unroll
        for (int j = 0; j < 8; ++j) f[j] *= g[j];
      }
      if (kLayer && a.b != nullptr) {
        load8(static_cast<const bf16*>(a.b) + (lane + i * a.lanes) * 8, g);
#pragma unroll
        for (int j = 0; j < 8; ++j) f[j] += g[j];
      }
      store8(static_cast<bf16*>(a.y) + (row * vecs + lane + i * a.lanes) * 8, f);
    }
  }
}

// With k = rstd w dy and d = x - mean (RMS: x): dx = k - d rstd^2 mean(k d) - mean(k), dw = sum of rstd dy d. A row computes k and d once
// (NV up to 2) or twice.
template <int NV, bool kLayer, bool kSum>
__global__ void __launch_bounds__(ring_threads(NV), ring_blocks(NV)) row_norm_bwd_ring(RowNorm a) {
  constexpr int kStreams = kSum ? 3 : 2, kDepth = ring_depth(NV, kStreams);
  constexpr bool kKeep = NV <= 2;
  WEFT_DYNAMIC_SMEM(row_norm_ring);
  __shared__ SumScratch scratch[2];
  clear_sums(scratch, a.lanes);
  const RowPlace place(a.lanes);
  const int lane = place.lane, sub = place.sub, vecs = a.cols / 8, rows_per_block = place.rows;
  const RowRing<NV, kStreams, kDepth> ring{reinterpret_cast<bf16*>(row_norm_ring), lane, a.lanes, vecs};
  const void* from[kStreams];
  from[0] = a.x, from[1] = a.dy;
  if constexpr (kSum) from[2] = a.dsum;
  const int64_t step = static_cast<int64_t>(gridDim.x) * rows_per_block, start = static_cast<int64_t>(blockIdx.x) * rows_per_block + sub;
#pragma unroll
  for (int d = 0; d < kDepth; ++d) ring.ask(from, start + d * step, a.rows, d);
  const float per_col = 1.0f / static_cast<float>(a.cols);
  RowWeights<NV> w;
  w.read(a.w, lane, a.lanes, vecs, 1.0f);
  float dw[NV][8] = {}, db[kLayer ? NV : 1][8] = {};
  float next_rstd = start < a.rows ? a.rstd[start] : 0.0f, next_mean = kLayer && start < a.rows ? a.mean[start] : 0.0f;
  int stage = 0, turn = 0;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * rows_per_block; first < a.rows; first += step, turn ^= 1) {
    const int64_t row = first + sub;
    const bool here = row < a.rows, more = row + step < a.rows;
    const float rstd = next_rstd, mean = next_mean;
    next_rstd = more ? a.rstd[row + step] : 0.0f, next_mean = kLayer && more ? a.mean[row + step] : 0.0f;
    cp_async_wait<kDepth - 1>();
    float d[kKeep ? NV : 1][8], k[kKeep ? NV : 1][8], dot = 0, total = 0;
    // d and k of vector i; `sums`: added to what the row and the block add up.
    auto work = [&](int i, float(&d)[8], float(&k)[8], bool sums) {
      float g[8], s[8];
      load8(ring.slot(stage, 0, i), d), load8(ring.slot(stage, 1, i), g);
      w.get(i, s);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if constexpr (kLayer) d[j] -= mean;
        const float scaled = g[j] * rstd;
        k[j] = scaled * s[j];
        if (!sums) continue;
        dot += k[j] * d[j], dw[i][j] += scaled * d[j];
        if constexpr (kLayer) total += k[j], db[i][j] += g[j];
      }
    };
#pragma unroll
    for (int i = 0; i < NV; ++i)
      if (here && lane + i * a.lanes < vecs) work(i, d[kKeep ? i : 0], k[kKeep ? i : 0], true);
    row_sums<kLayer>(dot, total, a.lanes, scratch[turn]);
    dot *= -rstd * rstd * per_col, total *= -per_col;
#pragma unroll
    for (int i = 0; i < NV; ++i) {
      if (!(here && lane + i * a.lanes < vecs)) continue;
      float(&di)[8] = d[kKeep ? i : 0], (&ki)[8] = k[kKeep ? i : 0];
      if constexpr (!kKeep) work(i, di, ki, false);
#pragma unroll
      for (int j = 0; j < 8; ++j) ki[j] += kLayer ? di[j] * dot + total : di[j] * dot;
      if constexpr (kSum) {
        float g[8];
        load8(ring.slot(stage, 2, i), g);
#pragma unroll
        for (int j = 0; j < 8; ++j) ki[j] += g[j];
      }
      store8(static_cast<bf16*>(a.y) + (row * vecs + lane + i * a.lanes) * 8, ki);
    }
    ring.ask(from, row + kDepth * step, a.rows, stage);
    stage = stage + 1 == kDepth ? 0 : stage + 1;
  }
  cp_async_wait<0>();
  float* sums = reinterpret_cast<float*>(row_norm_ring);
  if (a.dw_parts != nullptr) store_block_sums(a, dw, a.dw_parts, sums);
  if constexpr (kLayer)
    if (a.db_parts != nullptr) store_block_sums(a, db, a.db_parts, sums);
}

}  // namespace weft::kernels::dev
