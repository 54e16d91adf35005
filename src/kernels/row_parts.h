// Gradients that CPU kernels sum over rows: a part of the rows at a time into a row of the workspace, then part by part, so that the
// order of the sums is the same for any number of threads.
#pragma once
#include <algorithm>
#include <functional>

#include "kernels/launch.h"

namespace weft::kernels {

struct RowParts {
  int64_t rows, width, rows_per_part = 64;  // width: floats that a part sums
  int64_t count() const { return (rows + rows_per_part - 1) / rows_per_part; }
  size_t workspace() const { return static_cast<size_t>(count()) * static_cast<size_t>(width) * sizeof(float); }
};

// make() gives what adds rows in one range of the loop, with room of its own: add_row(r, sums) adds row r to its part's sums, which begin as zeros.
template <class Make>
void sum_row_parts_with(const RowParts& parts, const Launch& launch, const Make& make) {
  float* all = static_cast<float*>(launch.workspace);
  parallel_for(launch.parallel, parts.count(), 1, [&](int64_t begin, int64_t end) {
    auto add_row = make();
    for (int64_t p = begin; p < end; ++p) {
      float* sums = all + p * parts.width;
      std::fill(sums, sums + parts.width, 0.0f);
      for (int64_t r = p * parts.rows_per_part; r < std::min(parts.rows, (p + 1) * parts.rows_per_part); ++r) add_row(r, sums);
    }
  });
}

template <class F>
void sum_row_parts(const RowParts& parts, const Launch& launch, const F& add_row) {
  sum_row_parts_with(parts, launch, [&] { return std::cref(add_row); });
}

// out[0..cols) += columns [first, first + cols) of all parts; out null: nothing.
inline void add_row_parts(const RowParts& parts, const Launch& launch, int64_t first, int64_t cols, float* out) {
  if (out == nullptr) return;
  const float* sums = static_cast<const float*>(launch.workspace) + first;
  for (int64_t p = 0; p < parts.count(); ++p, sums += parts.width)
    for (int64_t c = 0; c < cols; ++c) out[c] += sums[c];
}

}  // namespace weft::kernels
