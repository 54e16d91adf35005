// Forward: eight elements a thread. Backward: blocks of 32 columns x 512 rows leave fp32 parts, added in order.
#include "kernels/bias/bias.h"
#include "kernels/common/column_sum.cuh"
#include "kernels/common/flat.cuh"

namespace weft::kernels {
namespace {

using namespace dev;

constexpr int64_t kRowsPerPart = 512;

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

// Thread (x, y) of a 32 x 8 block: column x of every 8th row of the part.
template <class T>
__global__ void __launch_bounds__(256) part_sums(BiasBwd a, float* parts) {
  __shared__ float sums[8][33];
  const int64_t c = static_cast<int64_t>(blockIdx.x) * 32 + threadIdx.x, first = static_cast<int64_t>(blockIdx.y) * kRowsPerPart;
  const int64_t last = first + kRowsPerPart < a.rows ? first + kRowsPerPart : a.rows;
  float s = 0;
  if (c < a.cols) {
#pragma unroll 8
    for (int64_t r = first + threadIdx.y; r < last; r += 8) s += to_f32(static_cast<const T*>(a.dy)[r * a.cols + c]);
  }
  sums[threadIdx.y][threadIdx.x] = s;
  __syncthreads();
  if (threadIdx.y != 0 || c >= a.cols) return;
#pragma unroll
  for (int i = 1; i < 8; ++i) s += sums[i][threadIdx.x];
  parts[static_cast<int64_t>(blockIdx.y) * a.cols + c] = s;
}

int64_t num_parts(const BiasBwd& a) { return ceil_div(a.rows, kRowsPerPart); }

}  // namespace

Support supports_bias_fwd_sm90(const BiasFwd& a, const Device& d) { return on_sm90(d, a.dtype); }
Support supports_bias_bwd_sm90(const BiasBwd& a, const Device& d) {
  if (num_parts(a) > 65535) return {"more than 2^25 rows"};
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
    launch_grid(part_sums<T>, dim3(static_cast<unsigned>(ceil_div(a.cols, 32)), static_cast<unsigned>(num_parts(a))), dim3(32, 8), 0, launch.stream, a, parts);
  });
  add_column_sums(parts, num_parts(a), a.cols, a.db, launch.stream);
}

}  // namespace weft::kernels
