// A block a row. Forward: running maximum m and sum z of both rows and a = sum e^{t - m_t} (t - s), rescaled as the maxima grow:
//   loss = a / z_t - (m_t + log z_t) + (m_s + log z_s)
// Backward: four blocks' worth of a row in flight, two exponentials an element.
#include "kernels/common/device.cuh"
#include "kernels/kl/kl.h"

namespace weft::kernels {
namespace {

constexpr int kThreads = 512;
constexpr float kLog2 = 0.6931471805599453f;

// Of a part of a row; c = log2(e) / temperature. Maxima are of the logits as they are, at least kLowest, so that a part in which nothing is
// finite has sums of 0 and no NaN of a difference of infinities. One exponential an element and side, of the difference times c.
struct Sums {
  static constexpr float kLowest = -3.4028234663852886e38f;
  float max_s, z_s, max_t, z_t, a;
  static __device__ __forceinline__ Sums none() { return {kLowest, 0, kLowest, 0, 0}; }
  __device__ __forceinline__ void merge(const Sums& o, float c) {
    const float s = fmaxf(max_s, o.max_s), t = fmaxf(max_t, o.max_t);
    const float s0 = exp2_fast((max_s - s) * c), s1 = exp2_fast((o.max_s - s) * c), t0 = exp2_fast((max_t - t) * c), t1 = exp2_fast((o.max_t - t) * c);
    z_s = z_s * s0 + o.z_s * s1, z_t = z_t * t0 + o.z_t * t1;
    a = (t0 == 0.f ? 0.f : a * t0) + (t1 == 0.f ? 0.f : o.a * t1);  // a may be infinite
    max_s = s, max_t = t;
  }
  // Eight logits of each side and their largest.
  __device__ __forceinline__ void add(const float (&s)[8], const float (&t)[8], int count, float most_s, float most_t, float c) {
    const float ms = fmaxf(max_s, most_s), mt = fmaxf(max_t, most_t), r = exp2_fast((max_t - mt) * c);
    z_s *= exp2_fast((max_s - ms) * c), z_t *= r, a = r == 0.f ? 0.f : a * r;
    max_s = ms, max_t = mt;
    float zs[2] = {}, zt[2] = {}, sum[2] = {};  // two chains
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (i < count) {
        const float e = exp2_fast((t[i] - mt) * c);
        zs[i & 1] += exp2_fast((s[i] - ms) * c), zt[i & 1] += e;
        if (e != 0.f) sum[i & 1] += e * (t[i] - s[i]);  // also where e is NaN
      }
    z_s += zs[0] + zs[1], z_t += zt[0] + zt[1], a += sum[0] + sum[1];
  }
};

// The largest of eight as they lie in memory: of bf16 two at a time. NaN is passed over; its exponential shows it.
__device__ __forceinline__ float largest(const dev::Vec8<float>& v) {
  return fmaxf(fmaxf(fmaxf(v.low.x, v.low.y), fmaxf(v.low.z, v.low.w)), fmaxf(fmaxf(v.high.x, v.high.y), fmaxf(v.high.z, v.high.w)));
}
__device__ __forceinline__ float largest(const dev::Vec8<dev::bf16>& v) {
#if defined(WEFT_EMULATE)
  float f[8], m = -INFINITY;
  dev::unpack(v, f);
  for (float x : f) m = fmaxf(m, x);
  return m;
#else
  __nv_bfloat162 w[4];
  memcpy(w, &v, sizeof(w));
  const __nv_bfloat162 m = __hmax2(__hmax2(w[0], w[1]), __hmax2(w[2], w[3]));
  return fmaxf(__low2float(m), __high2float(m));
#endif
}

template <class T>
__device__ __forceinline__ void load_scaled(const T* p, int count, bool full, float scale, float (&f)[8]) {
  dev::load_some(p, count, full, f);
#pragma unroll
  for (int i = 0; i < 8; ++i) f[i] *= scale;
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2) kl_fwd_kernel(const KlFwd a, bool aligned) {
  constexpr int kAhead = sizeof(T) == 2 ? 2 : 1;
  __shared__ Sums parts[kThreads / 32];
  const int64_t row = blockIdx.x;
  const T *s = static_cast<const T*>(a.student) + row * a.vocab, *t = static_cast<const T*>(a.teacher) + row * a.vocab;
  const float c = 1.f / (kLog2 * a.temperature);
  Sums sums = Sums::none();
  int64_t v = threadIdx.x * 8;
  if (aligned) {  // a round's loads are asked for before the round before it is worked on
    dev::Vec8<T> next_s[kAhead], next_t[kAhead];
    constexpr int64_t kRound = kThreads * 8 * kAhead;
    const int64_t whole = a.vocab / kRound * kRound;
    auto ask = [&](int64_t at) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) next_s[i] = dev::load8(s + at + i * kThreads * 8), next_t[i] = dev::load8(t + at + i * kThreads * 8);
    };
    if (v < whole) ask(v);
    while (v < whole) {
      dev::Vec8<T> raw_s[kAhead], raw_t[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) raw_s[i] = next_s[i], raw_t[i] = next_t[i];
      v += kRound;
      if (v < whole) ask(v);
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        float fs[8], ft[8];
        dev::unpack(raw_s[i], fs), dev::unpack(raw_t[i], ft);
        sums.add(fs, ft, 8, largest(raw_s[i]), largest(raw_t[i]), c);
      }
    }
  }
  for (; v < a.vocab; v += kThreads * 8) {
    const int count = static_cast<int>(a.vocab - v < 8 ? a.vocab - v : 8);
    float fs[8], ft[8], most_s = -INFINITY, most_t = -INFINITY;
    dev::load_some(s + v, count, aligned && count == 8, fs), dev::load_some(t + v, count, aligned && count == 8, ft);
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (i < count) most_s = fmaxf(most_s, fs[i]), most_t = fmaxf(most_t, ft[i]);
    sums.add(fs, ft, count, most_s, most_t, c);
  }
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) {
    Sums other;
    other.max_s = __shfl_xor_sync(0xffffffffu, sums.max_s, o), other.z_s = __shfl_xor_sync(0xffffffffu, sums.z_s, o);
    other.max_t = __shfl_xor_sync(0xffffffffu, sums.max_t, o), other.z_t = __shfl_xor_sync(0xffffffffu, sums.z_t, o), other.a = __shfl_xor_sync(0xffffffffu, sums.a, o);
    sums.merge(other, c);
  }
  if (lane_id() == 0) parts[warp_id()] = sums;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < kThreads / 32; ++w) sums.merge(parts[w], c);
  const float scale = 1.f / a.temperature, log_s = sums.max_s * scale + logf(sums.z_s), log_t = sums.max_t * scale + logf(sums.z_t);
  a.loss[row] = sums.a / sums.z_t * scale + (log_s - log_t);
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
