// Grouped GEMM in fp32, and in bf16 where rows are no multiple of 16 bytes: a block a tile of 64 x 64, or 128 x 128 where there is enough to
// fill it, on the plain fp32 units; each sum in the order of the depth, whatever the tile. Bound: those units (59 TFLOP/s at 1.75 GHz).
#include <type_traits>

#include "kernels/common/device.cuh"
#include "kernels/grouped_gemm/grouped_gemm.h"

namespace weft::kernels {
namespace {

constexpr int kDepth = 16, kThreads = 256, kMostBlocks = 65535;

// A factor as a tile sees it: element (side, d) lies side * side_stride + d * depth_stride from p; sides from `sides` on are zeros.
template <class T>
struct Factor {
  const T* p;
  int64_t side_stride, depth_stride, sides;
};

// kTile sides x 16 of the depth, first in registers (neighbours in memory by neighbouring threads), then as [depth][side]. A thread's elements
// lie `jump` apart, along the sides or along the depth.
template <class T, int kTile>
struct Loader {
  static constexpr int kEach = kTile * kDepth / kThreads, kStride = kTile + 4;
  const T* p;
  int64_t jump, step;
  int side, d, sides;
  bool along_depth;
  T v[kEach];

  __device__ __forceinline__ explicit Loader(const Factor<T>& f) {
    const int t = static_cast<int>(threadIdx.x);
    along_depth = f.depth_stride == 1;
    side = along_depth ? t / kDepth : t % kTile, d = along_depth ? t % kDepth : t / kTile;
    p = f.p + side * f.side_stride + d * f.depth_stride, step = kDepth * f.depth_stride;
    jump = along_depth ? kThreads / kDepth * f.side_stride : kThreads / kTile * f.depth_stride;
    sides = static_cast<int>(f.sides < kTile ? f.sides : kTile);
  }
  __device__ __forceinline__ void fetch(int64_t left) {  // the next 16, of which `left` are there
    const int depth = static_cast<int>(left < kDepth ? left : kDepth);
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const bool real = along_depth ? side + j * (kThreads / kDepth) < sides && d < depth : side < sides && d + j * (kThreads / kTile) < depth;
      v[j] = real ? p[j * jump] : dev::from_f32<T>(0.0f);
    }
    p += step;
  }
  __device__ __forceinline__ void put(float* tile) const {
    float* to = tile + d * kStride + side;
    const int apart = along_depth ? kThreads / kDepth : kThreads / kTile * kStride;
#pragma unroll
    for (int j = 0; j < kEach; ++j) to[j * apart] = dev::to_f32(v[j]);
  }
};

// Row i of a thread's sums is side(16th, i) of the tile, 16th = thread / 16 for a and thread % 16 for b: fours that lie 64 apart.
__device__ __forceinline__ int side_of(int sixteenth, int i) { return i / 4 * 64 + sixteenth * 4 + i % 4; }

// acc[i][j] = sum_d a(side i, d) b(side j, d). The next 16 of the depth are on their way while these are multiplied.
template <class T, int kTile>
__device__ __forceinline__ void multiply(float (&acc)[kTile / 16][kTile / 16], const Factor<T>& fa, const Factor<T>& fb, int64_t depth) {
  using Load = Loader<T, kTile>;
  constexpr int kEach = kTile / 16, kStride = Load::kStride;
  __shared__ __align__(16) float a[2][kDepth * kStride], b[2][kDepth * kStride];
  const int r = static_cast<int>(threadIdx.x) / 16, c = static_cast<int>(threadIdx.x) % 16;
  Load la(fa), lb(fb);
  la.fetch(depth), lb.fetch(depth);
  int turn = 0;
  for (int64_t d0 = 0; d0 < depth; d0 += kDepth, turn ^= 1) {
    la.put(a[turn]), lb.put(b[turn]);
    __syncthreads();  // also: all have left the other buffers
    if (d0 + kDepth < depth) la.fetch(depth - d0 - kDepth), lb.fetch(depth - d0 - kDepth);
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      float x[kEach], y[kEach];
#pragma unroll
      for (int i = 0; i < kEach; i += 4) {
        *reinterpret_cast<float4*>(x + i) = *reinterpret_cast<const float4*>(a[turn] + d * kStride + side_of(r, i));
        *reinterpret_cast<float4*>(y + i) = *reinterpret_cast<const float4*>(b[turn] + d * kStride + side_of(c, i));
      }
#pragma unroll
      for (int i = 0; i < kEach; ++i)
#pragma unroll
        for (int j = 0; j < kEach; ++j) acc[i][j] += x[i] * y[j];
    }
  }
}

struct RowTile {  // rows [first, end) of a group; group == groups: rows of none
  int group;
  int64_t first, end;
};
template <int kTile>
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
template <class T, int kTile>
__global__ void __launch_bounds__(kThreads, 2) row_products(GroupedGemm g, bool forward) {
  const RowTile t = row_tile<kTile>(g.ends, g.groups, g.rows, blockIdx.x);
  if (t.first >= t.end) return;
  const int64_t cols = forward ? g.n : g.k, depth = forward ? g.k : g.n, c0 = int64_t{blockIdx.y} * kTile;
  float acc[kTile / 16][kTile / 16] = {};
  if (t.group < g.groups) {
    const T* w = static_cast<const T*>(g.w) + int64_t{t.group} * g.n * g.k;
    const Factor<T> rows{static_cast<const T*>(g.a) + t.first * depth, depth, 1, t.end - t.first};
    const Factor<T> weights = forward ? Factor<T>{w + c0 * g.k, g.k, 1, cols - c0} : Factor<T>{w + c0, 1, g.k, cols - c0};
    multiply<T, kTile>(acc, rows, weights, depth);
  }
  const int r = static_cast<int>(threadIdx.x) / 16, c = static_cast<int>(threadIdx.x) % 16;
  T* out = static_cast<T*>(g.out);
#pragma unroll
  for (int i = 0; i < kTile / 16; ++i)
#pragma unroll
    for (int j = 0; j < kTile / 16; ++j) {
      const int64_t row = t.first + side_of(r, i), col = c0 + side_of(c, j);
      if (row < t.end && col < cols) out[row * cols + col] = dev::from_f32<T>(acc[i][j]);
    }
}

template <class T, class Out, int kTile>
__global__ void __launch_bounds__(kThreads, 2) weight_products(GroupedGemm g) {
  const int e = static_cast<int>(blockIdx.z);
  const int64_t first = e == 0 ? 0 : int64_t{g.ends[e - 1]}, rows = g.ends[e] - first, k0 = int64_t{blockIdx.x} * kTile, n0 = int64_t{blockIdx.y} * kTile;
  if (rows == 0 && g.accumulate) return;
  float acc[kTile / 16][kTile / 16] = {};
  const Factor<T> left{static_cast<const T*>(g.a) + first * g.n + n0, 1, g.n, g.n - n0}, right{static_cast<const T*>(g.w) + first * g.k + k0, 1, g.k, g.k - k0};
  multiply<T, kTile>(acc, left, right, rows);
  const int r = static_cast<int>(threadIdx.x) / 16, c = static_cast<int>(threadIdx.x) % 16;
#pragma unroll
  for (int i = 0; i < kTile / 16; ++i)
#pragma unroll
    for (int j = 0; j < kTile / 16; ++j) {
      const int64_t n = n0 + side_of(r, i), k = k0 + side_of(c, j);
      if (n >= g.n || k >= g.k) continue;
      Out* out = static_cast<Out*>(g.out) + (int64_t{e} * g.n + n) * g.k + k;
      *out = dev::from_f32<Out>(acc[i][j] + (g.accumulate ? dev::to_f32(*out) : 0.0f));
    }
}

}  // namespace

Support supports_grouped_gemm_general_sm90(const GroupedGemm& a, const Device& device) {
  const bool wgrad = a.kind == GroupedGemm::kWgrad;
  if (a.out_dtype != a.dtype && !(wgrad && a.out_dtype == DType::kF32)) return {"out is not in the operands' dtype (or fp32 for the weight gradient)"};
  if (a.accumulate && a.out_dtype != DType::kF32) return {"accumulates into fp32 only"};
  if (a.groups < 1) return {"no groups"};
  if (a.groups > kMostBlocks || ceil_div(a.n, 64) > kMostBlocks || ceil_div(a.k, 64) > kMostBlocks) return {"more groups, or n or k larger, than a grid holds"};
  if (a.rows >= (int64_t{1} << 31)) return {"2^31 rows or more"};
  return on_sm90(device, a.dtype);
}

void grouped_gemm_general_sm90(const GroupedGemm& a, const Launch& l) {
  const bool wgrad = a.kind == GroupedGemm::kWgrad, forward = a.kind == GroupedGemm::kForward;
  const int64_t cols = forward ? a.n : a.k;
  const auto go = [&](auto tile_size) {
    constexpr int kTile = decltype(tile_size)::value;
    const auto blocks = [](int64_t n) { return static_cast<unsigned>(ceil_div(n, kTile)); };
    with_float_type(a.dtype, [&](auto type) {
      using T = typename decltype(type)::type;
      if (wgrad) {
        const dim3 grid(blocks(a.k), blocks(a.n), static_cast<unsigned>(a.groups));
        if (a.out_dtype == DType::kF32) launch_grid(weight_products<T, float, kTile>, grid, dim3(kThreads), 0, l.stream, a);
        else launch_grid(weight_products<T, T, kTile>, grid, dim3(kThreads), 0, l.stream, a);
        return;
      }
      // A group may end within a tile, and so may the rows of none.
      const unsigned tiles = a.rows == 0 ? 0 : blocks(a.rows) + static_cast<unsigned>(a.groups) + 1;
      launch_grid(row_products<T, kTile>, dim3(tiles, blocks(cols)), dim3(kThreads), 0, l.stream, a, forward);
    });
  };
  // Large tiles where they are mostly full; of the groups' sizes only the mean is known here.
  const bool large = wgrad ? a.n >= 128 && a.k >= 128 : cols >= 128 && a.rows >= int64_t{128} * a.groups;
  if (large) go(std::integral_constant<int, 128>{}); else go(std::integral_constant<int, 64>{});
}

}  // namespace weft::kernels
