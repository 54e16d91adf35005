// Eight elements a thread.
#include "kernels/newton_schulz/newton_schulz.h"

#include "kernels/common/flat.cuh"

namespace weft::kernels {
namespace {

using namespace dev;

template <class G>
__global__ void __launch_bounds__(kFlatThreads) momentum(MuonMomentum a, bool aligned) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kFlatThreads + threadIdx.x) * 8;
  if (i >= a.count) return;
  const int count = a.count - i < 8 ? static_cast<int>(a.count - i) : 8;
  const bool full = aligned && count == 8;
  float g[8], m[8];
  load_some(static_cast<const G*>(a.grad) + i, count, full, g);
  load_some(a.momentum + i, count, full, m);
  const float scale = a.grad_scale == nullptr ? 1.0f : *a.grad_scale;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    g[j] *= scale;
    m[j] += (1 - a.mu) * (g[j] - m[j]);
    g[j] = a.nesterov ? g[j] + a.mu * (m[j] - g[j]) : m[j];
  }
  store_some(a.momentum + i, count, full, m);
  store_some(a.u + i, count, full, g);
}

template <class T>
__global__ void __launch_bounds__(kFlatThreads) scale_by_norm(ScaleByNorm a, bool aligned) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kFlatThreads + threadIdx.x) * 8;
  if (i >= a.count) return;
  const int count = a.count - i < 8 ? static_cast<int>(a.count - i) : 8;
  const bool full = aligned && count == 8;
  float f[8];
  load_some(a.x + i, count, full, f);
  const float norm = static_cast<float>(sqrt(*a.sum_sq)), scale = 1.0f / (norm > 1e-15f ? norm : (norm != norm ? norm : 1e-15f));
#pragma unroll
  for (int j = 0; j < 8; ++j) f[j] *= scale;
  store_some(static_cast<T*>(a.y) + i, count, full, f);
}

template <class T>
__global__ void __launch_bounds__(kFlatThreads) polynomial(Polynomial a, bool aligned) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kFlatThreads + threadIdx.x) * 8;
  if (i >= a.count) return;
  const int count = a.count - i < 8 ? static_cast<int>(a.count - i) : 8;
  const bool full = aligned && count == 8;
  float x[8], z[8];
  load_some(static_cast<const T*>(a.x) + i, count, full, x);
  load_some(static_cast<const T*>(a.z) + i, count, full, z);
#pragma unroll
  for (int j = 0; j < 8; ++j) x[j] = a.a * x[j] + a.b * z[j];
  store_some(static_cast<T*>(a.y) + i, count, full, x);
}

}  // namespace

Support supports_muon_momentum_sm90(const MuonMomentum& a, const Device& d) { return on_sm90(d, a.grad_dtype); }
Support supports_scale_by_norm_sm90(const ScaleByNorm& a, const Device& d) { return on_sm90(d, a.to); }
Support supports_polynomial_sm90(const Polynomial& a, const Device& d) { return on_sm90(d, a.dtype); }

void muon_momentum_sm90(const MuonMomentum& a, const Launch& launch) {
  if (a.count == 0) return;
  const bool aligned = is_aligned(a.grad, 16) && is_aligned(a.momentum, 16) && is_aligned(a.u, 16);
  with_float_type(a.grad_dtype, [&](auto type) {
    launch_grid(momentum<typename decltype(type)::type>, dim3(flat_grid(ceil_div(a.count, 8), 1)), dim3(kFlatThreads), 0,
                launch.stream, a, aligned);
  });
}

void scale_by_norm_sm90(const ScaleByNorm& a, const Launch& launch) {
  if (a.count == 0) return;
  const bool aligned = is_aligned(a.x, 16) && is_aligned(a.y, 16);
  with_float_type(a.to, [&](auto type) {
    launch_grid(scale_by_norm<typename decltype(type)::type>, dim3(flat_grid(ceil_div(a.count, 8), 1)), dim3(kFlatThreads), 0,
                launch.stream, a, aligned);
  });
}

void polynomial_sm90(const Polynomial& a, const Launch& launch) {
  if (a.count == 0) return;
  const bool aligned = is_aligned(a.x, 16) && is_aligned(a.z, 16) && is_aligned(a.y, 16);
  with_float_type(a.dtype, [&](auto type) {
    launch_grid(polynomial<typename decltype(type)::type>, dim3(flat_grid(ceil_div(a.count, 8), 1)), dim3(kFlatThreads), 0,
                launch.stream, a, aligned);
  });
}

}  // namespace weft::kernels
