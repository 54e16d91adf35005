#include "ops/loss_chunks.h"

#include <algorithm>
#include <limits>

namespace weft::ops {
namespace {

constexpr int64_t kTileRows = 128, kTileCols = 256;
constexpr int64_t kProductWorkspace = int64_t{32} << 20;  // kernels/gemm/gemm.h: kGemmWorkspace
constexpr int64_t kRanges = 64;                           // of the vocabulary at most, three values each (kernels/linear_xent)
constexpr double kFlops = 660e12, kBytes = 4.2e12;        // of an H200 under its power limit; only their ratio counts here

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

double seconds(const LossShape& s, int64_t rows) {
  const double a_tile = 2.0 * kTileRows * kTileCols * static_cast<double>(s.vocab) * static_cast<double>(s.processors) / kFlops;
  const auto chunk = [&](int64_t r) {
    const int64_t tiles = ceil_div(r, kTileRows) * ceil_div(s.dim, kTileCols);
    return static_cast<double>(ceil_div(tiles, s.processors)) * a_tile + 8.0 * static_cast<double>(s.vocab) * static_cast<double>(s.dim) / kBytes;
  };
  const int64_t whole = s.tokens / rows, rest = s.tokens % rows;
  return static_cast<double>(whole) * chunk(rows) + (rest > 0 ? chunk(rest) : 0.0);
}

}  // namespace

int64_t loss_extra_bytes(const LossShape& s, int64_t rows) {
  const int64_t statistics = 3 * kRanges * 4 + ceil_div(s.vocab, kTileCols) * 4;
  return rows * (s.element * (s.vocab + s.dim) + statistics + 1) + s.tokens * 32 + kProductWorkspace;
}

int64_t loss_chunk_rows(const LossShape& s, int64_t most_bytes) {
  const int64_t all = std::max<int64_t>(ceil_div(s.tokens, kTileRows) * kTileRows, kTileRows);
  int64_t best = kTileRows;
  double least = std::numeric_limits<double>::infinity();
  for (int64_t rows = kTileRows; rows <= all && loss_extra_bytes(s, rows) <= most_bytes; rows += kTileRows)
    if (const double t = seconds(s, rows); t < least) least = t, best = rows;
  return best;
}

}  // namespace weft::ops
