#include <algorithm>
#include <cstring>

#include "kernels/cpu.h"
#include "kernels/ngram/ngram.h"

namespace weft::kernels {

Support supports_ngram_fwd_cpu(const NgramFwd&, const Device& device) { return on_cpu(device); }

void ngram_fwd_cpu(const NgramFwd& a, const Launch& launch) {
  const size_t row_bytes = bytes(a.dtype, static_cast<size_t>(a.dim));
  parallel_for(launch.parallel, a.tokens, 256, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      int64_t first = 0;  // first token of i's document
      if (a.cu != nullptr) first = *(std::upper_bound(a.cu, a.cu + a.num_documents + 1, static_cast<int32_t>(i)) - 1);
      for (int32_t t = 0; t < a.tables; ++t) {
        uint64_t hash = static_cast<uint64_t>(a.biases[t]);
        for (int32_t j = 0; j < a.orders[t]; ++j)
          if (i - j >= first) hash ^= static_cast<uint64_t>(a.multipliers[t * a.max_order + j]) * static_cast<uint64_t>(a.ids[i - j]);
        const int64_t row = a.offsets[t] + static_cast<int64_t>(hash % static_cast<uint64_t>(a.primes[t]));
        if (a.rows != nullptr) a.rows[i * a.tables + t] = row;
        if (a.e == nullptr) continue;
        char* to = static_cast<char*>(a.e) + static_cast<size_t>(i * a.tables + t) * row_bytes;
        if (row < a.table_rows)
          std::memcpy(to, static_cast<const char*>(a.table) + static_cast<size_t>(row) * row_bytes, row_bytes);
        else
          std::memset(to, 0, row_bytes);
      }
    }
  });
}

}  // namespace weft::kernels
