// Rows by index: a vector of eight a thread; the gradient of the probabilities has a group of threads a row, for one order of
// sums.
#include "kernels/common/flat.cuh"
#include "kernels/permute/permute.h"

namespace weft::kernels {
namespace {

using namespace dev;

template <class T>
__global__ void __launch_bounds__(kFlatThreads)
    permute(PermuteFwd a, int64_t first_row, FastDiv vecs, FastDiv k, uint32_t total, bool aligned) {
  constexpr int kUnroll = 4;
  Vec8<T> raw[kUnroll];
  int64_t at[kUnroll];
  int count[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const uint32_t i = (blockIdx.x * kUnroll + u) * kFlatThreads + threadIdx.x;
    count[u] = 0;
    if (i >= total) continue;
    const uint32_t local = vecs.div(i);
    const int col = static_cast<int>(i - local * vecs.d) * 8;
    const int64_t row = first_row + local;
    const int32_t slot = a.slot_of_row[row];
    at[u] = row * a.dim + col, count[u] = a.dim - col < 8 ? a.dim - col : 8;
    raw[u] = {};
    if (slot >= 0)
      raw[u] = load_raw(static_cast<const T*>(a.x) + static_cast<int64_t>(k.div(static_cast<uint32_t>(slot))) * a.dim + col, count[u],
                        aligned && count[u] == 8);
    if (col == 0 && a.row_probs != nullptr) a.row_probs[row] = slot >= 0 ? a.probs[slot] : 0.0f;
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    if (count[u] <= 0) continue;
    float f[8];
    unpack(raw[u], f);
    store_some(static_cast<T*>(a.y) + at[u], count[u], aligned && count[u] == 8, f);
  }
}

template <class T, int kAhead>
__global__ void __launch_bounds__(kFlatThreads)
    unpermute(UnpermuteFwd a, int64_t first_token, FastDiv vecs, uint32_t total, bool aligned) {
  const uint32_t i = blockIdx.x * kFlatThreads + threadIdx.x;
  if (i >= total) return;
  const uint32_t local = vecs.div(i);
  const int col = static_cast<int>(i - local * vecs.d) * 8, count = a.dim - col < 8 ? a.dim - col : 8;
  const bool full = aligned && count == 8;
  const int64_t token = first_token + local;
  float sum[8] = {};
  for (int j = 0; j < a.k; j += kAhead) {
    int32_t row[kAhead];
    float p[kAhead];
    Vec8<T> raw[kAhead];
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      row[u] = j + u < a.k ? a.row_of_slot[token * a.k + j + u] : -1;
      p[u] = j + u < a.k && a.probs != nullptr ? a.probs[token * a.k + j + u] : 1.0f;
    }
#pragma unroll
    for (int u = 0; u < kAhead; ++u)
      if (row[u] >= 0 && full) raw[u] = load8(static_cast<const T*>(a.x) + static_cast<int64_t>(row[u]) * a.dim + col);
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (row[u] < 0) continue;
      float f[8];
      if (full)
        unpack(raw[u], f);
      else
        load_some(static_cast<const T*>(a.x) + static_cast<int64_t>(row[u]) * a.dim + col, count, false, f);
#pragma unroll
      for (int c = 0; c < 8; ++c) sum[c] += p[u] * f[c];
    }
  }
  store_some(static_cast<T*>(a.y) + token * a.dim + col, count, full, sum);
}

template <class T>
__global__ void __launch_bounds__(kFlatThreads) unpermute_bwd(UnpermuteBwd a, FastDiv k, int lanes, bool aligned) {
  __shared__ float scratch[33];
  const int lane = threadIdx.x % lanes, per_block = kFlatThreads / lanes;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * per_block + threadIdx.x / lanes;
  const int32_t slot = row < a.max_rows ? a.slot_of_row[row] : -1;
  float dot = 0;
  if (row < a.max_rows) {
    const float p = slot >= 0 && a.probs != nullptr ? a.probs[slot] : 1.0f;
    const int64_t token = slot >= 0 ? k.div(static_cast<uint32_t>(slot)) : 0;
#pragma unroll 2
    for (int col = lane * 8; col < a.dim; col += lanes * 8) {
      const int count = a.dim - col < 8 ? a.dim - col : 8;
      const bool full = aligned && count == 8;
      float g[8] = {}, x[8];
      if (slot >= 0) {
        load_some(static_cast<const T*>(a.dy) + token * a.dim + col, count, full, g);
        if (a.dprobs != nullptr) {
          load_some(static_cast<const T*>(a.x) + row * a.dim + col, count, full, x);
#pragma unroll
          for (int j = 0; j < 8; ++j) dot += j < count ? g[j] * x[j] : 0.0f;
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) g[j] *= p;
      }
      store_some(static_cast<T*>(a.dx) + row * a.dim + col, count, full, g);
    }
  }
  if (a.dprobs == nullptr) return;
  dot = lanes <= 32 ? lanes_reduce(dot, lanes) : block_reduce(dot, scratch);
  if (lane == 0 && slot >= 0) a.dprobs[slot] = dot;
}

// Padding rows: zeros in `rows`, and the probabilities of all rows. A warp looks at 32 rows.
template <class T>
__global__ void __launch_bounds__(256) padding(const int32_t* slot_of_row, const float* probs, float* row_probs, T* rows,
                                               int64_t max_rows, int32_t dim, bool aligned) {
  const int lane = threadIdx.x & 31;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * 8 + (threadIdx.x >> 5)) * 32;
  const int32_t slot = first + lane < max_rows ? slot_of_row[first + lane] : 0;
  if (row_probs != nullptr && first + lane < max_rows) row_probs[first + lane] = slot >= 0 ? probs[slot] : 0.0f;
  unsigned empty = __ballot_sync(~0u, slot < 0);
  const float zeros[8] = {};
  for (; empty != 0; empty &= empty - 1) {
    T* row = rows + (first + __ffs(static_cast<int>(empty)) - 1) * dim;
    for (int col = lane * 8; col < dim; col += 256)
      store_some(row + col, dim - col < 8 ? dim - col : 8, aligned && dim - col >= 8, zeros);
  }
}

template <class T>
__global__ void __launch_bounds__(kFlatThreads)
    permute_tokens(PermuteFwd a, int64_t first_token, FastDiv vecs, uint32_t total, bool aligned) {
  constexpr int kUnroll = 2;
  Vec8<T> raw[kUnroll];
  int64_t token[kUnroll];
  int col[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const uint32_t i = (blockIdx.x * kUnroll + u) * kFlatThreads + threadIdx.x;
    if (i >= total) continue;
    const uint32_t local = vecs.div(i);
    token[u] = first_token + local, col[u] = static_cast<int>(i - local * vecs.d) * 8;
    if (aligned) raw[u] = load8(static_cast<const T*>(a.x) + token[u] * a.dim + col[u]);
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const uint32_t i = (blockIdx.x * kUnroll + u) * kFlatThreads + threadIdx.x;
    if (i >= total) continue;
    const int count = a.dim - col[u] < 8 ? a.dim - col[u] : 8;
    constexpr int kRows = 4;
    for (int j0 = 0; j0 < a.k; j0 += kRows) {
      int32_t row[kRows];
#pragma unroll
      for (int j = 0; j < kRows; ++j) row[j] = j0 + j < a.k ? a.row_of_slot[token[u] * a.k + j0 + j] : -1;
#pragma unroll
      for (int j = 0; j < kRows; ++j) {
        if (row[j] < 0) continue;
        T* to = static_cast<T*>(a.y) + static_cast<int64_t>(row[j]) * a.dim + col[u];
        if (aligned) {
          store8(to, raw[u]);
        } else {
          for (int c = 0; c < count; ++c) to[c] = static_cast<const T*>(a.x)[token[u] * a.dim + col[u] + c];
        }
      }
    }
  }
}

// A group of `lanes` threads a token; four rows at a time.
template <class T>
__global__ void __launch_bounds__(kFlatThreads) unpermute_bwd_tokens(UnpermuteBwd a, int lanes, bool aligned) {
  constexpr int kRows = 4;
  __shared__ float scratch[33];
  const int lane = threadIdx.x % lanes;
  const int64_t token = static_cast<int64_t>(blockIdx.x) * (kFlatThreads / lanes) + threadIdx.x / lanes;
  const bool here = token < a.tokens;
  for (int j0 = 0; j0 < a.k; j0 += kRows) {
    int32_t row[kRows];
    float p[kRows], dot[kRows] = {};
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      row[j] = here && j0 + j < a.k ? a.row_of_slot[token * a.k + j0 + j] : -1;
      p[j] = row[j] >= 0 && a.probs != nullptr ? a.probs[token * a.k + j0 + j] : 1.0f;
    }
    if (here) {
      for (int col = lane * 8; col < a.dim; col += lanes * 8) {
        const int count = a.dim - col < 8 ? a.dim - col : 8;
        const bool full = aligned && count == 8;
        Vec8<T> raw[kRows];
        if (full && a.dprobs != nullptr) {
#pragma unroll
          for (int j = 0; j < kRows; ++j)
            if (row[j] >= 0) raw[j] = load8(static_cast<const T*>(a.x) + static_cast<int64_t>(row[j]) * a.dim + col);
        }
        const Vec8<T> raw_g = load_raw(static_cast<const T*>(a.dy) + token * a.dim + col, count, full);
        float g[8];
        unpack(raw_g, g);
#pragma unroll
        for (int j = 0; j < kRows; ++j) {
          if (row[j] < 0) continue;
          float x[8];
          if (a.dprobs != nullptr) {
            if (full)
              unpack(raw[j], x);
            else
              load_some(static_cast<const T*>(a.x) + static_cast<int64_t>(row[j]) * a.dim + col, count, false, x);
#pragma unroll
            for (int c = 0; c < 8; ++c) dot[j] += c < count ? g[c] * x[c] : 0.0f;
          }
#pragma unroll
          for (int c = 0; c < 8; ++c) x[c] = g[c] * p[j];
          store_some(static_cast<T*>(a.dx) + static_cast<int64_t>(row[j]) * a.dim + col, count, full, x);
        }
      }
    }
    if (a.dprobs == nullptr) continue;
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      dot[j] = lanes <= 32 ? lanes_reduce(dot[j], lanes) : block_reduce(dot[j], scratch);
      if (lane == 0 && row[j] >= 0) a.dprobs[token * a.k + j0 + j] = dot[j];
    }
  }
}

template <class Args>
Support fits(const Args& a, const Device& d) {
  if (a.k < 1) return {"k is below 1"};
  return on_sm90(d, a.dtype);
}

}  // namespace

Support supports_permute_fwd_sm90(const PermuteFwd& a, const Device& d) {
  if (a.probs != nullptr && a.row_probs == nullptr) return {"probs is given without row_probs"};
  return fits(a, d);
}
Support supports_unpermute_fwd_sm90(const UnpermuteFwd& a, const Device& d) { return fits(a, d); }
Support supports_unpermute_bwd_sm90(const UnpermuteBwd& a, const Device& d) {
  if (a.dprobs != nullptr && a.x == nullptr) return {"dprobs needs x"};
  return fits(a, d);
}

void permute_fwd_sm90(const PermuteFwd& a, const Launch& launch) {
  if (a.dim == 0 || a.max_rows == 0) return;
  const int64_t vecs = ceil_div(a.dim, 8), step = kFlatMost / vecs;
  const bool aligned = a.dim % 8 == 0 && is_aligned(a.x, 16) && is_aligned(a.y, 16);
  if (a.row_of_slot != nullptr) {
    with_float_type(a.dtype, [&](auto type) {
      using T = typename decltype(type)::type;
      launch_grid(padding<T>, dim3(static_cast<unsigned>(ceil_div(a.max_rows, 256))), dim3(256), 0, launch.stream, a.slot_of_row,
                  a.probs, a.row_probs, static_cast<T*>(a.y), a.max_rows, a.dim, aligned);
      for (int64_t first = 0; first < a.tokens; first += step) {
        const int64_t total = (a.tokens - first < step ? a.tokens - first : step) * vecs;
        launch_grid(permute_tokens<T>, dim3(flat_grid(total, 2)), dim3(kFlatThreads), 0, launch.stream, a, first,
                    FastDiv(static_cast<uint32_t>(vecs)), static_cast<uint32_t>(total), aligned);
      }
    });
    return;
  }
  for (int64_t first = 0; first < a.max_rows; first += step) {
    const int64_t total = (a.max_rows - first < step ? a.max_rows - first : step) * vecs;
    with_float_type(a.dtype, [&](auto type) {
      launch_grid(permute<typename decltype(type)::type>, dim3(flat_grid(total, 4)), dim3(kFlatThreads), 0, launch.stream, a,
                  first, FastDiv(static_cast<uint32_t>(vecs)), FastDiv(static_cast<uint32_t>(a.k)), static_cast<uint32_t>(total),
                  aligned);
    });
  }
}

void unpermute_fwd_sm90(const UnpermuteFwd& a, const Launch& launch) {
  if (a.dim == 0) return;
  const int64_t vecs = ceil_div(a.dim, 8), step = kFlatMost / vecs;
  const bool aligned = a.dim % 8 == 0 && is_aligned(a.x, 16) && is_aligned(a.y, 16);
  for (int64_t first = 0; first < a.tokens; first += step) {
    const int64_t total = (a.tokens - first < step ? a.tokens - first : step) * vecs;
    with_float_type(a.dtype, [&](auto type) {
      using T = typename decltype(type)::type;
      auto go = [&](auto kernel) {
        launch_grid(kernel, dim3(flat_grid(total, 1)), dim3(kFlatThreads), 0, launch.stream, a, first,
                    FastDiv(static_cast<uint32_t>(vecs)), static_cast<uint32_t>(total), aligned);
      };
      if (a.k <= 2)
        go(unpermute<T, 2>);
      else if (a.k <= 4)
        go(unpermute<T, 4>);
      else
        go(unpermute<T, 8>);
    });
  }
}

void unpermute_bwd_sm90(const UnpermuteBwd& a, const Launch& launch) {
  if (a.max_rows == 0) return;
  const bool aligned = a.dim % 8 == 0 && is_aligned(a.dy, 16) && is_aligned(a.x, 16) && is_aligned(a.dx, 16);
  const int lanes = a.dim >= 2048 ? kFlatThreads : 32;
  if (a.row_of_slot != nullptr) {
    const int across = a.dim >= 2048 ? kFlatThreads : 32;
    with_float_type(a.dtype, [&](auto type) {
      using T = typename decltype(type)::type;
      launch_grid(padding<T>, dim3(static_cast<unsigned>(ceil_div(a.max_rows, 256))), dim3(256), 0, launch.stream, a.slot_of_row,
                  static_cast<const float*>(nullptr), static_cast<float*>(nullptr), static_cast<T*>(a.dx), a.max_rows, a.dim,
                  aligned);
      if (a.tokens > 0)
        launch_grid(unpermute_bwd_tokens<T>, dim3(static_cast<unsigned>(ceil_div(a.tokens, kFlatThreads / across))),
                    dim3(kFlatThreads), 0, launch.stream, a, across, aligned);
    });
    return;
  }
  with_float_type(a.dtype, [&](auto type) {
    launch_grid(unpermute_bwd<typename decltype(type)::type>,
                dim3(static_cast<unsigned>(ceil_div(a.max_rows, kFlatThreads / lanes))), dim3(kFlatThreads), 0, launch.stream, a,
                FastDiv(static_cast<uint32_t>(a.k)), lanes, aligned);
  });
}

}  // namespace weft::kernels
