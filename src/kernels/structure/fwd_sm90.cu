// A vector of eight columns a thread, the table in shared memory, or a large one in cache.
#include "kernels/common/flat.cuh"
#include "kernels/structure/streams.cuh"

namespace weft::kernels {
namespace {

using namespace dev;
using namespace structure;

template <class T>
__global__ void __launch_bounds__(kFlatThreads)
    structure_fwd(StructureFwd a, int64_t first, FastDiv vecs, uint32_t total, bool aligned) {
  const uint32_t i = blockIdx.x * kFlatThreads + threadIdx.x;
  if (i >= total) return;
  const uint32_t local = vecs.div(i);
  const int64_t t = first + local;
  const int col = static_cast<int>(i - local * vecs.d) * 8, count = a.dim - col < 8 ? a.dim - col : 8;
  const bool full = aligned && count == 8;
  float sum[8] = {};
  int32_t offset = 0;
  for (int c = 0; c < a.streams.num; ++c) {
    const int32_t row = row_of(a.streams, c, offset, t);
    offset += a.streams.classes[c];
    if (row < 0) continue;
    float f[8];
    load_some(static_cast<const T*>(a.table) + static_cast<int64_t>(row) * a.dim + col, count, full, f);
    const float scale = a.scale[c];
#pragma unroll
    for (int j = 0; j < 8; ++j) sum[j] += scale * f[j];
  }
  store_some(static_cast<T*>(a.y) + t * a.dim + col, count, full, sum);
}

// The table in shared memory; `vecs` vectors a row divide the block, so that a thread keeps its columns and walks down the tokens, kTokens at
// once.
constexpr int kTokens = 4;

template <class T>
__global__ void __launch_bounds__(kFlatThreads, 4) structure_fwd_small(StructureFwd a, int32_t rows, int vecs) {
  WEFT_DYNAMIC_SMEM(structure_table);
  Vec8<T>* table = reinterpret_cast<Vec8<T>*>(structure_table);
  for (int i = threadIdx.x; i < rows * vecs; i += kFlatThreads) table[i] = load8(static_cast<const T*>(a.table) + i * 8);
  __syncthreads();
  const int vec = static_cast<int>(threadIdx.x) % vecs, step = kFlatThreads / vecs;
  T* y = static_cast<T*>(a.y) + vec * 8;
  for (int64_t t0 = static_cast<int64_t>(blockIdx.x) * (step * kTokens) + threadIdx.x / vecs; t0 < a.tokens; t0 += static_cast<int64_t>(gridDim.x) * (step * kTokens)) {
    float sum[kTokens][8] = {};
    int32_t offset = 0;
    for (int c = 0; c < a.streams.num; c += 2) {  // the ids of two streams asked for at once
      int32_t id[2][kTokens];
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        const int32_t* ids = c + s < a.streams.num ? a.streams.ids[c + s] : nullptr;
#pragma unroll
        for (int k = 0; k < kTokens; ++k) {
          id[s][k] = -1;
          if (ids != nullptr && t0 + k * step < a.tokens) id[s][k] = ids[t0 + k * step];
        }
      }
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        if (c + s >= a.streams.num) continue;
        const int32_t most = a.streams.classes[c + s] - 1;
        const float scale = a.scale[c + s];
#pragma unroll
        for (int k = 0; k < kTokens; ++k) {
          const int32_t of = id[s][k] < most ? id[s][k] : most;
          if (of < 0) continue;  // absent, or a stream without classes
          float f[8];
          unpack(table[(offset + of) * vecs + vec], f);
#pragma unroll
          for (int j = 0; j < 8; ++j) sum[k][j] += scale * f[j];
        }
        offset += most + 1;
      }
    }
#pragma unroll
    for (int k = 0; k < kTokens; ++k)
      if (t0 + k * step < a.tokens) store8(y + (t0 + k * step) * a.dim, sum[k]);
  }
}

}  // namespace

Support supports_structure_fwd_sm90(const StructureFwd& a, const Device& d) { return fits(a.streams, d, a.dtype); }

void structure_fwd_sm90(const StructureFwd& a, const Launch& launch) {
  if (a.tokens == 0 || a.dim == 0) return;
  const int64_t vecs = ceil_div(a.dim, 8), step = kFlatMost / vecs;
  const bool aligned = a.dim % 8 == 0 && is_aligned(a.table, 16) && is_aligned(a.y, 16);
  const int32_t rows = rows_of(a.streams);
  with_float_type(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const size_t table = sizeof(T) * static_cast<size_t>(rows) * static_cast<size_t>(a.dim);
    if (sizeof(T) == 2 && aligned && table <= 24 * 1024 && kFlatThreads % vecs == 0) {  // rows of fp32 go faster by the other
      const int grid = persistent_grid(structure_fwd_small<T>, kFlatThreads, table, ceil_div(a.tokens, kFlatThreads / vecs * kTokens));
      return launch_grid(structure_fwd_small<T>, dim3(static_cast<unsigned>(grid)), dim3(kFlatThreads), table, launch.stream, a, rows, static_cast<int>(vecs));
    }
    for (int64_t first = 0; first < a.tokens; first += step) {
      const auto total = static_cast<uint32_t>((a.tokens - first < step ? a.tokens - first : step) * vecs);
      launch_grid(structure_fwd<T>, dim3(flat_grid(total, 1)), dim3(kFlatThreads), 0, launch.stream, a, first, FastDiv(static_cast<uint32_t>(vecs)), total, aligned);
    }
  });
}

}  // namespace weft::kernels
