// One thread a (token, table): the hash. Then a warp copies the rows of its 32, neighbouring lanes neighbouring sixteen bytes, several of
// them asked for at once.
#include "kernels/common/flat.cuh"
#include "kernels/ngram/ngram.h"

namespace weft::kernels {
namespace {

using namespace dev;

template <class T>
__global__ void __launch_bounds__(256, 6) ngram(NgramFwd a, bool aligned, FastDiv units) {
  const int64_t count = a.tokens * a.tables, mine = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x, i = mine < count ? mine : count - 1;
  const int64_t token = i / a.tables;
  const int t = static_cast<int>(i - token * a.tables), order = a.orders[t];
  int64_t start = 0;  // of the token's document
  if (a.cu != nullptr) {
    int low = 0, high = a.num_documents - 1;
    while (low < high) {  // the last document that starts at or before the token: empty ones share their start with the next
      const int mid = (low + high + 1) / 2;
      if (a.cu[mid] <= token)
        low = mid;
      else
        high = mid - 1;
    }
    start = a.cu[low];
  }
  constexpr int kFirst = 3;  // tokens that are asked for at once
  uint64_t id[kFirst], multiplier[kFirst];
#pragma unroll
  for (int j = 0; j < kFirst; ++j) {
    id[j] = 0, multiplier[j] = 0;
    if (j < order) multiplier[j] = static_cast<uint64_t>(a.multipliers[t * a.max_order + j]);
    if (j < order && token - j >= start) id[j] = static_cast<uint64_t>(a.ids[token - j]);
  }
  uint64_t hash = static_cast<uint64_t>(a.biases[t]);
#pragma unroll
  for (int j = 0; j < kFirst; ++j) hash ^= multiplier[j] * id[j];
  for (int j = kFirst; j < order && token - j >= start; ++j) hash ^= static_cast<uint64_t>(a.multipliers[t * a.max_order + j]) * static_cast<uint64_t>(a.ids[token - j]);
  const int64_t row = a.offsets[t] + static_cast<int64_t>(hash % static_cast<uint64_t>(a.primes[t]));
  if (a.rows != nullptr && mine < count) a.rows[i] = row;
  if (a.table == nullptr) return;
  if (!aligned) {
    if (mine >= count) return;
    for (int c = 0; c < a.dim; ++c) static_cast<T*>(a.e)[i * a.dim + c] = row < a.table_rows ? static_cast<const T*>(a.table)[row * a.dim + c] : from_f32<T>(0);
    return;
  }
  constexpr uint32_t kAhead = 2;
  const int64_t first = mine - lane_id();
  const uint32_t all = count - first < 32 ? static_cast<uint32_t>(count - first) * units.d : 32 * units.d;  // none: a warp past the end
  uint4* to = static_cast<uint4*>(a.e) + first * units.d;
  for (uint32_t base = 0; base < 32 * units.d; base += 32 * kAhead) {
    uint4 raw[kAhead];
#pragma unroll
    for (uint32_t k = 0; k < kAhead; ++k) {
      const uint32_t at = base + k * 32 + lane_id(), of = units.div(at);
      const int64_t from = __shfl_sync(~0u, row, of % 32);
      raw[k] = {};
      if (first < count && at < all && from < a.table_rows) raw[k] = static_cast<const uint4*>(a.table)[from * units.d + (at - of * units.d)];
    }
#pragma unroll
    for (uint32_t k = 0; k < kAhead; ++k)
      if (const uint32_t at = base + k * 32 + lane_id(); first < count && at < all) to[at] = raw[k];
  }
}

}  // namespace

Support supports_ngram_fwd_sm90(const NgramFwd& a, const Device& d) {
  if (a.tokens * a.tables >= int64_t{1} << 38) return {"more than 2^38 rows"};
  return on_sm90(d, a.dtype);
}

void ngram_fwd_sm90(const NgramFwd& a, const Launch& launch) {
  const int64_t count = a.tokens * a.tables;
  if (count == 0) return;
  const bool aligned = a.dim % 8 == 0 && is_aligned(a.table, 16) && is_aligned(a.e, 16);
  with_float_type(a.dtype, [&](auto type) {
    launch_grid(ngram<typename decltype(type)::type>, dim3(static_cast<unsigned>(ceil_div(count, 256))), dim3(256), 0,
                launch.stream, a, aligned, FastDiv(aligned && a.dim > 0 ? static_cast<uint32_t>(a.dim * bytes(a.dtype, 1) / 16) : 1u));
  });
}

}  // namespace weft::kernels
