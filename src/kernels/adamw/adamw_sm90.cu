// Eight elements a thread, one pass: every load is issued before the first use.
#include "kernels/adamw/adamw.h"
#include "kernels/common/flat.cuh"
#include "kernels/common/random.cuh"

namespace weft::kernels {
namespace {

using namespace dev;

// fp32 to bf16 with 16 random bits added below the kept ones: up with a probability equal to what is cut off.
__device__ __forceinline__ float round_stochastic(float v, uint32_t bits16) {
  const uint32_t u = __float_as_uint(v);
  if ((u & 0x7f800000u) == 0x7f800000u) return v;  // inf and nan
  return __uint_as_float((u + bits16) & 0xffff0000u);
}

__device__ __forceinline__ void round_all(float (&f)[8], const AdamW& a, int64_t index, uint32_t which) {
  const uint64_t at = static_cast<uint64_t>(a.first_index + index) / 8;
  const uint4 r = philox(make_uint4(static_cast<uint32_t>(at), static_cast<uint32_t>(at >> 32), static_cast<uint32_t>(a.step),
                                    (static_cast<uint32_t>(a.step >> 32) << 2) | which),
                         philox_key(a.seed));
  const uint32_t words[4] = {r.x, r.y, r.z, r.w};
#pragma unroll
  for (int j = 0; j < 8; ++j) f[j] = round_stochastic(f[j], j % 2 == 0 ? words[j / 2] & 0xffffu : words[j / 2] >> 16);
}

template <class P, class G, class M>
__global__ void __launch_bounds__(kFlatThreads) adamw(AdamW a, bool aligned) {
  if (a.skip != nullptr && *a.skip != 0) return;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kFlatThreads + threadIdx.x) * 8;
  if (i >= a.count) return;
  const int count = a.count - i < 8 ? static_cast<int>(a.count - i) : 8;
  const bool full = aligned && count == 8;
  P* param = static_cast<P*>(a.param);
  const Vec8<G> raw_g = load_raw(static_cast<const G*>(a.grad) + i, count, full);
  const Vec8<M> raw_m = load_raw(static_cast<const M*>(a.exp_avg) + i, count, full), raw_v = load_raw(static_cast<const M*>(a.exp_avg_sq) + i, count, full);
  Vec8<P> raw_p{};
  Vec8<float> raw_master{};
  if (a.master != nullptr)
    raw_master = load_raw(a.master + i, count, full);
  else
    raw_p = load_raw(param + i, count, full);
  float p[8], g[8], m[8], v[8];
  unpack(raw_g, g), unpack(raw_m, m), unpack(raw_v, v);
  if (a.master != nullptr) {
    unpack(raw_master, p);
  } else {
    unpack(raw_p, p);
    if (a.remainder != nullptr) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const uint32_t low = j < count ? a.remainder[i + j] : 0u;
        p[j] = __uint_as_float(__float_as_uint(p[j]) - ((low & 0x8000u) << 1) + low);  // undo the carry of rounding half up
      }
    }
  }
  const float scale = a.grad_scale == nullptr ? 1.0f : *a.grad_scale;
  const float lr = a.scalars == nullptr ? a.lr : a.scalars[0];
  const float correction1 = a.scalars == nullptr ? a.correction1 : a.scalars[1];
  const float correction2 = a.scalars == nullptr ? a.correction2 : a.scalars[2];
  const float step = lr / correction1, root = 1.0f / sqrtf(correction2);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    float grad = g[j] * scale;
    if (!a.decoupled) grad += a.decay * p[j];
    m[j] = a.beta1 * m[j] + (1 - a.beta1) * grad;
    v[j] = a.beta2 * v[j] + (1 - a.beta2) * grad * grad;
    if (a.decoupled) p[j] -= lr * a.decay * p[j];
    p[j] -= step * m[j] / (sqrtf(v[j]) * root + a.eps);
  }
  if (a.stochastic && sizeof(M) == 2) round_all(m, a, i, 1), round_all(v, a, i, 2);
  store_some(static_cast<M*>(a.exp_avg) + i, count, full, m);
  store_some(static_cast<M*>(a.exp_avg_sq) + i, count, full, v);
  if (a.master != nullptr) {
    store_some(a.master + i, count, full, p);
  } else if (a.remainder != nullptr) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const uint32_t u = __float_as_uint(p[j]);
      if (j < count) a.remainder[i + j] = static_cast<uint16_t>(u & 0xffffu);
      p[j] = __uint_as_float((u + 0x8000u) & 0xffff0000u);  // half up, so that the remainder's top bit tells the carry
    }
  } else if (a.stochastic && sizeof(P) == 2) {
    round_all(p, a, i, 0);
  }
  store_some(param + i, count, full, p);
}

}  // namespace

Support supports_adamw_sm90(const AdamW& a, const Device& d) {
  for (DType t : {a.param_dtype, a.grad_dtype, a.moment_dtype})
    if (t != DType::kF32 && t != DType::kBf16) return {"a dtype is not f32 or bf16"};
  if (a.remainder != nullptr && (a.param_dtype != DType::kBf16 || a.master != nullptr))
    return {"remainder needs a bf16 param and no master"};
  if (a.stochastic && a.first_index % 8 != 0) return {"stochastic rounding needs first_index in multiples of 8"};
  return on_sm90(d);
}

void adamw_sm90(const AdamW& a, const Launch& launch) {
  if (a.count == 0) return;
  bool aligned = true;
  for (const void* p : {static_cast<const void*>(a.param), static_cast<const void*>(a.master), static_cast<const void*>(a.grad),
                        static_cast<const void*>(a.exp_avg), static_cast<const void*>(a.exp_avg_sq)})
    aligned = aligned && is_aligned(p, 16);
  with_float_type(a.param_dtype, [&](auto p) {
    with_float_type(a.grad_dtype, [&](auto g) {
      with_float_type(a.moment_dtype, [&](auto m) {
        launch_grid(adamw<typename decltype(p)::type, typename decltype(g)::type, typename decltype(m)::type>,
                    dim3(flat_grid(ceil_div(a.count, 8), 1)), dim3(kFlatThreads), 0, launch.stream, a, aligned);
      });
    });
  });
}

}  // namespace weft::kernels
