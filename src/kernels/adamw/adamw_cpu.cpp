// A block of elements is brought to fp32 in a buffer that stays in the first cache, updated, and written back: one pass over memory.
#include <algorithm>
#include <cmath>

#include "base/rng.h"
#include "kernels/adamw/adamw.h"
#include "kernels/cpu.h"

namespace weft::kernels {
namespace {

constexpr int64_t kBlock = 1024;
constexpr int64_t kGrain = 16 * kBlock;

struct Buffers {
  float p[kBlock], g[kBlock], m[kBlock], v[kBlock];
};

template <class T>
WEFT_CLONES void load(const T* from, float* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = to_f32(from[i]);
}
template <class T>
WEFT_CLONES void store(const float* from, T* to, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = from_f32<T>(from[i]);
}
void load(const void* from, DType dtype, int64_t at, float* to, int64_t n) {
  dtype == DType::kF32 ? load(static_cast<const float*>(from) + at, to, n) : load(static_cast<const bf16*>(from) + at, to, n);
}
void store(const float* from, void* to, DType dtype, int64_t at, int64_t n) {
  dtype == DType::kF32 ? store(from, static_cast<float*>(to) + at, n) : store(from, static_cast<bf16*>(to) + at, n);
}

struct Coefficients {
  float scale, lr, step, root, beta1, beta2, eps, decay;
  bool decoupled;
};

WEFT_CLONES void update(float* p, float* g, float* m, float* v, int64_t n, const Coefficients& k) {
  const float coupled = k.decoupled ? 0.0f : k.decay, apart = k.decoupled ? k.lr * k.decay : 0.0f;
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const float grad = g[i] * k.scale + coupled * p[i];
    m[i] = k.beta1 * m[i] + (1 - k.beta1) * grad;
    v[i] = k.beta2 * v[i] + (1 - k.beta2) * grad * grad;
    p[i] = (p[i] - apart * p[i]) - k.step * m[i] / (std::sqrt(v[i]) * k.root + k.eps);
  }
}

// fp32 to bf16 with 16 random bits added below the kept ones: up with a probability equal to what is cut off.
void round_stochastic(float* f, int64_t n, const AdamW& a, int64_t index, uint32_t which) {
  for (int64_t i = 0; i < n; i += 8) {
    const uint64_t at = static_cast<uint64_t>(a.first_index + index + i) / 8;
    const rng::Block words = rng::philox({static_cast<uint32_t>(at), static_cast<uint32_t>(at >> 32), static_cast<uint32_t>(a.step),
                                          (static_cast<uint32_t>(a.step >> 32) << 2) | which},
                                         a.seed);
    for (int64_t j = 0; j < 8 && i + j < n; ++j) {
      const uint32_t u = std::bit_cast<uint32_t>(f[i + j]), word = words[static_cast<size_t>(j / 2)];
      if ((u & 0x7f800000u) == 0x7f800000u) continue;  // inf and nan
      f[i + j] = std::bit_cast<float>((u + (j % 2 == 0 ? word & 0xffffu : word >> 16)) & 0xffff0000u);
    }
  }
}

void run_block(const AdamW& a, const Coefficients& k, int64_t at, int64_t n, Buffers& b) {
  load(a.grad, a.grad_dtype, at, b.g, n);
  load(a.exp_avg, a.moment_dtype, at, b.m, n);
  load(a.exp_avg_sq, a.moment_dtype, at, b.v, n);
  if (a.master != nullptr)
    load(a.master + at, b.p, n);
  else
    load(a.param, a.param_dtype, at, b.p, n);
  if (a.remainder != nullptr)
    for (int64_t i = 0; i < n; ++i) {  // undo the carry of rounding half up
      const uint32_t low = a.remainder[at + i];
      b.p[i] = std::bit_cast<float>(std::bit_cast<uint32_t>(b.p[i]) - ((low & 0x8000u) << 1) + low);
    }
  update(b.p, b.g, b.m, b.v, n, k);
  if (a.stochastic && a.moment_dtype == DType::kBf16) round_stochastic(b.m, n, a, at, 1), round_stochastic(b.v, n, a, at, 2);
  store(b.m, a.exp_avg, a.moment_dtype, at, n);
  store(b.v, a.exp_avg_sq, a.moment_dtype, at, n);
  if (a.master != nullptr) {
    store(b.p, a.master + at, n);
  } else if (a.remainder != nullptr) {
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t u = std::bit_cast<uint32_t>(b.p[i]);
      a.remainder[at + i] = static_cast<uint16_t>(u & 0xffffu);
      b.p[i] = std::bit_cast<float>((u + 0x8000u) & 0xffff0000u);  // half up: the remainder's top bit tells the carry
    }
  } else if (a.stochastic && a.param_dtype == DType::kBf16) {
    round_stochastic(b.p, n, a, at, 0);
  }
  store(b.p, a.param, a.param_dtype, at, n);
}

}  // namespace

Support supports_adamw_cpu(const AdamW& a, const Device& device) {
  if (const Support s = on_cpu(device); !s) return s;
  for (const DType t : {a.param_dtype, a.grad_dtype, a.moment_dtype})
    if (t != DType::kF32 && t != DType::kBf16) return {"a dtype is not f32 or bf16"};
  if (a.remainder != nullptr && (a.param_dtype != DType::kBf16 || a.master != nullptr)) return {"remainder needs a bf16 param and no master"};
  if (a.stochastic && a.first_index % 8 != 0) return {"stochastic rounding needs first_index in multiples of 8"};
  return {};
}

void adamw_cpu(const AdamW& a, const Launch& launch) {
  if (a.skip != nullptr && *a.skip != 0) return;
  const float lr = a.scalars == nullptr ? a.lr : a.scalars[0];
  const float c1 = a.scalars == nullptr ? a.correction1 : a.scalars[1], c2 = a.scalars == nullptr ? a.correction2 : a.scalars[2];
  const Coefficients k{a.grad_scale == nullptr ? 1.0f : *a.grad_scale, lr, lr / c1, 1.0f / std::sqrt(c2), a.beta1, a.beta2, a.eps, a.decay, a.decoupled};
  const int64_t blocks = (a.count + kBlock - 1) / kBlock;
  parallel_for(launch.parallel, blocks, kGrain / kBlock, [&](int64_t begin, int64_t end) {
    Buffers b;
    for (int64_t at = begin * kBlock; at < std::min(a.count, end * kBlock); at += kBlock) run_block(a, k, at, std::min(kBlock, a.count - at), b);
  });
}

}  // namespace weft::kernels
