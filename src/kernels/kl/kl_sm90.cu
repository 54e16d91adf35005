// A block a row. Forward: running maximum m and sum z of both rows and a = sum e^{t - m_t} (t - s), rescaled as the maxima grow:
//   loss = a / z_t - (m_t + log z_t) + (m_s + log z_s)
// Backward: four blocks' worth of a row in flight, two exponentials an element.
#include "kernels/common/device.cuh"
#include "kernels/kl/kl.h"

namespace weft::kernels {
namespace {

constexpr int kThreads = 512;

struct Sums {
  float max_s, z_s, max_t, z_t, a;
  static __device__ __forceinline__ Sums none() { return {-INFINITY, 0, -INFINITY, 0, 0}; }
  __device__ __forceinline__ void merge(const Sums& o) {
    const float s = fmaxf(max_s, o.max_s), t = fmaxf(max_t, o.max_t);
    // A side that saw nothing finite has sum 0 (or NaN, which stays).
    const float s0 = max_s == s ? 1.f : __expf(max_s - s), s1 = o.max_s == s ? 1.f : __expf(o.max_s - s), t0 = max_t == t ? 1.f : __expf(max_t - t), t1 = o.max_t == t ? 1.f : __expf(o.max_t - t);
    z_s = z_s * s0 + o.z_s * s1, z_t = z_t * t0 + o.z_t * t1;
    a = (t0 == 0.f ? 0.f : a * t0) + (t1 == 0.f ? 0.f : o.a * t1);
    max_s = s, max_t = t;
  }
  __device__ __forceinline__ void add8(const float (&s)[8], const float (&t)[8], int count) {
    Sums o = none();
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (i < count) o.max_s = fmaxf(o.max_s, s[i]), o.max_t = fmaxf(o.max_t, t[i]);
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (i < count) {
        o.z_s += s[i] == -INFINITY ? 0.f : __expf(s[i] - o.max_s);
        const float e = t[i] == -INFINITY ? 0.f : __expf(t[i] - o.max_t);
        o.z_t += e;
        if (e != 0.f) o.a += e * (t[i] - s[i]);  // also where e is NaN
      }
    merge(o);
  }
};

template <class T>
__device__ __forceinline__ void load_scaled(const T* p, int count, bool full, float scale, float (&f)[8]) {
  dev::load_some(p, count, full, f);
#pragma unroll
  for (int i = 0; i < 8; ++i) f[i] *= scale;
}

template <class T>
__global__ void __launch_bounds__(kThreads) kl_fwd_kernel(const KlFwd a, bool aligned) {
  __shared__ Sums parts[kThreads / 32];
  const int64_t row = blockIdx.x;
  const T *s = static_cast<const T*>(a.student) + row * a.vocab, *t = static_cast<const T*>(a.teacher) + row * a.vocab;
  const float scale = 1.f / a.temperature;
  Sums sums = Sums::none();
  int64_t v = threadIdx.x * 8;
  if (aligned)
    for (; v + kThreads * 8 < a.vocab; v += kThreads * 16) {  // four loads in flight
      float fs[2][8], ft[2][8];
#pragma unroll
      for (int i = 0; i < 2; ++i) load_scaled(s + v + i * kThreads * 8, 8, true, scale, fs[i]), load_scaled(t + v + i * kThreads * 8, 8, true, scale, ft[i]);
      sums.add8(fs[0], ft[0], 8), sums.add8(fs[1], ft[1], 8);
    }
  for (; v < a.vocab; v += kThreads * 8) {
    const int count = static_cast<int>(a.vocab - v < 8 ? a.vocab - v : 8);
    float fs[8], ft[8];
    load_scaled(s + v, count, aligned && count == 8, scale, fs), load_scaled(t + v, count, aligned && count == 8, scale, ft);
    sums.add8(fs, ft, count);
  }
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) {
    Sums other;
    other.max_s = __shfl_xor_sync(0xffffffffu, sums.max_s, o), other.z_s = __shfl_xor_sync(0xffffffffu, sums.z_s, o);
    other.max_t = __shfl_xor_sync(0xffffffffu, sums.max_t, o), other.z_t = __shfl_xor_sync(0xffffffffu, sums.z_t, o), other.a = __shfl_xor_sync(0xffffffffu, sums.a, o);
    sums.merge(other);
  }
  if (lane_id() == 0) parts[warp_id()] = sums;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kThreads / 32; ++w) sums.merge(parts[w]);
  const float log_s = sums.max_s + logf(sums.z_s), log_t = sums.max_t + logf(sums.z_t);
  a.loss[row] = sums.a / sums.z_t + (log_s - log_t);
  if (a.log_sums) a.log_sums[row] = log_s, a.log_sums[a.tokens + row] = log_t;
}

template <class T>
__global__ void __launch_bounds__(kThreads) kl_bwd_kernel(const KlBwd a, bool aligned) {
  const int64_t row = blockIdx.x;
  const T *s = static_cast<const T*>(a.student) + row * a.vocab, *t = static_cast<const T*>(a.teacher) + row * a.vocab;
  T* d = static_cast<T*>(a.d_student) + row * a.vocab;
  const float scale = 1.f / a.temperature, g = a.d_loss[row] * scale, log_s = a.log_sums[row], log_t = a.log_sums[a.tokens + row];
  for (int64_t v = threadIdx.x * 8; v < a.vocab; v += kThreads * 8) {
    const int count = static_cast<int>(a.vocab - v < 8 ? a.vocab - v : 8);
    float fs[8], ft[8];
    load_scaled(s + v, count, aligned && count == 8, scale, fs), load_scaled(t + v, count, aligned && count == 8, scale, ft);
#pragma unroll
    for (int i = 0; i < 8; ++i) fs[i] = g * (__expf(fs[i] - log_s) - __expf(ft[i] - log_t));
    dev::store_some(d + v, count, aligned && count == 8, fs);
  }
}

template <class Args>
Support fits(const Args& a, const Device& d) {
  if (!(a.temperature > 0)) return {"temperature is not above 0"};
  if (a.tokens >= int64_t{1} << 31) return {"2^31 rows or more"};
  return on_sm90(d, a.dtype);
}
template <class Args>
bool rows_aligned(const Args& a) { return a.vocab % 8 == 0 && is_aligned(a.student, 16) && is_aligned(a.teacher, 16); }

}  // namespace

Support supports_kl_fwd_sm90(const KlFwd& a, const Device& d) { return fits(a, d); }
Support supports_kl_bwd_sm90(const KlBwd& a, const Device& d) { return fits(a, d); }

void kl_fwd_sm90(const KlFwd& a, const Launch& launch) {
  if (a.tokens == 0) return;
  with_float_type(a.dtype, [&](auto type) { launch_grid(kl_fwd_kernel<typename decltype(type)::type>, dim3(static_cast<unsigned>(a.tokens)), dim3(kThreads), 0, launch.stream, a, rows_aligned(a)); });
}
void kl_bwd_sm90(const KlBwd& a, const Launch& launch) {
  if (a.tokens == 0) return;
  const bool aligned = rows_aligned(a) && is_aligned(a.d_student, 16);
  with_float_type(a.dtype, [&](auto type) { launch_grid(kl_bwd_kernel<typename decltype(type)::type>, dim3(static_cast<unsigned>(a.tokens)), dim3(kThreads), 0, launch.stream, a, aligned); });
}

}  // namespace weft::kernels
