// What a thread keeps of its two rows while a block of linear cross-entropy walks the vocabulary in tiles of kN: the maximum, the sum of
// exponentials of its own columns, the highest logit's column; and how the ranges of the vocabulary are joined.
#pragma once
#include "kernels/common/gemm_tile.cuh"

namespace weft::kernels::xent {

constexpr int kN = 256, kGroup = 16;  // kGroup row tiles share the ranges that run at one time: x of a group stays in L2

struct FwdParts {  // of `splits` ranges of the vocabulary
  float *max, *sum, *label;  // [splits, T], [splits, T], [T]
  int32_t* best;             // [splits, T]
};
inline size_t part_bytes(int splits, int64_t tokens) { return static_cast<size_t>(3 * splits + 1) * tokens * 4; }
inline FwdParts cut(void* base, int splits, int64_t tokens) {
  float* p = static_cast<float*>(base);
  return {p, p + splits * tokens, p + 2 * splits * tokens, reinterpret_cast<int32_t*>(p + (2 * splits + 1) * tokens)};
}

struct RowStats {
  float top[2], sum[2], best_value[2];
  int best[2];
  int64_t label[2];

  __device__ __forceinline__ void begin(const int64_t* labels, int64_t row0, int64_t tokens) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      top[h] = best_value[h] = -INFINITY, sum[h] = 0, best[h] = 0x7fffffff;
      label[h] = row0 + h * 8 < tokens ? labels[row0 + h * 8] : -1;
    }
  }
  // A tile of logits, whose column 0 is word `first`; `valid` columns of it are words. kKeep: z becomes exp(z - top), top that of now.
  template <bool kKeep>
  __device__ __forceinline__ void add(float (&z)[kN / 2], int64_t first, int valid, bool wants_best, float* label_logit, int64_t row0) {
    const int r = lane_id() & 3;
    if (valid < kN)
#pragma unroll
      for (int i = 0; i < kN / 2; ++i)
        if (i / 4 * 8 + r * 2 + i % 2 >= valid) z[i] = -INFINITY;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float m = top[h];
#pragma unroll
      for (int i = 0; i < kN / 8; ++i) m = fmaxf(m, fmaxf(z[i * 4 + h * 2], z[i * 4 + h * 2 + 1]));
      m = warp_max<4>(m);
      const int64_t at = label[h] - first;
      if (at >= 0 && at < kN) {
#pragma unroll
        for (int i = 0; i < kN / 8; ++i)
#pragma unroll
          for (int b = 0; b < 2; ++b)
            if (i * 8 + r * 2 + b == at) label_logit[row0 + h * 8] = z[i * 4 + h * 2 + b];
      }
      if (wants_best) {
#pragma unroll
        for (int i = 0; i < kN / 8; ++i)
#pragma unroll
          for (int b = 0; b < 2; ++b)
            if (z[i * 4 + h * 2 + b] > best_value[h]) best_value[h] = z[i * 4 + h * 2 + b], best[h] = static_cast<int>(first) + i * 8 + r * 2 + b;
      }
      const float shift = m * kLog2E;
      float s = 0;
#pragma unroll
      for (int i = 0; i < kN / 8; ++i) {
        const float e0 = exp2_fast(fmaf(z[i * 4 + h * 2], kLog2E, -shift)), e1 = exp2_fast(fmaf(z[i * 4 + h * 2 + 1], kLog2E, -shift));
        s += e0 + e1;
        if constexpr (kKeep) z[i * 4 + h * 2] = e0, z[i * 4 + h * 2 + 1] = e1;
      }
      sum[h] = sum[h] * exp2_fast(fmaf(top[h], kLog2E, -shift)) + s;  // of this lane's columns
      top[h] = m;
    }
  }
  __device__ __forceinline__ void finish(const FwdParts& parts, int split, int64_t row0, int64_t tokens) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      sum[h] = warp_sum<4>(sum[h]);
      for (int o = 1; o < 4; o <<= 1) {
        const float v = __shfl_xor_sync(0xffffffffu, best_value[h], o);
        const int i = __shfl_xor_sync(0xffffffffu, best[h], o);
        if (v > best_value[h] || (v == best_value[h] && i < best[h])) best_value[h] = v, best[h] = i;
      }
      const int64_t row = row0 + h * 8;
      if ((lane_id() & 3) == 0 && row < tokens) parts.max[split * tokens + row] = top[h], parts.sum[split * tokens + row] = sum[h], parts.best[split * tokens + row] = best[h];
    }
  }
};

struct Joined {
  float lse;
  int32_t best;
};
__device__ __forceinline__ Joined join(const FwdParts& parts, int splits, int64_t row, int64_t tokens) {
  float top = -INFINITY, sum = 0;
  int32_t best = 0;
  for (int s = 0; s < splits; ++s) {
    const float m = parts.max[s * tokens + row];
    if (m > top) top = m, best = parts.best[s * tokens + row];
  }
  for (int s = 0; s < splits; ++s)
    if (parts.sum[s * tokens + row] != 0) sum += parts.sum[s * tokens + row] * __expf(parts.max[s * tokens + row] - top);
  return {top + logf(sum), best};
}

template <class Args>
const char* refusal(const Args& a, const Device& device) {
  if (device.kind != Device::kCuda || device.sm != 90) return "needs a GPU of compute capability 9.0";
  if (a.dtype != DType::kBf16) return "dtype is not bf16";
  if (a.dim < 8 || a.dim % 8 != 0) return "dim is not a multiple of 8";
  if (a.vocab < 1 || a.vocab >= (int64_t{1} << 31) || a.tokens >= (int64_t{1} << 31)) return "no vocabulary, or 2^31 tokens or words or more";
  auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (!aligned(a.x) || !aligned(a.w)) return "x or w is not 16-byte aligned";
  return nullptr;
}

}  // namespace weft::kernels::xent
