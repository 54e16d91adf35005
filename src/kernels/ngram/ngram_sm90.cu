// One thread a (token, table): the hash, then the row's vectors.
#include "kernels/common/flat.cuh"
#include "kernels/ngram/ngram.h"

namespace weft::kernels {
namespace {

using namespace dev;

template <class T>
__global__ void __launch_bounds__(256) ngram(NgramFwd a, bool aligned) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= a.tokens * a.tables) return;
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
  uint64_t hash = static_cast<uint64_t>(a.biases[t]);
  for (int j = 0; j < order; ++j) {
    const uint64_t id = token - j >= start ? static_cast<uint64_t>(a.ids[token - j]) : 0;
    hash ^= static_cast<uint64_t>(a.multipliers[t * a.max_order + j]) * id;
  }
  const int64_t row = a.offsets[t] + static_cast<int64_t>(hash % static_cast<uint64_t>(a.primes[t]));
  if (a.rows != nullptr) a.rows[i] = row;
  if (a.table == nullptr) return;
  const T* from = static_cast<const T*>(a.table) + row * a.dim;
  T* to = static_cast<T*>(a.e) + i * a.dim;
  if (aligned) {
    int c = 0;
    for (; c + 16 <= a.dim; c += 16) {
      const Vec8<T> low = load8(from + c), high = load8(from + c + 8);
      store8(to + c, low), store8(to + c + 8, high);
    }
    if (c < a.dim) store8(to + c, load8(from + c));
  } else {
    for (int c = 0; c < a.dim; ++c) to[c] = from[c];
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
                launch.stream, a, aligned);
  });
}

}  // namespace weft::kernels
