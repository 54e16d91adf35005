#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/permute/permute.h"

namespace weft::kernels {
namespace {

template <class T>
WEFT_CLONES void add_scaled(const T* x, float p, float* sum, int32_t dim) {
#pragma omp simd
  for (int32_t i = 0; i < dim; ++i) sum[i] += p * to_f32(x[i]);
}

template <class T>
WEFT_CLONES void round_row(const float* sum, T* y, int32_t dim) {
#pragma omp simd
  for (int32_t i = 0; i < dim; ++i) y[i] = from_f32<T>(sum[i]);
}

template <class T>
WEFT_CLONES void scale_row(const T* x, float p, T* y, int32_t dim) {
#pragma omp simd
  for (int32_t i = 0; i < dim; ++i) y[i] = from_f32<T>(p * to_f32(x[i]));
}

template <class T>
WEFT_CLONES float dot_row(const T* a, const T* b, int32_t dim) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int32_t i = 0; i < dim; ++i) sum += to_f32(a[i]) * to_f32(b[i]);
  return sum;
}

int64_t grain(int32_t dim) { return 1 + 16384 / (dim + 1); }

template <class T>
void run_unpermute(const UnpermuteFwd& a, const Launch& launch) {
  const T* x = static_cast<const T*>(a.x);
  parallel_for(launch.parallel, a.tokens, grain(a.dim), [&](int64_t begin, int64_t end) {
    std::vector<float> sum(static_cast<size_t>(a.dim));
    for (int64_t t = begin; t < end; ++t) {
      std::fill(sum.begin(), sum.end(), 0.0f);
      for (int32_t j = 0; j < a.k; ++j) {
        const int32_t row = a.row_of_slot[t * a.k + j];
        if (row >= 0) add_scaled(x + static_cast<int64_t>(row) * a.dim, a.probs == nullptr ? 1.0f : a.probs[t * a.k + j], sum.data(), a.dim);
      }
      round_row(sum.data(), static_cast<T*>(a.y) + t * a.dim, a.dim);
    }
  });
}

template <class T>
void run_unpermute_bwd(const UnpermuteBwd& a, const Launch& launch) {
  parallel_for(launch.parallel, a.max_rows, grain(a.dim), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int32_t slot = a.slot_of_row[r];
      T* dx = static_cast<T*>(a.dx) + r * a.dim;
      if (slot < 0) {
        std::memset(static_cast<void*>(dx), 0, sizeof(T) * static_cast<size_t>(a.dim));
        continue;
      }
      const T* dy = static_cast<const T*>(a.dy) + static_cast<int64_t>(slot / a.k) * a.dim;
      if (a.dprobs != nullptr) a.dprobs[slot] = dot_row(dy, static_cast<const T*>(a.x) + r * a.dim, a.dim);
      scale_row(dy, a.probs == nullptr ? 1.0f : a.probs[slot], dx, a.dim);
    }
  });
}

}  // namespace

Support supports_permute_plan_cpu(const PermutePlan&, const Device& device) { return on_cpu(device); }
Support supports_permute_fwd_cpu(const PermuteFwd& a, const Device& device) { return on_cpu(device, a.dtype); }
Support supports_unpermute_fwd_cpu(const UnpermuteFwd& a, const Device& device) { return on_cpu(device, a.dtype); }
Support supports_unpermute_bwd_cpu(const UnpermuteBwd& a, const Device& device) { return on_cpu(device, a.dtype); }

void permute_plan_cpu(const PermutePlan& a, const Launch&) {
  const int64_t slots = a.tokens * a.k;
  std::fill(a.counts, a.counts + a.experts, 0);
  for (int64_t s = 0; s < slots; ++s)
    if (a.indices[s] >= 0) ++a.counts[a.indices[s]];
  a.offsets[0] = 0;
  for (int32_t e = 0; e < a.experts; ++e) a.offsets[e + 1] = a.offsets[e] + (a.counts[e] + a.align - 1) / a.align * a.align;
  std::fill(a.slot_of_row, a.slot_of_row + a.max_rows, -1);
  std::vector<int32_t> next(a.offsets, a.offsets + a.experts);
  for (int64_t s = 0; s < slots; ++s) {
    const int32_t e = a.indices[s];
    a.row_of_slot[s] = e < 0 ? -1 : next[static_cast<size_t>(e)]++;
    if (e >= 0) a.slot_of_row[a.row_of_slot[s]] = static_cast<int32_t>(s);
  }
}

void permute_fwd_cpu(const PermuteFwd& a, const Launch& launch) {
  const size_t row_bytes = bytes(a.dtype, static_cast<size_t>(a.dim));
  parallel_for(launch.parallel, a.max_rows, grain(a.dim), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int32_t slot = a.slot_of_row[r];
      char* y = static_cast<char*>(a.y) + static_cast<size_t>(r) * row_bytes;
      if (slot < 0)
        std::memset(y, 0, row_bytes);
      else
        std::memcpy(y, static_cast<const char*>(a.x) + static_cast<size_t>(slot / a.k) * row_bytes, row_bytes);
      if (a.row_probs != nullptr) a.row_probs[r] = slot < 0 ? 0.0f : a.probs[slot];
    }
  });
}

void unpermute_fwd_cpu(const UnpermuteFwd& a, const Launch& launch) {
  a.dtype == DType::kF32 ? run_unpermute<float>(a, launch) : run_unpermute<bf16>(a, launch);
}

void unpermute_bwd_cpu(const UnpermuteBwd& a, const Launch& launch) {
  a.dtype == DType::kF32 ? run_unpermute_bwd<float>(a, launch) : run_unpermute_bwd<bf16>(a, launch);
}

}  // namespace weft::kernels
