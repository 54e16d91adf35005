// Forward: eight elements a thread. Backward: blocks of 256 columns and a strip of rows leave fp32 parts, added in order.
#include "kernels/bias/bias.h"
#include "kernels/common/column_sum.cuh"
#include "kernels/common/flat.cuh"

namespace weft::kernels {
namespace {

using namespace dev;

// Rows of a part: what gives every processor of an H200 four blocks, a function of the shape alone.
int64_t rows_per_part(const BiasBwd& a) {
  const int64_t across = ceil_div(a.cols, 256), parts = across < 528 ? 528 / across : 1, rows = ceil_div(a.rows, parts);
  return rows < 64 ? 64 : rows;
}

template <class T>
__global__ void __launch_bounds__(kFlatThreads) add_rows(BiasFwd a, bool aligned, int64_t vectors, int per_row) {
  const int64_t v = static_cast<int64_t>(blockIdx.x) * kFlatThreads + threadIdx.x;
  if (v >= vectors) return;
  const int64_t row = v / per_row;
  const int col = static_cast<int>(v - row * per_row) * 8, left = a.cols - col, count = left > 8 ? 8 : left;
  const bool full = aligned && count == 8;
  float x[8], b[8];
  load_some(static_cast<const T*>(a.x) + row * a.cols + col, count, full, x);
  load_some(static_cast<const T*>(a.b) + col, count, full, b);
#pragma unroll
  for (int j = 0; j < 8; ++j) x[j] += b[j];
  store_some(static_cast<T*>(a.y) + row * a.cols + col, count, full, x);
}

// Thread (x, y) of a 32 x 8 block: eight columns of every 8th row of the part, kAhead of them asked for at once.
template <class T>
__global__ void __launch_bounds__(256) part_sums(BiasBwd a, int64_t rows, bool aligned, float* parts) {
  constexpr int kAhead = sizeof(T) == 2 ? 8 : 4;
  __shared__ float sums[8][8][33];
  const int64_t c = (static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x) * 8, first = static_cast<int64_t>(blockIdx.y) * rows;
  const int64_t last = first + rows < a.rows ? first + rows : a.rows;
  const int count = a.cols - c < 8 ? static_cast<int>(a.cols - c) : 8;
  const bool full = aligned && count == 8;
  const T* dy = static_cast<const T*>(a.dy) + c;
  float s[8] = {};
  auto add = [&](const Vec8<T>& v) {
    float f[8];
    unpack(v, f);
#pragma unroll
    for (int j = 0; j < 8; ++j) s[j] += f[j];
  };
  if (count > 0) {
    int64_t r = first + threadIdx.y;
    for (; r + 8 * (kAhead - 1) < last; r += 8 * kAhead) {
      Vec8<T> raw[kAhead];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) raw[k] = load_raw(dy + (r + 8 * k) * a.cols, count, full);
#pragma unroll
      for (int k = 0; k < kAhead; ++k) add(raw[k]);
    }
    for (; r < last; r += 8) add(load_raw(dy + r * a.cols, count, full));
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) sums[threadIdx.y][j][threadIdx.x] = s[j];
  __syncthreads();
  const int64_t own = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.y * 32 + threadIdx.x;  // one column a thread
  if (own >= a.cols) return;
  const int vec = (threadIdx.y * 32 + threadIdx.x) / 8, j = threadIdx.x % 8;
  float total = sums[0][j][vec];
#pragma unroll
  for (int i = 1; i < 8; ++i) total += sums[i][j][vec];
  parts[static_cast<int64_t>(blockIdx.y) * a.cols + own] = total;
}

int64_t num_parts(const BiasBwd& a) { return ceil_div(a.rows, rows_per_part(a)); }

}  // namespace

Support supports_bias_fwd_sm90(const BiasFwd& a, const Device& d) { return on_sm90(d, a.dtype); }
Support supports_bias_bwd_sm90(const BiasBwd& a, const Device& d) {
  return on_sm90(d, a.dtype);
}
size_t workspace_bias_bwd_sm90(const BiasBwd& a) { return static_cast<size_t>(num_parts(a)) * static_cast<size_t>(a.cols) * sizeof(float); }

void bias_fwd_sm90(const BiasFwd& a, const Launch& launch) {
  const int per_row = static_cast<int>(ceil_div(a.cols, 8));
  const int64_t vectors = a.rows * per_row;
  const bool aligned = a.cols % 8 == 0 && is_aligned(a.x, 16) && is_aligned(a.b, 16) && is_aligned(a.y, 16);
  with_float_type(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    launch_grid(add_rows<T>, dim3(static_cast<unsigned>(ceil_div(vectors, kFlatThreads))), dim3(kFlatThreads), 0, launch.stream, a, aligned, vectors, per_row);
  });
}

void bias_bwd_sm90(const BiasBwd& a, const Launch& launch) {
  if (a.rows == 0) return;
  float* parts = static_cast<float*>(launch.workspace);
  with_float_type(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const bool aligned = a.cols % 8 == 0 && is_aligned(a.dy, 16);
    launch_grid(part_sums<T>, dim3(static_cast<unsigned>(ceil_div(a.cols, 256)), static_cast<unsigned>(num_parts(a))), dim3(32, 8), 0, launch.stream, a, rows_per_part(a), aligned, parts);
  });
  add_column_sums(parts, num_parts(a), a.cols, a.db, launch.stream);
}

}  // namespace weft::kernels
