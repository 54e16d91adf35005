// Grouped GEMM in fp32, and in bf16 where rows are no multiple of 16 bytes: a block a tile of 64 x 64 on the plain fp32 units, sums in
// the order of the depth. Bound: those units.
#include "kernels/common/device.cuh"
#include "kernels/grouped_gemm/grouped_gemm.h"

namespace weft::kernels {
namespace {

constexpr int kTile = 64, kDepth = 16, kThreads = 256, kStride = kTile + 4, kMostBlocks = 65535;

// A factor as a tile sees it: element (side, d) lies side * side_stride + d * depth_stride from p; sides from `sides` on are zeros.
template <class T>
struct Factor {
  const T* p;
  int64_t side_stride, depth_stride, sides;
};

// 64 sides x 16 of the depth as [depth][side]; neighbours in memory go to neighbouring threads.
template <class T>
__device__ __forceinline__ void load_tile(float* tile, const Factor<T>& f, int64_t d0, int64_t depth) {
  const bool along_depth = f.depth_stride == 1;
#pragma unroll
  for (int j = 0; j < kTile * kDepth / kThreads; ++j) {
    const int i = static_cast<int>(threadIdx.x) + j * kThreads;
    const int side = along_depth ? i / kDepth : i % kTile, d = along_depth ? i % kDepth : i / kTile;
    const bool real = side < f.sides && d0 + d < depth;
    tile[d * kStride + side] = real ? dev::to_f32(f.p[side * f.side_stride + (d0 + d) * f.depth_stride]) : 0.0f;
  }
}

// acc[i][j] = sum_d a(4 r + i, d) b(4 c + j, d), thread = 16 r + c.
template <class T>
__device__ __forceinline__ void multiply(float (&acc)[4][4], const Factor<T>& fa, const Factor<T>& fb, int64_t depth) {
  __shared__ __align__(16) float a[kDepth * kStride], b[kDepth * kStride];
  const int r = static_cast<int>(threadIdx.x) / 16 * 4, c = static_cast<int>(threadIdx.x) % 16 * 4;
  for (int64_t d0 = 0; d0 < depth; d0 += kDepth) {
    __syncthreads();
    load_tile(a, fa, d0, depth), load_tile(b, fb, d0, depth);
    __syncthreads();
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      const float4 x = *reinterpret_cast<const float4*>(a + d * kStride + r), y = *reinterpret_cast<const float4*>(b + d * kStride + c);
      const float xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) acc[i][j] += xs[i] * ys[j];
    }
  }
}

struct RowTile {  // rows [first, end) of a group; group == groups: rows of none
  int group;
  int64_t first, end;
};
__device__ __forceinline__ RowTile row_tile(const int32_t* ends, int groups, int64_t rows, int64_t tile) {
  int64_t begin = 0;
  for (int e = 0; e <= groups; ++e) {
    const int64_t end = e < groups ? int64_t{ends[e]} : rows, tiles = (end - begin + kTile - 1) / kTile;
    if (tile < tiles) return {e, begin + tile * kTile, end};
    tile -= tiles, begin = end;
  }
  return {groups, rows, rows};
}

// Forward and dgrad: out[r, col] = sum_d a[r, d] w[e](col, d).
template <class T>
__global__ void __launch_bounds__(kThreads) row_products(GroupedGemm g, bool forward) {
  const RowTile t = row_tile(g.ends, g.groups, g.rows, blockIdx.x);
  if (t.first >= t.end) return;
  const int64_t cols = forward ? g.n : g.k, depth = forward ? g.k : g.n, c0 = int64_t{blockIdx.y} * kTile;
  float acc[4][4] = {};
  if (t.group < g.groups) {
    const T* w = static_cast<const T*>(g.w) + int64_t{t.group} * g.n * g.k;
    const Factor<T> rows{static_cast<const T*>(g.a) + t.first * depth, depth, 1, t.end - t.first};
    const Factor<T> weights = forward ? Factor<T>{w + c0 * g.k, g.k, 1, cols - c0} : Factor<T>{w + c0, 1, g.k, cols - c0};
    multiply(acc, rows, weights, depth);
  }
  const int r = static_cast<int>(threadIdx.x) / 16 * 4, c = static_cast<int>(threadIdx.x) % 16 * 4;
  T* out = static_cast<T*>(g.out);
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (t.first + r + i < t.end && c0 + c + j < cols) out[(t.first + r + i) * cols + c0 + c + j] = dev::from_f32<T>(acc[i][j]);
}

template <class T, class Out>
__global__ void __launch_bounds__(kThreads) weight_products(GroupedGemm g) {
  const int e = static_cast<int>(blockIdx.z);
  const int64_t first = e == 0 ? 0 : int64_t{g.ends[e - 1]}, rows = g.ends[e] - first, k0 = int64_t{blockIdx.x} * kTile, n0 = int64_t{blockIdx.y} * kTile;
  if (rows == 0 && g.accumulate) return;
  float acc[4][4] = {};
  const Factor<T> left{static_cast<const T*>(g.a) + first * g.n + n0, 1, g.n, g.n - n0}, right{static_cast<const T*>(g.w) + first * g.k + k0, 1, g.k, g.k - k0};
  multiply(acc, left, right, rows);
  const int r = static_cast<int>(threadIdx.x) / 16 * 4, c = static_cast<int>(threadIdx.x) % 16 * 4;
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (n0 + r + i >= g.n || k0 + c + j >= g.k) continue;
      Out* out = static_cast<Out*>(g.out) + (int64_t{e} * g.n + n0 + r + i) * g.k + k0 + c + j;
      *out = dev::from_f32<Out>(acc[i][j] + (g.accumulate ? dev::to_f32(*out) : 0.0f));
    }
}

}  // namespace

Support supports_grouped_gemm_general_sm90(const GroupedGemm& a, const Device& device) {
  const bool wgrad = a.kind == GroupedGemm::kWgrad;
  if (a.out_dtype != a.dtype && !(wgrad && a.out_dtype == DType::kF32)) return {"out is not in the operands' dtype (or fp32 for the weight gradient)"};
  if (a.accumulate && a.out_dtype != DType::kF32) return {"accumulates into fp32 only"};
  if (a.groups < 1) return {"no groups"};
  if (a.groups > kMostBlocks || ceil_div(a.n, kTile) > kMostBlocks || ceil_div(a.k, kTile) > kMostBlocks) return {"more groups, or n or k larger, than a grid holds"};
  if (a.rows >= (int64_t{1} << 31)) return {"2^31 rows or more"};
  return on_sm90(device, a.dtype);
}

void grouped_gemm_general_sm90(const GroupedGemm& a, const Launch& l) {
  const auto blocks = [](int64_t n) { return static_cast<unsigned>(ceil_div(n, kTile)); };
  with_float_type(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    if (a.kind == GroupedGemm::kWgrad) {
      const dim3 grid(blocks(a.k), blocks(a.n), static_cast<unsigned>(a.groups));
      if (a.out_dtype == DType::kF32) launch_grid(weight_products<T, float>, grid, dim3(kThreads), 0, l.stream, a);
      else launch_grid(weight_products<T, T>, grid, dim3(kThreads), 0, l.stream, a);
      return;
    }
    const bool forward = a.kind == GroupedGemm::kForward;
    // A group may end within a tile, and so may the rows of none.
    const unsigned tiles = a.rows == 0 ? 0 : blocks(a.rows) + static_cast<unsigned>(a.groups) + 1;
    launch_grid(row_products<T>, dim3(tiles, blocks(forward ? a.n : a.k)), dim3(kThreads), 0, l.stream, a, forward);
  });
}

}  // namespace weft::kernels
