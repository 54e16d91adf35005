// RMS (or L2) norm over groups of columns, optionally gated. A block works on `side` neighbouring groups (blockIdx.y) and walks down the rows,
// so its part of dw stays in registers and its loads are neighbours in memory; a group's row lives in the registers of `lanes` threads, NV
// vectors of eight each, of several rows at once.
#pragma once
#include "kernels/common/row_norm.cuh"

namespace weft::kernels::dev {

struct GroupNorm {
  const void *x, *z, *w, *dy;
  void *y, *dx, *dz;
  float* rstd;                                                       // [rows, groups], read in backward
  float* dw_parts;                                                   // [blocks, groups, group], or null
  int64_t rows, x_stride, z_stride, y_stride, dx_stride, dz_stride;  // y_stride: of dy too
  int32_t group, groups, lanes, side = 1;
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

// Of a thread's columns: in registers where there is room, else read where they are needed.
template <class T, int NV>
struct GroupWeights {
  static constexpr bool kHeld = NV == 1 || (NV == 2 && sizeof(T) == 2);
  float held[kHeld ? NV : 1][8];
  __device__ __forceinline__ void read(const GroupNorm& a, int64_t at, int i, float (&s)[8]) const {
    if (a.w != nullptr) return load_weight<T>(a, at + i * a.lanes * 8, s);
#pragma unroll
    for (int j = 0; j < 8; ++j) s[j] = 1.0f;
  }
  __device__ __forceinline__ void hold(const GroupNorm& a, int64_t at, int lane, int vecs) {
    if constexpr (kHeld)
#pragma unroll
      for (int i = 0; i < NV; ++i)
        if (lane + i * a.lanes < vecs) read(a, at, i, held[i]);
  }
  __device__ __forceinline__ void get(const GroupNorm& a, int64_t at, int i, float (&s)[8]) const {
    if constexpr (kHeld) {
#pragma unroll
      for (int j = 0; j < 8; ++j) s[j] = held[i][j];
    } else {
      read(a, at, i, s);
    }
  }
};

// Rows that a thread asks for at once.
template <class T, int NV, bool kGate, bool kBackward>
constexpr int group_rows() {
  if (NV == 1) return sizeof(T) == 2 && !kGate && !kBackward ? 4 : sizeof(T) == 2 || !kBackward ? 2 : 1;
  return NV == 2 && sizeof(T) == 2 && !kBackward ? 2 : 1;
}

template <class T, int NV, bool kGate>
__global__ void __launch_bounds__(NV == 1 ? 256 : 512) group_norm_fwd(GroupNorm a) {
  constexpr int kRows = group_rows<T, NV, kGate, false>();
  __shared__ float scratch[33];
  const RowPlace place(a.lanes);
  const int vecs = (a.group + 7) / 8, lane = place.lane, below = place.sub / a.side, down = place.rows / a.side;
  const int group = blockIdx.y * a.side + place.sub - below * a.side;
  const int64_t column = static_cast<int64_t>(group) * a.group + lane * 8, w_at = a.w_shared ? lane * 8 : column;
  GroupWeights<T, NV> w;
  w.hold(a, w_at, lane, vecs);
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * (down * kRows); first < a.rows; first += static_cast<int64_t>(gridDim.x) * (down * kRows)) {
    Vec8<T> raw_x[kRows][NV], raw_z[kGate ? kRows : 1][kGate ? NV : 1];
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      const int64_t row = first + k * down + below;
#pragma unroll
      for (int i = 0; i < NV; ++i) {
        if (!(row < a.rows && lane + i * a.lanes < vecs)) continue;
        raw_x[k][i] = load8(static_cast<const T*>(a.x) + row * a.x_stride + column + i * a.lanes * 8);
        if constexpr (kGate) raw_z[k][i] = load8(static_cast<const T*>(a.z) + row * a.z_stride + column + i * a.lanes * 8);
      }
    }
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      const int64_t row = first + k * down + below;
      const bool here = row < a.rows;
      float u[NV][8], gate[kGate ? NV : 1][8], square = 0;
#pragma unroll
      for (int i = 0; i < NV; ++i) {
        if (!(here && lane + i * a.lanes < vecs)) continue;
        unpack(raw_x[k][i], u[i]);
        if constexpr (kGate) unpack(raw_z[k][i], gate[i]);
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
      if (here && lane == 0 && a.rstd != nullptr) a.rstd[row * a.groups + group] = rstd;
#pragma unroll
      for (int i = 0; i < NV; ++i) {
        if (!(here && lane + i * a.lanes < vecs)) continue;
        float s[8];
        w.get(a, w_at, i, s);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          u[i][j] *= rstd * s[j];
          if constexpr (kGate)
            if (!a.gate_first) u[i][j] *= gate[i][j];
        }
        store8(static_cast<T*>(a.y) + row * a.y_stride + column + i * a.lanes * 8, u[i]);
      }
    }
  }
}

template <class T, int NV, bool kGate>
__global__ void __launch_bounds__(NV == 1 ? 256 : 512, NV == 1 && sizeof(T) == 2 ? 3 : 1) group_norm_bwd(GroupNorm a) {
  constexpr int kRows = group_rows<T, NV, kGate, true>();
  __shared__ float scratch[33];
  WEFT_DYNAMIC_SMEM(group_norm_smem);
  float* smem = reinterpret_cast<float*>(group_norm_smem);
  const RowPlace place(a.lanes);
  const int vecs = a.group / 8, lane = place.lane, sub = place.sub, per_block = place.rows, below = sub / a.side, down = per_block / a.side;
  const int group = blockIdx.y * a.side + sub - below * a.side;
  const int64_t column = static_cast<int64_t>(group) * a.group + lane * 8, w_at = a.w_shared ? lane * 8 : column;
  GroupWeights<T, NV> w;
  w.hold(a, w_at, lane, vecs);
  float dw[NV][8] = {};
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * (down * kRows); first < a.rows; first += static_cast<int64_t>(gridDim.x) * (down * kRows)) {
    Vec8<T> raw_x[kRows][NV], raw_g[kRows][NV], raw_z[kGate ? kRows : 1][kGate ? NV : 1];
    float rstds[kRows];
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      const int64_t row = first + k * down + below;
      rstds[k] = row < a.rows ? a.rstd[row * a.groups + group] : 0.0f;
#pragma unroll
      for (int i = 0; i < NV; ++i) {
        if (!(row < a.rows && lane + i * a.lanes < vecs)) continue;
        raw_g[k][i] = load8(static_cast<const T*>(a.dy) + row * a.y_stride + column + i * a.lanes * 8);
        raw_x[k][i] = load8(static_cast<const T*>(a.x) + row * a.x_stride + column + i * a.lanes * 8);
        if constexpr (kGate) raw_z[k][i] = load8(static_cast<const T*>(a.z) + row * a.z_stride + column + i * a.lanes * 8);
      }
    }
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      const int64_t row = first + k * down + below;
      const bool here = row < a.rows;
      const float rstd = rstds[k];
      float dot = 0;
#pragma unroll
      for (int i = 0; i < NV; ++i) {
        if (!(here && lane + i * a.lanes < vecs)) continue;
        float x[8], g[8], s[8], z[8];
        unpack(raw_x[k][i], x), unpack(raw_g[k][i], g);
        if constexpr (kGate) unpack(raw_z[k][i], z);
        w.get(a, w_at, i, s);
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
          dot += g[j] * s[j] * n;
        }
      }
      dot = row_sum<T>(dot, a.lanes, scratch) / a.divisor;
#pragma unroll
      for (int i = 0; i < NV; ++i) {
        if (!(here && lane + i * a.lanes < vecs)) continue;
        float x[8], g[8], s[8], z[8];
        unpack(raw_x[k][i], x), unpack(raw_g[k][i], g);
        if constexpr (kGate) unpack(raw_z[k][i], z);
        w.get(a, w_at, i, s);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          if constexpr (kGate) {
            float slope;
            const float gate = silu<T>(z[j], slope);
            if (a.gate_first) {
              const float du = rstd * (g[j] * s[j] - x[j] * gate * rstd * dot);
              z[j] = du * x[j] * slope, x[j] = du * gate;
            } else {
              const float n = x[j] * rstd;
              z[j] = g[j] * n * s[j] * slope, x[j] = rstd * (g[j] * gate * s[j] - n * dot);
            }
          } else {
            x[j] = rstd * (g[j] * s[j] - x[j] * rstd * dot);
          }
        }
        store8(static_cast<T*>(a.dx) + row * a.dx_stride + column + i * a.lanes * 8, x);
        if constexpr (kGate) store8(static_cast<T*>(a.dz) + row * a.dz_stride + column + i * a.lanes * 8, z);
      }
    }
  }
  if (a.dw_parts == nullptr) return;
  // Of a shared w one row of parts a block, else one for each of its groups: the sums of those rows of threads that had it, in their order.
  __syncthreads();
#pragma unroll
  for (int i = 0; i < NV; ++i)
    if (lane + i * a.lanes < vecs) store8(smem + sub * a.group + (lane + i * a.lanes) * 8, dw[i]);
  __syncthreads();
  const int kept = a.w_shared ? 1 : a.side;
  float* out = a.dw_parts + (static_cast<int64_t>(blockIdx.x) * gridDim.y + blockIdx.y) * kept * a.group;
  for (int c = threadIdx.x; c < kept * a.group; c += blockDim.x) {
    float s = 0;
    for (int r = c / a.group; r < per_block; r += kept) s += smem[r * a.group + c % a.group];
    out[c] = s;
  }
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

// Groups side by side in a block of the fast kernels: as many as divide both. Wide groups of a backward stay alone: each adds to the parts.
inline int32_t groups_aside(const RowPlan& plan, int32_t groups, bool backward) {
  int32_t a = plan.vectors == 0 || (backward && plan.vectors > 1) ? 1 : plan.rows_per_block(), b = groups;
  while (b > 0) {
    const int32_t rest = a % b;
    a = b, b = rest;
  }
  return a;
}
// Blocks down the rows in backward: fixed, for one order of sums; about what the processors of an H200 hold at once, or twice that.
inline int64_t group_norm_parts(const RowPlan& plan, int64_t steps, int64_t across) {
  const int64_t held = plan.vectors == 1 ? 132 * 3 : plan.vectors == 0 ? 132 * 8 : 132 * 4, most = ceil_div(held, across > 0 ? across : 1);
  return steps < most ? (steps > 0 ? steps : 1) : most;
}
inline size_t group_norm_workspace(int64_t rows, int32_t group, int32_t groups) {
  const RowPlan plan = plan_rows(group, true);
  const int32_t side = groups > 0 ? groups_aside(plan, groups, true) : 1;
  const int64_t fast = group_norm_parts(plan, rows, groups / side), plain = group_norm_parts({}, rows, groups);
  return sizeof(float) * static_cast<size_t>(fast > plain ? fast : plain) * static_cast<size_t>(group) * static_cast<size_t>(groups);
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
  a.lanes = plan.lanes, a.side = groups_aside(plan, a.groups, false);
  const int64_t across = a.groups / a.side, down = plan.rows_per_block() / a.side, most = ceil_div(4224, across);
  with_float_type(dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    auto go = [&](auto kernel, int threads, int64_t rows, auto... more) {
      const int64_t blocks = ceil_div(a.rows, rows);
      launch_grid(kernel, dim3(static_cast<unsigned>(blocks < most ? blocks : most), static_cast<unsigned>(across)), dim3(static_cast<unsigned>(threads)), 0, launch.stream, a, more...);
    };
    if (plan.vectors == 1)
      go(dev::group_norm_fwd<T, 1, kGate>, plan.threads, down * dev::group_rows<T, 1, kGate, false>());
    else if (plan.vectors == 2)
      go(dev::group_norm_fwd<T, 2, kGate>, plan.threads, down * dev::group_rows<T, 2, kGate, false>());
    else if (plan.vectors == 4)
      go(dev::group_norm_fwd<T, 4, kGate>, plan.threads, down);
    else
      go(dev::group_norm_plain<T>, 128, 1, false);
  });
}

template <bool kGate>
void launch_group_norm_bwd(dev::GroupNorm a, float* dw, DType dtype, const Launch& launch) {
  if (a.rows == 0 || a.groups == 0 || a.group == 0) return;
  const RowPlan plan = plan_groups(a);
  a.lanes = plan.lanes, a.side = groups_aside(plan, a.groups, true);
  const int64_t across = a.groups / a.side, parts = group_norm_parts(plan, ceil_div(a.rows, plan.rows_per_block() / a.side), across);
  a.dw_parts = dw == nullptr ? nullptr : static_cast<float*>(launch.workspace);
  const dim3 grid(static_cast<unsigned>(parts), static_cast<unsigned>(across)), threads(static_cast<unsigned>(plan.threads));
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
    add_column_sums(a.dw_parts, parts * across, a.group, dw, launch.stream);
  else
    add_column_sums(a.dw_parts, parts, static_cast<int64_t>(a.groups) * a.group, dw, launch.stream);
}

}  // namespace weft::kernels
