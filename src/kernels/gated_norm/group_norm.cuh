// RMS (or L2) norm over groups of columns, optionally gated. A block works on one group (blockIdx.y) and walks down the rows, so
// its part of dw stays in registers; a group's row lives in the registers of `lanes` threads, NV vectors of eight each.
#pragma once
#include "kernels/common/row_norm.cuh"

namespace weft::kernels::dev {

struct GroupNorm {
  const void *x, *z, *w, *dy;
  void *y, *dx, *dz;
  float* rstd;                                                       // [rows, groups], read in backward
  float* dw_parts;                                                   // [blocks, groups, group], or null
  int64_t rows, x_stride, z_stride, y_stride, dx_stride, dz_stride;  // y_stride: of dy too
  int32_t group, groups, lanes;
  float eps, divisor;  // of the sum of squares
  bool w_shared, gate_first;
  bool w_f32 = false;  // w is fp32 whatever T
};

template <class T>
__device__ __forceinline__ void load_weight(const GroupNorm& a, int64_t at, float (&s)[8]) {
  if (a.w_f32) load8(static_cast<const float*>(a.w) + at, s);
  else load8(static_cast<const T*>(a.w) + at, s);
}
template <class T>
__device__ __forceinline__ float weight_at(const GroupNorm& a, int64_t at) {
  if (a.w == nullptr) return 1.0f;
  return a.w_f32 ? static_cast<const float*>(a.w)[at] : to_f32(static_cast<const T*>(a.w)[at]);
}

// silu(z) and its slope.
template <class T>
__device__ __forceinline__ float silu(float z, float& slope) {
  const float s = sigmoid<T>(z);
  slope = s * (1 + z * (1 - s));
  return z * s;
}

template <class T, int NV, bool kGate>
__global__ void __launch_bounds__(512) group_norm_fwd(GroupNorm a) {
  __shared__ float scratch[33];
  const int vecs = (a.group + 7) / 8, lane = threadIdx.x % a.lanes, per_block = blockDim.x / a.lanes;
  const int64_t column = static_cast<int64_t>(blockIdx.y) * a.group;
  const int64_t w_at = a.w_shared ? 0 : column;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * per_block; first < a.rows;
       first += static_cast<int64_t>(gridDim.x) * per_block) {
    const int64_t row = first + threadIdx.x / a.lanes;
    const bool here = row < a.rows;
    Vec8<T> raw_x[NV], raw_z[kGate ? NV : 1];
#pragma unroll
    for (int i = 0; i < NV; ++i) {
      const int v = lane + i * a.lanes;
      if (!(here && v < vecs)) continue;
      raw_x[i] = load8(static_cast<const T*>(a.x) + row * a.x_stride + column + v * 8);
      if constexpr (kGate) raw_z[i] = load8(static_cast<const T*>(a.z) + row * a.z_stride + column + v * 8);
    }
    float u[NV][8], gate[kGate ? NV : 1][8], square = 0;
#pragma unroll
    for (int i = 0; i < NV; ++i) {
      if (!(here && lane + i * a.lanes < vecs)) continue;
      unpack(raw_x[i], u[i]);
      if constexpr (kGate) unpack(raw_z[i], gate[i]);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if constexpr (kGate) {
          float slope;
          gate[i][j] = silu<T>(gate[i][j], slope);
          if (a.gate_first) u[i][j] *= gate[i][j];
        }
        square += u[i][j] * u[i][j];
      }
    }
    const float rstd = 1.0f / sqrtf(row_sum<T>(square, a.lanes, scratch) / a.divisor + a.eps);
    if (here && lane == 0 && a.rstd != nullptr) a.rstd[row * a.groups + blockIdx.y] = rstd;
#pragma unroll
    for (int i = 0; i < NV; ++i) {
      const int v = lane + i * a.lanes;
      if (!(here && v < vecs)) continue;
      float s[8];
      if (a.w != nullptr) load_weight<T>(a, w_at + v * 8, s);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        u[i][j] *= rstd * (a.w != nullptr ? s[j] : 1.0f);
        if constexpr (kGate)
          if (!a.gate_first) u[i][j] *= gate[i][j];
      }
      store8(static_cast<T*>(a.y) + row * a.y_stride + column + v * 8, u[i]);
    }
  }
}

template <class T, int NV, bool kGate>
__global__ void __launch_bounds__(512) group_norm_bwd(GroupNorm a) {
  __shared__ float scratch[33];
  WEFT_DYNAMIC_SMEM(group_norm_smem);
  float* smem = reinterpret_cast<float*>(group_norm_smem);
  const int vecs = a.group / 8, lane = threadIdx.x % a.lanes, sub = threadIdx.x / a.lanes, per_block = blockDim.x / a.lanes;
  const int64_t column = static_cast<int64_t>(blockIdx.y) * a.group;
  const int64_t w_at = a.w_shared ? 0 : column;
  float dw[NV][8] = {};
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * per_block; first < a.rows;
       first += static_cast<int64_t>(gridDim.x) * per_block) {
    const int64_t row = first + sub;
    const bool here = row < a.rows;
    const float rstd = here ? a.rstd[row * a.groups + blockIdx.y] : 0.0f;
    Vec8<T> raw_x[NV], raw_g[NV], raw_z[kGate ? NV : 1];
#pragma unroll
    for (int i = 0; i < NV; ++i) {
      const int v = lane + i * a.lanes;
      if (!(here && v < vecs)) continue;
      raw_g[i] = load8(static_cast<const T*>(a.dy) + row * a.y_stride + column + v * 8);
      raw_x[i] = load8(static_cast<const T*>(a.x) + row * a.x_stride + column + v * 8);
      if constexpr (kGate) raw_z[i] = load8(static_cast<const T*>(a.z) + row * a.z_stride + column + v * 8);
    }
    float dot = 0;
#pragma unroll
    for (int i = 0; i < NV; ++i) {
      const int v = lane + i * a.lanes;
      if (!(here && v < vecs)) continue;
      float x[8], g[8], s[8], z[8];
      unpack(raw_x[i], x), unpack(raw_g[i], g);
      if constexpr (kGate) unpack(raw_z[i], z);
      if (a.w != nullptr) load_weight<T>(a, w_at + v * 8, s);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if constexpr (kGate) {
          float slope;
          const float gate = silu<T>(z[j], slope);
          if (a.gate_first)
            x[j] *= gate;
          else
            g[j] *= gate;
        }
        const float n = x[j] * rstd;
        dw[i][j] += g[j] * n;
        dot += (a.w != nullptr ? g[j] * s[j] : g[j]) * n;
      }
    }
    dot = row_sum<T>(dot, a.lanes, scratch) / a.divisor;
#pragma unroll
    for (int i = 0; i < NV; ++i) {
      const int v = lane + i * a.lanes;
      if (!(here && v < vecs)) continue;
      float x[8], g[8], s[8], z[8];
      unpack(raw_x[i], x), unpack(raw_g[i], g);
      if constexpr (kGate) unpack(raw_z[i], z);
      if (a.w != nullptr) load_weight<T>(a, w_at + v * 8, s);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float scale = a.w != nullptr ? s[j] : 1.0f;
        if constexpr (kGate) {
          float slope;
          const float gate = silu<T>(z[j], slope);
          if (a.gate_first) {
            const float du = rstd * (g[j] * scale - x[j] * gate * rstd * dot);
            z[j] = du * x[j] * slope, x[j] = du * gate;
          } else {
            const float n = x[j] * rstd;
            z[j] = g[j] * n * scale * slope, x[j] = rstd * (g[j] * gate * scale - n * dot);
          }
        } else {
          x[j] = rstd * (g[j] * scale - x[j] * rstd * dot);
        }
      }
      store8(static_cast<T*>(a.dx) + row * a.dx_stride + column + v * 8, x);
      if constexpr (kGate) store8(static_cast<T*>(a.dz) + row * a.dz_stride + column + v * 8, z);
    }
  }
  if (a.dw_parts == nullptr) return;
  float* out = a.dw_parts + (static_cast<int64_t>(blockIdx.x) * a.groups + blockIdx.y) * a.group;
  sum_block_rows({vecs, a.lanes, lane, sub, per_block}, dw, a.group, out, smem);
}

// Any group size, any alignment: a block a group's row, values read again from cache.
template <class T>
__global__ void __launch_bounds__(128) group_norm_plain(GroupNorm a, bool backward) {
  __shared__ float scratch[33];
  const int64_t column = static_cast<int64_t>(blockIdx.y) * a.group;
  const int64_t w_at = a.w_shared ? 0 : column;
  float* dw = a.dw_parts == nullptr ? nullptr : a.dw_parts + (static_cast<int64_t>(blockIdx.x) * a.groups + blockIdx.y) * a.group;
  if (backward && dw != nullptr)
    for (int c = threadIdx.x; c < a.group; c += 128) dw[c] = 0;
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const T *x = static_cast<const T*>(a.x) + row * a.x_stride + column,
            *z = a.z == nullptr ? nullptr : static_cast<const T*>(a.z) + row * a.z_stride + column;
    float sum = 0;
    if (!backward) {
      for (int c = threadIdx.x; c < a.group; c += 128) {
        float slope, u = to_f32(x[c]);
        if (z != nullptr && a.gate_first) u *= silu<T>(to_f32(z[c]), slope);
        sum += u * u;
      }
      const float rstd = 1.0f / sqrtf(block_reduce(sum, scratch) / a.divisor + a.eps);
      if (threadIdx.x == 0 && a.rstd != nullptr) a.rstd[row * a.groups + blockIdx.y] = rstd;
      for (int c = threadIdx.x; c < a.group; c += 128) {
        float slope;
        const float gate = z != nullptr ? silu<T>(to_f32(z[c]), slope) : 1.0f;
        static_cast<T*>(a.y)[row * a.y_stride + column + c] =
            from_f32<T>(to_f32(x[c]) * gate * rstd * weight_at<T>(a, w_at + c));
      }
      continue;
    }
    const T* dy = static_cast<const T*>(a.dy) + row * a.y_stride + column;
    const float rstd = a.rstd[row * a.groups + blockIdx.y];
    for (int c = threadIdx.x; c < a.group; c += 128) {
      float slope;
      const float gate = z != nullptr ? silu<T>(to_f32(z[c]), slope) : 1.0f, g = to_f32(dy[c]) * to_f32(x[c]) * gate * rstd;
      if (dw != nullptr) dw[c] += g;
      sum += g * weight_at<T>(a, w_at + c);
    }
    const float dot = block_reduce(sum, scratch) / a.divisor;
    for (int c = threadIdx.x; c < a.group; c += 128) {
      float slope = 0;
      const float gate = z != nullptr ? silu<T>(to_f32(z[c]), slope) : 1.0f,
                  g = to_f32(dy[c]) * weight_at<T>(a, w_at + c), v = to_f32(x[c]);
      float dx, dz = 0;
      if (z == nullptr || a.gate_first) {
        const float du = rstd * (g - v * gate * rstd * dot);
        dx = du * gate, dz = du * v * slope;
      } else {
        dx = rstd * (g * gate - v * rstd * dot), dz = g * v * rstd * slope;
      }
      static_cast<T*>(a.dx)[row * a.dx_stride + column + c] = from_f32<T>(dx);
      if (z != nullptr) static_cast<T*>(a.dz)[row * a.dz_stride + column + c] = from_f32<T>(dz);
    }
  }
}

}  // namespace weft::kernels::dev

namespace weft::kernels {

// Blocks a group in backward: fixed, for one order of sums.
inline int64_t group_norm_parts(int64_t rows, int32_t groups) {
  const int64_t most = ceil_div(1056, groups > 0 ? groups : 1);
  return rows < most ? (rows > 0 ? rows : 1) : most;
}
inline size_t group_norm_workspace(int64_t rows, int32_t group, int32_t groups) {
  return sizeof(float) * static_cast<size_t>(group_norm_parts(rows, groups)) * static_cast<size_t>(group) *
         static_cast<size_t>(groups);
}

inline RowPlan plan_groups(const dev::GroupNorm& a) {
  bool aligned = a.group % 8 == 0;
  for (int64_t s : {a.x_stride, a.z_stride, a.y_stride, a.dx_stride, a.dz_stride}) aligned = aligned && s % 8 == 0;
  for (const void* p :
       {a.x, a.z, a.w, a.dy, static_cast<const void*>(a.y), static_cast<const void*>(a.dx), static_cast<const void*>(a.dz)})
    aligned = aligned && is_aligned(p, 16);
  return plan_rows(a.group, aligned);
}

template <bool kGate>
void launch_group_norm_fwd(dev::GroupNorm a, DType dtype, const Launch& launch) {
  if (a.rows == 0 || a.groups == 0 || a.group == 0) return;
  const RowPlan plan = plan_groups(a);
  a.lanes = plan.lanes;
  const int64_t blocks = ceil_div(a.rows, plan.rows_per_block()), most = ceil_div(4224, a.groups);
  const dim3 grid(static_cast<unsigned>(blocks < most ? blocks : most), static_cast<unsigned>(a.groups));
  with_float_type(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const dim3 threads(static_cast<unsigned>(plan.threads));
    if (plan.vectors == 1)
      launch_grid(dev::group_norm_fwd<T, 1, kGate>, grid, threads, 0, launch.stream, a);
    else if (plan.vectors == 2)
      launch_grid(dev::group_norm_fwd<T, 2, kGate>, grid, threads, 0, launch.stream, a);
    else if (plan.vectors == 4)
      launch_grid(dev::group_norm_fwd<T, 4, kGate>, grid, threads, 0, launch.stream, a);
    else
      launch_grid(dev::group_norm_plain<T>, grid, dim3(128), 0, launch.stream, a, false);
  });
}

template <bool kGate>
void launch_group_norm_bwd(dev::GroupNorm a, float* dw, DType dtype, const Launch& launch) {
  if (a.rows == 0 || a.groups == 0 || a.group == 0) return;
  const RowPlan plan = plan_groups(a);
  a.lanes = plan.lanes;
  const int64_t parts = group_norm_parts(ceil_div(a.rows, plan.rows_per_block()), a.groups);
  a.dw_parts = dw == nullptr ? nullptr : static_cast<float*>(launch.workspace);
  const dim3 grid(static_cast<unsigned>(parts), static_cast<unsigned>(a.groups)), threads(static_cast<unsigned>(plan.threads));
  const size_t smem = sizeof(float) * static_cast<size_t>(plan.rows_per_block()) * static_cast<size_t>(a.group);
  with_float_type(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (plan.vectors == 1)
      launch_grid(dev::group_norm_bwd<T, 1, kGate>, grid, threads, smem, launch.stream, a);
    else if (plan.vectors == 2)
      launch_grid(dev::group_norm_bwd<T, 2, kGate>, grid, threads, smem, launch.stream, a);
    else if (plan.vectors == 4)
      launch_grid(dev::group_norm_bwd<T, 4, kGate>, grid, threads, smem, launch.stream, a);
    else
      launch_grid(dev::group_norm_plain<T>, grid, dim3(128), 0, launch.stream, a, true);
  });
  if (dw == nullptr) return;
  if (a.w_shared)
    add_column_sums(a.dw_parts, parts * a.groups, a.group, dw, launch.stream);
  else
    add_column_sums(a.dw_parts, parts, static_cast<int64_t>(a.groups) * a.group, dw, launch.stream);
}

}  // namespace weft::kernels
