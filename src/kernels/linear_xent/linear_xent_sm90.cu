// Linear cross-entropy on wgmma. Forward: a block takes 128 tokens and one of kSplits ranges of the vocabulary, walks it in tiles of 256
// and keeps (max, sum of exponentials) of each row in registers; a last kernel joins the ranges. Backward, for pieces of tokens that fit the
// memory and kVocab of vocabulary: dz tile by tile into a buffer that stays in L2, then dx (fp32, summed over the pieces) and dw. For dw the
// rows that give nothing become zeros in a copy of the piece: 0 times a NaN that stands there would reach every word. With 2048 tokens at
// D 4096 all three products are a whole number of rounds of 132 tiles but for 3 %.
// Floor at T 32768, D 4096, V 65536: 4 products of 1.76e13 FLOP, 107 ms at the 660 TFLOP/s of a plain product on an H200, which is bound by its
// 700 W; extra memory 64 MB.
#include <algorithm>

#include "kernels/linear_xent/linear_xent.h"
#include "kernels/linear_xent/row_stats.cuh"

namespace weft::kernels {
namespace xent {
namespace {

constexpr int kSplits = 8;
constexpr int64_t kVocab = 4096, kPieceBytes = int64_t{64} << 20;

using FwdTile = GemmTile<false, false, kN>;

__global__ void __launch_bounds__(kGemmThreads, 1) fwd_kernel(const __grid_constant__ CUtensorMap map_x, const __grid_constant__ CUtensorMap map_w, const LinearXentFwd a, const FwdParts parts) {
  WEFT_DYNAMIC_SMEM(raw);
  FwdTile tile(FwdTile::place(raw));
  tile.init();
  const int64_t row_tiles = (a.tokens + kGemmM - 1) / kGemmM, items = (row_tiles + kGroup - 1) / kGroup * kGroup * kSplits;
  const int vocab_tiles = static_cast<int>((a.vocab + kN - 1) / kN), per_split = (vocab_tiles + kSplits - 1) / kSplits, depth = (a.dim + kGemmK - 1) / kGemmK;
  const int role = threadIdx.x / 128;
  auto place = [&](int64_t item, int64_t& row_tile, int& split) {
    const int64_t in = item % (kGroup * kSplits);
    row_tile = item / (kGroup * kSplits) * kGroup + in % kGroup, split = static_cast<int>(in / kGroup);
    return row_tile < row_tiles;
  };
  int64_t row_tile;
  int split;
  if (role == 2) {
    fewer_registers<40>();
    if (threadIdx.x == 256)
      for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
        if (!place(item, row_tile, split)) continue;
        for (int v = split * per_split; v < (split + 1) * per_split && v < vocab_tiles; ++v) tile.produce(&map_x, &map_w, static_cast<int>(row_tile * kGemmM), v * kN, 0, 0, 0, depth);
      }
  } else {
    more_registers<232>();
    for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
      if (!place(item, row_tile, split)) continue;
      const int64_t row0 = row_tile * kGemmM + role * 64 + (warp_id() & 3) * 16 + lane_id() / 4;
      RowStats rows;
      rows.begin(a.labels, row0, a.tokens);
      for (int v = split * per_split; v < (split + 1) * per_split && v < vocab_tiles; ++v) {
        float z[kN / 2];
        tile.consume(z, role, depth);
        const int64_t first = static_cast<int64_t>(v) * kN;
        rows.add<false>(z, first, static_cast<int>(a.vocab - first < kN ? a.vocab - first : kN), a.top1 != nullptr, parts.label, row0);
      }
      rows.finish(parts, split, row0, a.tokens);
    }
  }
}

__global__ void __launch_bounds__(256) join_kernel(const LinearXentFwd a, const FwdParts parts) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (row >= a.tokens) return;
  const Joined j = join(parts, kSplits, row, a.tokens);
  a.lse[row] = j.lse;
  a.loss[row] = a.labels[row] < 0 ? 0.f : j.lse - parts.label[row];
  if (a.top1) a.top1[row] = j.best;
}

// What the backward's three products do with a tile's sums.
enum class Out { kLogitGradient, kStore, kAdd };
struct Piece {
  int64_t rows, cols;  // of out
  int depth;
  int64_t stride;      // of out, elements
  int64_t token, word; // first ones of the piece
};

template <bool kATrans, bool kBTrans, Out kOut>
__global__ void __launch_bounds__(kGemmThreads, 1) product_kernel(const __grid_constant__ CUtensorMap map_a, const __grid_constant__ CUtensorMap map_b, const __grid_constant__ CUtensorMap map_out, const Piece p, const LinearXentBwd x) {
  using Tile = GemmTile<kATrans, kBTrans, kN, true>;
  WEFT_DYNAMIC_SMEM(raw);
  Tile tile(Tile::place(raw));
  tile.init();
  const int row_tiles = static_cast<int>((p.rows + kGemmM - 1) / kGemmM), tiles = row_tiles * static_cast<int>((p.cols + kN - 1) / kN), depth = (p.depth + kGemmK - 1) / kGemmK;
  const int role = threadIdx.x / 128;
  if (role == 2) {
    fewer_registers<40>();
    if (threadIdx.x == 256)
      for (int t = blockIdx.x; t < tiles; t += gridDim.x) tile.produce(&map_a, &map_b, t % row_tiles * kGemmM, t / row_tiles * kN, 0, 0, 0, depth);
  } else {
    more_registers<232>();
    const int r = lane_id() & 3;
    Outlet outlet(tile.outlet(), role);
    for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
      const int row0 = t % row_tiles * kGemmM + role * 64, col0 = t / row_tiles * kN;
      float g[2] = {0, 0}, both[2] = {0, 0}, lse[2] = {0, 0};
      int at[2] = {-1, -1};  // the label's column in the tile
      if constexpr (kOut == Out::kLogitGradient) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int row = row0 + outlet.row + h * 8;
          if (row >= p.rows) continue;
          const int64_t token = p.token + row, label = x.labels[token], column = label - p.word - col0;
          g[h] = label >= 0 ? x.d_loss[token] : 0.f, both[h] = g[h] + (x.d_lse ? x.d_lse[token] : 0.f), lse[h] = x.lse[token];
          if (label >= 0 && column >= 0 && column < kN) at[h] = static_cast<int>(column);
        }
      }
      float acc[kN / 2];
      tile.consume(acc, role, depth);
      if constexpr (kOut == Out::kLogitGradient) {
#pragma unroll
        for (int c = 0; c < kN / 64; ++c) {
          uint8_t* to = outlet.open();
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            float d[16];
#pragma unroll
            for (int i = 0; i < 16; ++i) d[i] = both[h] == 0 ? 0.f : both[h] * exp2_fast((acc[(c * 8 + i / 2) * 4 + h * 2 + i % 2] - lse[h]) * kLog2E);
            if (at[h] >> 6 == c) {
#pragma unroll
              for (int i = 0; i < 16; ++i)
                if (c * 64 + i / 2 * 8 + r * 2 + i % 2 == at[h]) d[i] -= g[h];
            }
#pragma unroll
            for (int i = 0; i < 8; ++i) *reinterpret_cast<uint32_t*>(outlet.at(to, h, i) + r * 4) = pack_bf16(d[2 * i], d[2 * i + 1]);
          }
          outlet.close([&] { tma_store(&map_out, to, col0 + c * 64, row0, 0); });
        }
      } else {
        outlet.send<kN>(acc, &map_out, col0, row0, 0, kOut == Out::kAdd);
      }
    }
    outlet.finish();
  }
}

__global__ void __launch_bounds__(256) round_kernel(const float* from, bf16* to, int64_t count) {  // count a multiple of 8
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x) * 8;
  if (i >= count) return;
  const float4 a = *reinterpret_cast<const float4*>(from + i), b = *reinterpret_cast<const float4*>(from + i + 4);
  *reinterpret_cast<uint4*>(to + i) = uint4{pack_bf16(a.x, a.y), pack_bf16(a.z, a.w), pack_bf16(b.x, b.y), pack_bf16(b.z, b.w)};
}

__global__ void __launch_bounds__(256) rows_that_count(const bf16* from, bf16* to, int64_t first, int64_t count, const LinearXentBwd a) {  // dim a multiple of 8
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x) * 8;
  if (i >= count) return;
  const int64_t token = first + i / a.dim;
  const bool counts = (a.labels[token] >= 0 && a.d_loss[token] != 0) || (a.d_lse != nullptr && a.d_lse[token] != 0);
  *reinterpret_cast<uint4*>(to + i) = counts ? *reinterpret_cast<const uint4*>(from + i) : uint4{0, 0, 0, 0};
}

size_t row_bytes(const LinearXentBwd& a) { return kVocab * 2 + static_cast<size_t>(a.dim) * (4 + 2); }
int64_t piece_rows(const LinearXentBwd& a) {
  const int64_t fit = kPieceBytes / static_cast<int64_t>(row_bytes(a)) / kGemmM * kGemmM;
  return std::clamp<int64_t>((a.tokens + kGemmM - 1) / kGemmM * kGemmM, kGemmM, std::max<int64_t>(fit, kGemmM));
}

template <bool kATrans, bool kBTrans, Out kOut>
void product(const CUtensorMap& a, const CUtensorMap& b, const Piece& p, void* out, const LinearXentBwd& x, cudaStream_t stream) {
  CUtensorMap to;
  if constexpr (kOut == Out::kLogitGradient) to = tensor_map(out, p.cols, p.rows, 1, p.stride, 64); else to = tensor_map_f32(static_cast<const float*>(out), p.cols, p.rows, 1, p.stride, 64);
  launch_grid(product_kernel<kATrans, kBTrans, kOut>, dim3(sm_count()), dim3(kGemmThreads), GemmTile<kATrans, kBTrans, kN, true>::kSmemBytes, stream, a, b, to, p, x);
}

}  // namespace
}  // namespace xent

Support supports_linear_xent_fwd_sm90(const LinearXentFwd& a, const Device& device) { return {xent::refusal(a, device)}; }
Support supports_linear_xent_bwd_sm90(const LinearXentBwd& a, const Device& device) {
  if (reinterpret_cast<uintptr_t>(a.dx) % 16 != 0 || reinterpret_cast<uintptr_t>(a.dw) % 16 != 0) return {"dx or dw is not 16-byte aligned"};
  return {xent::refusal(a, device)};
}
size_t workspace_linear_xent_fwd_sm90(const LinearXentFwd& a) { return xent::part_bytes(xent::kSplits, a.tokens); }
size_t workspace_linear_xent_bwd_sm90(const LinearXentBwd& a) { return static_cast<size_t>(xent::piece_rows(a)) * xent::row_bytes(a); }

void linear_xent_fwd_sm90(const LinearXentFwd& a, const Launch& l) {
  if (a.tokens == 0) return;
  const auto parts = xent::cut(l.workspace, xent::kSplits, a.tokens);
  const CUtensorMap x = tensor_map(a.x, a.dim, a.tokens, 1, a.dim, kGemmM), w = tensor_map(a.w, a.dim, a.vocab, 1, a.dim, xent::kN);
  launch_grid(xent::fwd_kernel, dim3(sm_count()), dim3(kGemmThreads), xent::FwdTile::kSmemBytes, l.stream, x, w, a, parts);
  launch_grid(xent::join_kernel, dim3(static_cast<unsigned>((a.tokens + 255) / 256)), dim3(256), 0, l.stream, a, parts);
}

void linear_xent_bwd_sm90(const LinearXentBwd& a, const Launch& l) {
  using namespace xent;
  const int64_t step = piece_rows(a);
  bf16* dz = static_cast<bf16*>(l.workspace);
  float* sum = reinterpret_cast<float*>(dz + step * kVocab);
  bf16* counting = reinterpret_cast<bf16*>(sum + step * a.dim);
  for (int64_t t = 0; t < a.tokens; t += step) {
    const int64_t rows = std::min(step, a.tokens - t);
    const bf16* x = static_cast<const bf16*>(a.x) + t * a.dim;
    const dim3 eights(static_cast<unsigned>((rows * a.dim / 8 + 255) / 256));
    if (a.dw != nullptr) launch_grid(rows_that_count, eights, dim3(256), 0, l.stream, x, counting, t, rows * a.dim, a);
    for (int64_t v = 0; v < a.vocab; v += kVocab) {
      const int64_t words = std::min(kVocab, a.vocab - v);
      const bf16* w = static_cast<const bf16*>(a.w) + v * a.dim;
      const int dim = a.dim;
      product<false, false, Out::kLogitGradient>(tensor_map(x, dim, rows, 1, dim, kGemmM), tensor_map(w, dim, words, 1, dim, kN), {rows, words, dim, kVocab, t, v}, dz, a, l.stream);
      const CUtensorMap z = tensor_map(dz, words, rows, 1, kVocab, kGemmM), words_first = tensor_map(w, dim, words, 1, dim, kGemmK);
      const Piece dx{rows, dim, static_cast<int>(words), dim, t, v};
      if (v == 0) product<false, true, Out::kStore>(z, words_first, dx, sum, a, l.stream); else product<false, true, Out::kAdd>(z, words_first, dx, sum, a, l.stream);
      if (a.dw != nullptr)
        product<true, true, Out::kAdd>(tensor_map(dz, words, rows, 1, kVocab, kGemmK), tensor_map(counting, dim, rows, 1, dim, kGemmK), {words, dim, static_cast<int>(rows), dim, t, v}, a.dw + v * dim, a, l.stream);
    }
    launch_grid(round_kernel, eights, dim3(256), 0, l.stream, static_cast<const float*>(sum), static_cast<bf16*>(a.dx) + t * a.dim, rows * a.dim);
  }
}

}  // namespace weft::kernels
