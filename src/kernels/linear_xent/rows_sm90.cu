// Losses and the logits' gradient of some rows from one product (LinearXentRows). The product is the forward of linear_xent_sm90.cu, whose
// tiles go out as numerators through the copy engine; beside each row and tile stands the maximum they were taken off. A pass over what was
// written gives dz in place: no exponential but one a tile.
// Floor for 4096 rows of V 65536, D 4096: 2.2e12 FLOP, 3.33 ms at the 660 TFLOP/s of a plain product; the pass 1.07 GB, 0.25 ms at 4.28 TB/s.
#include <algorithm>

#include "kernels/common/flat.cuh"
#include "kernels/linear_xent/linear_xent.h"
#include "kernels/linear_xent/row_stats.cuh"

namespace weft::kernels {
namespace xent {
namespace {

using RowsTile = GemmTile<false, false, kN, true>;

struct RowParts {
  FwdParts ranges;
  float* tops;  // [T, vocabulary tiles]
  int splits, vocab_tiles;
};

// Ranges of the vocabulary: as many as leave the fewest rounds of tiles to the last block, at least 8, so that few row tiles run at one time.
int splits_of(int64_t row_tiles, int vocab_tiles, int blocks) {
  int best = std::min(8, vocab_tiles);
  const auto rounds = [&](int s) { return (row_tiles * s + blocks - 1) / blocks * ((vocab_tiles + s - 1) / s); };
  for (int s = best; s <= std::min(64, vocab_tiles); ++s)
    if (rounds(s) < rounds(best)) best = s;
  return best;
}
int64_t row_tiles_of(const LinearXentRows& a) { return (a.tokens + kGemmM - 1) / kGemmM; }
int vocab_tiles_of(const LinearXentRows& a) { return static_cast<int>((a.vocab + kN - 1) / kN); }

__global__ void __launch_bounds__(kGemmThreads, 1) numerators(const __grid_constant__ CUtensorMap map_x, const __grid_constant__ CUtensorMap map_w, const __grid_constant__ CUtensorMap map_out, const LinearXentRows a, const RowParts parts) {
  WEFT_DYNAMIC_SMEM(raw);
  RowsTile tile(RowsTile::place(raw));
  tile.init();
  const int row_tiles = static_cast<int>((a.tokens + kGemmM - 1) / kGemmM), splits = parts.splits, vocab_tiles = parts.vocab_tiles;
  const int per_split = (vocab_tiles + splits - 1) / splits, depth = (a.dim + kGemmK - 1) / kGemmK, whole = row_tiles / kGroup * kGroup;
  const int role = threadIdx.x / 128;
  auto place = [&](int item, int& row_tile, int& split) {  // groups of kGroup row tiles, the last of what is left
    const int before = item < whole * splits ? item / (kGroup * splits) * kGroup : whole, group = before < whole ? kGroup : row_tiles - whole;
    const int in = item - before * splits;
    row_tile = before + in % group, split = in / group;
  };
  int row_tile, split;
  if (role == 2) {
    fewer_registers<40>();
    if (threadIdx.x == 256)
      for (int item = blockIdx.x; item < row_tiles * splits; item += gridDim.x) {
        place(item, row_tile, split);
        for (int v = split * per_split; v < (split + 1) * per_split && v < vocab_tiles; ++v) tile.produce(&map_x, &map_w, row_tile * kGemmM, v * kN, 0, 0, 0, depth);
      }
  } else {
    more_registers<232>();
    const int r = lane_id() & 3;
    Outlet outlet(tile.outlet(), role);
    for (int item = blockIdx.x; item < row_tiles * splits; item += gridDim.x) {
      place(item, row_tile, split);
      const int box_row = row_tile * kGemmM + role * 64;
      const int64_t row0 = box_row + outlet.row;
      RowStats rows;
      rows.begin(a.labels, row0, a.tokens);
      for (int v = split * per_split; v < (split + 1) * per_split && v < vocab_tiles; ++v) {
        float z[kN / 2];
        tile.consume(z, role, depth);
        const int64_t first = static_cast<int64_t>(v) * kN;
        rows.add<true>(z, first, static_cast<int>(a.vocab - first < kN ? a.vocab - first : kN), a.top1 != nullptr, parts.ranges.label, row0);
#pragma unroll
        for (int h = 0; h < 2; ++h)
          if (r == 0 && row0 + h * 8 < a.tokens) parts.tops[(row0 + h * 8) * vocab_tiles + v] = rows.top[h];
#pragma unroll
        for (int c = 0; c < kN / 64; ++c) {
          uint8_t* to = outlet.open();
#pragma unroll
          for (int h = 0; h < 2; ++h)
#pragma unroll
            for (int i = 0; i < 8; ++i) {
              const int at = (c * 8 + i) * 4 + h * 2;
              *reinterpret_cast<uint32_t*>(outlet.at(to, h, i) + r * 4) = pack_bf16(z[at], z[at + 1]);
            }
          outlet.close([&] { tma_store(&map_out, to, v * kN + c * 64, box_row, 0); });
        }
      }
      rows.finish(parts.ranges, split, row0, a.tokens);
    }
    outlet.finish();
  }
}

__global__ void __launch_bounds__(256) join_rows(const LinearXentRows a, const RowParts parts) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (row >= a.tokens) return;
  const Joined j = join(parts.ranges, parts.splits, row, a.tokens);
  a.lse[row] = j.lse;
  a.loss[row] = a.labels[row] < 0 ? 0.f : j.lse - parts.ranges.label[row] + a.z_loss * j.lse * j.lse;
  if (a.top1) a.top1[row] = j.best;
}

// A block takes 8192 columns of a row; a warp's 256 columns are one tile.
__global__ void __launch_bounds__(256) rows_gradient(const LinearXentRows a, const RowParts parts) {
  constexpr int kUnroll = 4;
  const int64_t row = blockIdx.x, label = a.labels[row];
  bf16* out = static_cast<bf16*>(a.dz) + row * a.vocab;
  const float g = label < 0 ? 0.f : a.d_loss[row];
  const int first = (static_cast<int>(blockIdx.y) * kUnroll * 256 + static_cast<int>(threadIdx.x)) * 8, vocab = static_cast<int>(a.vocab);
  if (g == 0) {  // what stands there may be NaN
#pragma unroll
    for (int k = 0; k < kUnroll; ++k)
      if (first + k * 2048 < vocab) *reinterpret_cast<uint4*>(out + first + k * 2048) = uint4{0, 0, 0, 0};
    return;
  }
  const float lse = a.lse[row], both = g + 2 * a.z_loss * g * lse;
  const float* tops = parts.tops + row * parts.vocab_tiles;
  dev::Vec8<bf16> raw[kUnroll];
  float top[kUnroll];
#pragma unroll
  for (int k = 0; k < kUnroll; ++k)
    if (first + k * 2048 < vocab) raw[k] = dev::load8(out + first + k * 2048), top[k] = tops[(first + k * 2048) / kN];
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const int c = first + k * 2048;
    if (c >= vocab) continue;
    float f[8];
    dev::unpack(raw[k], f);
    const float scale = both * exp2_fast((top[k] - lse) * kLog2E);
#pragma unroll
    for (int j = 0; j < 8; ++j) f[j] *= scale;
    if (label >= c && label < c + 8) {
      const float at_label = both * exp2_fast((parts.ranges.label[row] - lse) * kLog2E) - g;
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if (label == c + j) f[j] = at_label;
    }
    dev::store8(out + c, f);
  }
}

}  // namespace
}  // namespace xent

Support supports_linear_xent_rows_sm90(const LinearXentRows& a, const Device& device) {
  if (a.vocab % 8 != 0) return {"the vocabulary is not a multiple of 8"};
  if (a.tokens >= int64_t{1} << 24) return {"2^24 tokens or more"};
  if (!is_aligned(a.dz, 16)) return {"dz is not 16-byte aligned"};
  return {xent::refusal(a, device)};
}
size_t workspace_linear_xent_rows_sm90(const LinearXentRows& a) {
  const int tiles = xent::vocab_tiles_of(a);
  return xent::part_bytes(xent::splits_of(xent::row_tiles_of(a), tiles, sm_count()), a.tokens) + static_cast<size_t>(a.tokens) * static_cast<size_t>(tiles) * 4;
}

void linear_xent_rows_sm90(const LinearXentRows& a, const Launch& l) {
  using namespace xent;
  if (a.tokens == 0) return;
  RowParts parts{};
  parts.vocab_tiles = vocab_tiles_of(a), parts.splits = splits_of(row_tiles_of(a), parts.vocab_tiles, sm_count());
  parts.ranges = cut(l.workspace, parts.splits, a.tokens);
  parts.tops = static_cast<float*>(l.workspace) + part_bytes(parts.splits, a.tokens) / 4;
  const CUtensorMap x = tensor_map(a.x, a.dim, a.tokens, 1, a.dim, kGemmM), w = tensor_map(a.w, a.dim, a.vocab, 1, a.dim, kN), out = tensor_map(a.dz, a.vocab, a.tokens, 1, a.vocab, 64);
  launch_grid(numerators, dim3(sm_count()), dim3(kGemmThreads), RowsTile::kSmemBytes, l.stream, x, w, out, a, parts);
  launch_grid(join_rows, dim3(static_cast<unsigned>(ceil_div(a.tokens, 256))), dim3(256), 0, l.stream, a, parts);
  launch_grid(rows_gradient, dim3(static_cast<unsigned>(a.tokens), static_cast<unsigned>(ceil_div(a.vocab, 8192))), dim3(256), 0, l.stream, a, parts);
}

}  // namespace weft::kernels
