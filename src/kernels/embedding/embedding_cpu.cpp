#include <cstring>

#include "kernels/cpu.h"
#include "kernels/embedding/embedding.h"

namespace weft::kernels {
namespace {

constexpr int64_t kBlock = 64;  // columns that one range of the backward owns at least: whole cache lines

template <class T>
WEFT_CLONES void add_to(const T* dy, float* sum, int64_t cols) {
#pragma omp simd
  for (int64_t c = 0; c < cols; ++c) sum[c] += to_f32(dy[c]);
}

template <class T>
void run_bwd(const EmbeddingBwd& a, const Launch& launch) {
  // A range of columns belongs to one thread, which takes the tokens in order: no races, and the same sums for any number of threads.
  const int64_t blocks = (a.dim + kBlock - 1) / kBlock;
  parallel_for(launch.parallel, blocks, 1, [&](int64_t begin, int64_t end) {
    const int64_t c = begin * kBlock, cols = (end * kBlock < a.dim ? end * kBlock : a.dim) - c;
    for (int64_t t = 0; t < a.tokens; ++t) {
      const int64_t row = a.ids[t] - a.vocab_begin;
      if (row >= 0 && row < a.vocab) add_to(static_cast<const T*>(a.dy) + t * a.dim + c, a.dtable + row * a.dim + c, cols);
    }
  });
}

}  // namespace

Support supports_embedding_fwd_cpu(const EmbeddingFwd&, const Device& device) { return on_cpu(device); }
Support supports_embedding_bwd_cpu(const EmbeddingBwd& a, const Device& device) { return on_cpu(device, a.dtype); }

void embedding_fwd_cpu(const EmbeddingFwd& a, const Launch& launch) {
  const size_t row_bytes = bytes(a.dtype, static_cast<size_t>(a.dim));
  parallel_for(launch.parallel, a.tokens, row_grain(a.dim), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t row = a.ids[t] - a.vocab_begin;
      char* y = static_cast<char*>(a.y) + static_cast<size_t>(t) * row_bytes;
      if (row >= 0 && row < a.vocab)
        std::memcpy(y, static_cast<const char*>(a.table) + static_cast<size_t>(row) * row_bytes, row_bytes);
      else
        std::memset(y, 0, row_bytes);
    }
  });
}

void embedding_bwd_cpu(const EmbeddingBwd& a, const Launch& launch) {
  a.dtype == DType::kF32 ? run_bwd<float>(a, launch) : run_bwd<bf16>(a, launch);
}

}  // namespace weft::kernels
