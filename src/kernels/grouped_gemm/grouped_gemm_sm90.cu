// Grouped GEMM: persistent blocks take 128 x kN tiles in order of group, row block, column block; each finds its group from the sizes,
// which it reads itself. Bound by the tensor cores: 2 M N K FLOP at 989 TFLOP/s; about 0.75 of it is what dense GEMM reaches.
#include <algorithm>

#include "kernels/common/gemm_tile.cuh"
#include "kernels/grouped_gemm/grouped_gemm.h"

namespace weft::kernels {
namespace grouped {
namespace {

struct Shape {
  int groups, cols, depth, out_rows;  // columns of out; forward and dgrad: depth of the sum; wgrad: rows of a group's out
  int tile_cols, tile_rows;           // tile_rows: wgrad only, of a group
  int rows;                           // of a
};

struct Place {
  int row, col;
};
// Where tile `in` of a group lies. Blocks that run side by side walk the contraction in step, so what they share is read once from memory.
// The weight gradient's contraction is long (a group's rows) and its operands do not fit in the L2: neighbours share the wider one.
template <bool kWgrad, int kN>
__device__ __forceinline__ Place place_of(const Shape& s, int in) {
  if (kWgrad && s.cols > s.out_rows) return {in % s.tile_rows * kGemmM, in / s.tile_rows * kN};
  return {in / s.tile_cols * kGemmM, in % s.tile_cols * kN};
}

// Rows that belong to no group become zero. The consumers' 256 threads of every block.
template <class Out>
__device__ __forceinline__ void clear_tail(Out* out, int64_t first, const Shape& s) {
  const int64_t units = (s.rows - first) * s.cols * static_cast<int64_t>(sizeof(Out)) / 16;
  uint4* to = reinterpret_cast<uint4*>(out + first * s.cols);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x; i < units; i += static_cast<int64_t>(gridDim.x) * 256) to[i] = uint4{0, 0, 0, 0};
}

// Walks tile numbers upwards and says which group and block of it they are.
template <bool kWgrad>
struct Walk {
  const int32_t* ends;
  const Shape shape;
  int group = 0;
  int64_t before = 0;  // tiles of the groups before
  int start = 0, end = 0, tiles = 0;

  __device__ Walk(const int32_t* e, const Shape& s) : ends(e), shape(s) { open(); }
  __device__ void open() {
    end = ends[group];
    const int rows = kWgrad ? shape.out_rows : end - start;
    tiles = (rows + kGemmM - 1) / kGemmM * shape.tile_cols;
  }
  __device__ bool find(int64_t tile) {  // false: past the last tile
    while (tile >= before + tiles) {
      if (group + 1 >= shape.groups) return false;
      before += tiles, start = end, ++group;
      open();
    }
    return true;
  }
};

template <bool kATrans, bool kBTrans, int kN, class Out>
__global__ void __launch_bounds__(kGemmThreads, 1) grouped_kernel(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b,
                                                                  const __grid_constant__ CUtensorMap map_out, const int32_t* ends, const Shape shape, Out* out, const bool accumulate) {
  constexpr bool kWgrad = kATrans && kBTrans, kOutlet = sizeof(Out) == 4;
  using Tile = GemmTile<kATrans, kBTrans, kN, kOutlet>;
  WEFT_DYNAMIC_SMEM(raw);
  Tile tile(Tile::place(raw));
  tile.init();
  const int role = threadIdx.x / 128;  // 0, 1: consumers; 2: producer
  Walk<kWgrad> walk(ends, shape);
  if (role == 2) {
    fewer_registers<40>();
    if (threadIdx.x == 256) {
      for (int64_t t = blockIdx.x; walk.find(t); t += gridDim.x) {
        const Place at = place_of<kWgrad, kN>(shape, static_cast<int>(t - walk.before));
        if constexpr (kWgrad)
          tile.produce(&map_a, &map_b, at.row, at.col, 0, 0, walk.start, (walk.end - walk.start + kGemmK - 1) / kGemmK);
        else
          tile.produce(&map_a, &map_b, walk.start + at.row, at.col, 0, walk.group, 0, (shape.depth + kGemmK - 1) / kGemmK);
      }
    }
  } else {
    more_registers<232>();
    const int lane = lane_id(), warp = warp_id() & 3;
    Outlet outlet(tile.outlet(), role);
    for (int64_t t = blockIdx.x; walk.find(t); t += gridDim.x) {
      const Place at = place_of<kWgrad, kN>(shape, static_cast<int>(t - walk.before));
      int blocks, last = kGemmK;
      if constexpr (kWgrad) {
        const int depth = walk.end - walk.start;
        blocks = (depth + kGemmK - 1) / kGemmK, last = depth - (blocks - 1) * kGemmK;
      } else {
        blocks = (shape.depth + kGemmK - 1) / kGemmK;
      }
      const int64_t limit = kWgrad ? shape.out_rows : walk.end - walk.start;
      const int64_t first = kWgrad ? static_cast<int64_t>(walk.group) * shape.out_rows : walk.start;
      const int r0 = at.row + role * 64 + warp * 16 + lane / 4;
      auto store = [&](auto value) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int r = r0 + half * 8;
          Out* line = out + (first + r) * shape.cols;
#pragma unroll
          for (int i = 0; i < kN / 8; i += 4) {
            if constexpr (sizeof(Out) == 2) {
              uint32_t v[4];
#pragma unroll
              for (int j = 0; j < 4; ++j) v[j] = pack_bf16(value((i + j) * 4 + half * 2), value((i + j) * 4 + half * 2 + 1));
              transpose_quad(v);
              const int c = at.col + (i + lane % 4) * 8;
              if (r < limit && c < shape.cols) *reinterpret_cast<uint4*>(line + c) = uint4{v[0], v[1], v[2], v[3]};
            } else {
#pragma unroll
              for (int j = 0; j < 4; ++j) {
                const int c = at.col + (i + j) * 8 + lane % 4 * 2;
                if (r < limit && c < shape.cols) *reinterpret_cast<float2*>(line + c) = {value((i + j) * 4 + half * 2), value((i + j) * 4 + half * 2 + 1)};
              }
            }
          }
        }
      };
      if (kWgrad && blocks == 0) {  // a group of no rows
        if (!accumulate) store([](int) { return 0.f; });
        continue;
      }
      float acc[kN / 2];
      tile.consume(acc, role, blocks, last);
      if constexpr (kOutlet)
        outlet.send<kN>(acc, &map_out, at.col, at.row + role * 64, walk.group, accumulate);
      else
        store([&](int i) { return acc[i]; });
    }
    if constexpr (kOutlet) outlet.finish();
    if constexpr (!kWgrad) clear_tail(out, ends[shape.groups - 1], shape);
  }
}

template <bool kATrans, bool kBTrans, int kN, class Out>
void launch(const GroupedGemm& a, const Launch& l) {
  using Tile = GemmTile<kATrans, kBTrans, kN, sizeof(Out) == 4>;
  constexpr bool kWgrad = kATrans && kBTrans;
  const bool forward = a.kind == GroupedGemm::kForward;
  Shape s{a.groups, forward ? a.n : a.k, forward ? a.k : a.n, kWgrad ? a.n : 0, 0, 0, static_cast<int>(a.rows)};
  s.tile_cols = (s.cols + kN - 1) / kN, s.tile_rows = (s.out_rows + kGemmM - 1) / kGemmM;
  CUtensorMap map_a, map_b;
  if constexpr (kWgrad) {
    map_a = tensor_map(a.a, a.n, a.rows, 1, a.n, kGemmK);
    map_b = tensor_map(a.w, a.k, a.rows, 1, a.k, kGemmK);
  } else {
    map_a = tensor_map(a.a, s.depth, a.rows, 1, s.depth, kGemmM);
    map_b = tensor_map(a.w, a.k, a.n, a.groups, a.k, kBTrans ? kGemmK : kN);
  }
  CUtensorMap map_out{};
  if constexpr (sizeof(Out) == 4) map_out = tensor_map_f32(static_cast<const float*>(a.out), a.k, a.n, a.groups, a.k, 64);
  launch_grid(grouped_kernel<kATrans, kBTrans, kN, Out>, dim3(sm_count()), dim3(kGemmThreads), Tile::kSmemBytes, l.stream, map_a, map_b, map_out, a.ends, s, static_cast<Out*>(a.out),
              a.accumulate);
}

// The tile width that wastes least on the last column block; the wider one on a tie.
template <bool kATrans, bool kBTrans, class Out>
void pick(const GroupedGemm& a, const Launch& l) {
  const int cols = a.kind == GroupedGemm::kForward ? a.n : a.k;
  auto padded = [cols](int n) { return (cols + n - 1) / n * n; };
  if (padded(224) < padded(256) && padded(224) <= padded(192)) return launch<kATrans, kBTrans, 224, Out>(a, l);
  if (padded(256) <= padded(192)) return padded(256) > padded(128) * 5 / 4 ? launch<kATrans, kBTrans, 128, Out>(a, l) : launch<kATrans, kBTrans, 256, Out>(a, l);
  launch<kATrans, kBTrans, 192, Out>(a, l);
}

}  // namespace
}  // namespace grouped

Support supports_grouped_gemm_sm90(const GroupedGemm& a, const Device& device) {
  if (device.kind != Device::kCuda || device.sm != 90) return {"needs a GPU of compute capability 9.0"};
  if (a.dtype != DType::kBf16) return {"operands are not bf16"};
  if (a.out_dtype != DType::kBf16 && !(a.kind == GroupedGemm::kWgrad && a.out_dtype == DType::kF32)) return {"out is not bf16 (or fp32 for the weight gradient)"};
  if (a.accumulate && a.out_dtype != DType::kF32) return {"accumulates into fp32 only"};
  if (a.groups < 1) return {"no groups"};
  if (a.n % 8 != 0 || a.k % 8 != 0) return {"n or k is not a multiple of 8"};
  if (a.rows >= (int64_t{1} << 31)) return {"2^31 rows or more"};
  auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (!aligned(a.a) || !aligned(a.w) || !aligned(a.out)) return {"an operand is not 16-byte aligned"};
  return {};
}

size_t workspace_grouped_gemm_sm90(const GroupedGemm&) { return 0; }

void grouped_gemm_sm90(const GroupedGemm& a, const Launch& l) {
  if (a.n == 0 || a.k == 0 || (a.rows == 0 && a.kind != GroupedGemm::kWgrad)) return;
  GroupedGemm b = a;
  if (a.rows == 0) b.rows = 1;  // the maps need a row; none is read. A weight gradient has no tail to clear
  switch (a.kind) {
    case GroupedGemm::kForward: return grouped::pick<false, false, bf16>(b, l);
    case GroupedGemm::kDgrad: return grouped::pick<false, true, bf16>(b, l);
    case GroupedGemm::kWgrad: return a.out_dtype == DType::kF32 ? grouped::pick<true, true, float>(b, l) : grouped::pick<true, true, bf16>(b, l);
  }
}

}  // namespace weft::kernels
