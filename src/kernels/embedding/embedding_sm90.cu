// Forward: one vector of a row a thread. Backward: ids are sorted (stable), the sorted list is cut in chunks; a run of equal ids
// inside a chunk is added to the table at once, a run that crosses chunks leaves one partial sum a chunk, joined in order after.
#include "kernels/common/flat.cuh"
#include "kernels/common/sort.h"
#include "kernels/embedding/embedding.h"

namespace weft::kernels {
namespace {

using namespace dev;

template <class T>
__global__ void __launch_bounds__(kFlatThreads) gather(EmbeddingFwd a, FastDiv vecs, uint32_t total, bool aligned) {
  constexpr int kUnroll = 4;
  Vec8<T> raw[kUnroll];
  int64_t at[kUnroll];
  int count[kUnroll];
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    const uint32_t i = (blockIdx.x * kUnroll + k) * kFlatThreads + threadIdx.x;
    count[k] = 0;
    if (i >= total) continue;
    const uint32_t token = vecs.div(i);
    const int col = static_cast<int>(i - token * vecs.d) * 8;
    const int64_t id = a.ids[token] - a.vocab_begin;
    at[k] = static_cast<int64_t>(token) * a.dim + col, count[k] = a.dim - col < 8 ? a.dim - col : 8;
    raw[k] = {};
    if (id >= 0 && id < a.vocab)
      raw[k] = load_raw(static_cast<const T*>(a.table) + id * a.dim + col, count[k], aligned && count[k] == 8);
  }
#pragma unroll
  for (int k = 0; k < kUnroll; ++k) {
    if (count[k] <= 0) continue;
    float f[8];
    unpack(raw[k], f);
    store_some(static_cast<T*>(a.y) + at[k], count[k], aligned && count[k] == 8, f);
  }
}

__global__ void __launch_bounds__(256)
    make_keys(const int64_t* ids, int64_t tokens, int64_t begin, int64_t vocab, uint32_t* keys, uint32_t* values) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= tokens) return;
  const int64_t id = ids[i] - begin;
  keys[i] = static_cast<uint32_t>(id >= 0 && id < vocab ? id : vocab);  // ids of other ranks sort last
  values[i] = static_cast<uint32_t>(i);
}

struct Segments {
  const void* dy;
  const uint32_t *keys, *values;  // sorted
  float *dtable, *parts;          // parts [chunks, 2, dim]: a run from the chunk before, a run into the next
  int64_t count, chunks, vocab;
  int32_t dim, chunk, lanes;
  bool aligned;
};

// Where a sum of a run goes: rows of the table are read before they are needed, so their latency is hidden.
__device__ __forceinline__ void add_to(float* p, int count, bool full, const float (&before)[8], const float (&f)[8]) {
  float sum[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) sum[j] = before[j] + f[j];
  store_some(p, count, full, sum);
}

template <class T>
__global__ void __launch_bounds__(128) sum_runs(Segments a) {
  const int64_t chunk = static_cast<int64_t>(blockIdx.x) * (128 / a.lanes) + threadIdx.x / a.lanes;
  const int col = (blockIdx.y * a.lanes + static_cast<int>(threadIdx.x) % a.lanes) * 8;
  if (chunk >= a.chunks || col >= a.dim) return;
  const int count = a.dim - col < 8 ? a.dim - col : 8;
  const bool full = a.aligned && count == 8;
  const int64_t begin = chunk * a.chunk, end = begin + a.chunk < a.count ? begin + a.chunk : a.count;
  float* parts = a.parts + chunk * 2 * a.dim + col;
  bool from_before = begin > 0 && a.keys[begin - 1] == a.keys[begin];
  float sum[8] = {};
  constexpr int kAhead = 4;
  for (int64_t i = begin; i < end; i += kAhead) {
    Vec8<T> raw[kAhead];
    Vec8<float> row[kAhead];
    uint32_t key[kAhead + 1];
    bool ends[kAhead];  // the run ends here, or the chunk does
#pragma unroll
    for (int k = 0; k <= kAhead; ++k) key[k] = i + k < a.count ? a.keys[i + k] : 0xffffffffu;
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const bool here = i + k < end && key[k] < a.vocab;
      ends[k] = here && (key[k + 1] != key[k] || i + k + 1 == end);
      if (here) raw[k] = load_raw(static_cast<const T*>(a.dy) + static_cast<int64_t>(a.values[i + k]) * a.dim + col, count, full);
      if (ends[k]) row[k] = load_raw(a.dtable + static_cast<int64_t>(key[k]) * a.dim + col, count, full);
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (i + k >= end || key[k] >= a.vocab) continue;
      float f[8];
      unpack(raw[k], f);
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[j] += f[j];
      if (!ends[k]) continue;
      if (from_before)
        store_some(parts, count, full, sum);
      else if (key[k + 1] == key[k])
        store_some(parts + a.dim, count, full, sum);
      else {
        unpack(row[k], f);
        add_to(a.dtable + static_cast<int64_t>(key[k]) * a.dim + col, count, full, f, sum);
      }
      from_before = false;
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[j] = 0;
    }
  }
}

// The runs that cross chunks: whoever holds the beginning adds up the rest.
__global__ void __launch_bounds__(128) join_runs(Segments a) {
  const int64_t chunk = static_cast<int64_t>(blockIdx.x) * (128 / a.lanes) + threadIdx.x / a.lanes;
  const int col = (blockIdx.y * a.lanes + static_cast<int>(threadIdx.x) % a.lanes) * 8;
  if (chunk >= a.chunks || col >= a.dim) return;
  const int64_t begin = chunk * a.chunk, end = begin + a.chunk;
  if (end >= a.count) return;
  const uint32_t key = a.keys[end - 1];
  if (key >= a.vocab || a.keys[end] != key || (a.keys[begin] == key && begin > 0 && a.keys[begin - 1] == key)) return;
  const int count = a.dim - col < 8 ? a.dim - col : 8;
  const bool full = a.aligned && count == 8;
  float sum[8], f[8], row[8];
  load_some(a.dtable + static_cast<int64_t>(key) * a.dim + col, count, full, row);
  load_some(a.parts + (chunk * 2 + 1) * a.dim + col, count, full, sum);
  for (int64_t c = chunk + 1; c < a.chunks && a.keys[c * a.chunk] == key; ++c) {
    load_some(a.parts + c * 2 * a.dim + col, count, full, f);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum[j] += f[j];
  }
  add_to(a.dtable + static_cast<int64_t>(key) * a.dim + col, count, full, row, sum);
}

int key_bits(int64_t vocab) {
  int bits = 1;
  while ((int64_t{1} << bits) <= vocab) ++bits;
  return bits;
}
int32_t chunk_of(int32_t dim) { return dim <= 64 ? 16 : 32; }
size_t round_up(size_t n) { return (n + 255) / 256 * 256; }

template <class Args>
Support fits(const Args& a, const Device& d) {
  if (a.tokens >= int64_t{1} << 31) return {"more than 2^31 tokens"};
  if (a.vocab >= int64_t{1} << 31) return {"more than 2^31 rows in the table"};
  return on_sm90(d, a.dtype);
}

}  // namespace

Support supports_embedding_fwd_sm90(const EmbeddingFwd& a, const Device& d) { return fits(a, d); }
Support supports_embedding_bwd_sm90(const EmbeddingBwd& a, const Device& d) { return fits(a, d); }

size_t workspace_embedding_bwd_sm90(const EmbeddingBwd& a) {
  const size_t n = static_cast<size_t>(a.tokens), chunks = static_cast<size_t>(ceil_div(a.tokens, chunk_of(a.dim)));
  return n == 0 ? 0
                : 4 * round_up(4 * n) + round_up(chunks * 2 * static_cast<size_t>(a.dim) * sizeof(float)) +
                      sort_pairs_workspace(a.tokens, key_bits(a.vocab));
}

void embedding_fwd_sm90(const EmbeddingFwd& all, const Launch& launch) {
  if (all.dim == 0) return;
  const int64_t vecs = ceil_div(all.dim, 8), step = kFlatMost / vecs, size = bits(all.dtype) / 8;
  for (int64_t first = 0; first < all.tokens; first += step) {
    EmbeddingFwd a = all;
    a.tokens = all.tokens - first < step ? all.tokens - first : step;
    a.ids = all.ids + first, a.y = static_cast<char*>(all.y) + first * all.dim * size;
    const bool aligned = a.dim % 8 == 0 && is_aligned(a.table, 16) && is_aligned(a.y, 16);
    with_float_type(a.dtype, [&](auto type) {
      const int64_t total = a.tokens * vecs;
      launch_grid(gather<typename decltype(type)::type>, dim3(flat_grid(total, 4)), dim3(kFlatThreads), 0, launch.stream, a,
                  FastDiv(static_cast<uint32_t>(vecs)), static_cast<uint32_t>(total), aligned);
    });
  }
}

void embedding_bwd_sm90(const EmbeddingBwd& a, const Launch& launch) {
  if (a.tokens == 0 || a.dim == 0) return;
  char* at = static_cast<char*>(launch.workspace);
  const size_t list = round_up(4 * static_cast<size_t>(a.tokens));
  uint32_t* lists[4];
  for (uint32_t*& l : lists) l = reinterpret_cast<uint32_t*>(at), at += list;
  Segments s{a.dy,  lists[2],        lists[3], a.dtable, reinterpret_cast<float*>(at), a.tokens, 0, a.vocab,
             a.dim, chunk_of(a.dim), 1,        false};
  s.chunks = ceil_div(a.tokens, s.chunk);
  at += round_up(static_cast<size_t>(s.chunks) * 2 * static_cast<size_t>(a.dim) * sizeof(float));
  launch_grid(make_keys, dim3(static_cast<unsigned>(ceil_div(a.tokens, 256))), dim3(256), 0, launch.stream, a.ids, a.tokens,
              a.vocab_begin, a.vocab, lists[0], lists[1]);
  sort_pairs(lists[0], lists[2], lists[1], lists[3], a.tokens, key_bits(a.vocab), at, launch.stream);
  const int vecs = static_cast<int>(ceil_div(a.dim, 8));
  while (s.lanes < 128 && s.lanes < vecs) s.lanes *= 2;
  s.aligned = a.dim % 8 == 0 && is_aligned(a.dy, 16) && is_aligned(a.dtable, 16);
  const dim3 grid(static_cast<unsigned>(ceil_div(s.chunks, 128 / s.lanes)), static_cast<unsigned>(ceil_div(vecs, s.lanes)));
  with_float_type(a.dtype,
                  [&](auto type) { launch_grid(sum_runs<typename decltype(type)::type>, grid, dim3(128), 0, launch.stream, s); });
  launch_grid(join_runs, grid, dim3(128), 0, launch.stream, s);
}

}  // namespace weft::kernels
