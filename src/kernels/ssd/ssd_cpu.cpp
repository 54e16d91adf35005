// A task is one head of one document, chunk after chunk with the state [N, P] in fp32. In a chunk, cs = running sum of A dt:
//   y_i = sum_{j<=i} (C_i.B_j) e^{cs_i - cs_j} dt_j x_j + e^{cs_i} S^T C_i + D x_i;   S <- e^{cs_end} S + sum_j e^{cs_end - cs_j} dt_j B_j x_j^T
// Five small GEMMs; bound: flops.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/ssd/ssd.h"
#include "kernels/tile/pack_cpu.h"

namespace weft::kernels {
namespace {

using namespace tile;

constexpr int32_t L = kSsdChunk;

// One row of the decayed lower triangle: m_j = cb_j e^{cs_i - cs_j} dt_j for j < count, 0 beyond.
template <class E>
WEFT_CLONES void decay_row(const float* cb, const float* cs, const float* dt, float cs_i, int32_t count, E* m) {
#pragma omp simd
  for (int32_t j = 0; j < count; ++j) m[j] = convert<E>(cb[j] * exp_f32(cs_i - cs[j]) * dt[j]);
  for (int32_t j = count; j < L; ++j) m[j] = E{};
}

template <class E>
WEFT_CLONES void scaled_row(const E* in, float s, E* out, int32_t n) {
#pragma omp simd
  for (int32_t c = 0; c < n; ++c) out[c] = from_f32<E>(to_f32(in[c]) * s);
}

template <class T>
WEFT_CLONES void finish_row(const float* y, const T* x, float d, T* out, int32_t n) {
#pragma omp simd
  for (int32_t c = 0; c < n; ++c) out[c] = from_f32<T>(y[c] + d * to_f32(x[c]));
}

WEFT_CLONES void scale(float* s, float by, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) s[i] *= by;
}

template <class T, class E>
void run(const SsdFwd& a, const Launch& launch) {
  const int32_t H = a.heads, P = a.head_dim, N = a.state_dim, Pp = round_up(P, kPanel), Np = round_up(N, kPanel);
  parallel_for(launch.parallel, a.documents * H, 1, [&](int64_t begin, int64_t end) {
    const auto size = [](int32_t r, int32_t c) { return static_cast<size_t>(r) * static_cast<size_t>(c); };
    std::vector<E> c_rows(size(L, Np)), c_scaled(size(L, Np)), b_packed(size(L, Np)), b_rows(size(L, Np)), b_t(size(Np, L)), x_packed(size(L, Pp)), m(size(L, L)), s_packed(size(Np, Pp));
    std::vector<float> cb(size(L, L)), y(size(L, Pp)), S(size(Np, Pp));
    float cs[L], dt[L];
    for (int64_t task = begin; task < end; ++task) {
      const int64_t d = task % a.documents;
      const int32_t h = static_cast<int32_t>(task / a.documents), g = h / (H / a.groups);
      const int64_t first = a.cu_seqlens[d], last = a.cu_seqlens[d + 1];
      std::fill(S.begin(), S.end(), 0.0f);
      if (a.initial_state != nullptr)
        for (int32_t p = 0; p < P; ++p)
          for (int32_t n = 0; n < N; ++n) S[size(n, Pp) + static_cast<size_t>(p)] = a.initial_state[((d * H + h) * P + p) * N + n];
      const T* x = static_cast<const T*>(a.x) + static_cast<int64_t>(h) * P;
      for (int64_t t0 = first; t0 < last; t0 += L) {
        const int32_t n = static_cast<int32_t>(std::min<int64_t>(L, last - t0));
        float sum = 0;
        for (int32_t i = 0; i < L; ++i) {
          dt[i] = i < n ? a.dt[(t0 + i) * H + h] : 0.0f;
          cs[i] = sum += dt[i] * a.A[h];
        }
        const T* B = static_cast<const T*>(a.B) + t0 * a.B_stride + static_cast<int64_t>(g) * N;
        copy_rows<E>(static_cast<const T*>(a.C) + t0 * a.C_stride + static_cast<int64_t>(g) * N, a.C_stride, n, N, c_rows.data(), L, Np);
        pack_transposed<E>(B, a.B_stride, n, N, b_packed.data(), L, Np);
        copy_rows<E>(B, a.B_stride, n, N, b_rows.data(), L, Np);
        pack_rows<E>(x + t0 * a.x_stride, a.x_stride, n, P, x_packed.data(), L, Pp);
        for (int32_t c = 0; c < L; c += kPanel) gemm(c_rows.data(), Np, b_packed.data() + c * Np, cb.data() + c, L, L, Np, false);
        for (int32_t i = 0; i < L; ++i) {
          decay_row(cb.data() + i * L, cs, dt, cs[i], i < n ? i + 1 : 0, m.data() + i * L);
          scaled_row(c_rows.data() + i * Np, exp_f32(cs[i]), c_scaled.data() + i * Np, Np);
        }
        pack_rows<E>(S.data(), Pp, N, Pp, s_packed.data(), Np, Pp);
        for (int32_t c = 0; c < Pp; c += kPanel) {
          gemm(m.data(), L, x_packed.data() + static_cast<int64_t>(c) * L, y.data() + c, Pp, L, L, false);
          gemm(c_scaled.data(), Np, s_packed.data() + static_cast<int64_t>(c) * Np, y.data() + c, Pp, L, Np, true);
        }
        for (int32_t i = 0; i < n; ++i)
          finish_row(y.data() + i * Pp, x + (t0 + i) * a.x_stride, a.D == nullptr ? 0.0f : a.D[h], static_cast<T*>(a.y) + ((t0 + i) * H + h) * P, P);
        for (int32_t j = 0; j < L; ++j) scaled_row(b_rows.data() + j * Np, dt[j] * exp_f32(cs[L - 1] - cs[j]), b_rows.data() + j * Np, Np);
        turn(b_rows.data(), Np, b_t.data(), L, Np, L);
        scale(S.data(), exp_f32(cs[L - 1]), static_cast<int64_t>(S.size()));
        for (int32_t c = 0; c < Pp; c += kPanel) gemm(b_t.data(), L, x_packed.data() + static_cast<int64_t>(c) * L, S.data() + c, Pp, Np, L, true);
      }
      if (a.final_state != nullptr)
        for (int32_t p = 0; p < P; ++p)
          for (int32_t n = 0; n < N; ++n) a.final_state[((d * H + h) * P + p) * N + n] = S[size(n, Pp) + static_cast<size_t>(p)];
    }
  });
}

template <class T>
WEFT_CLONES float step_row(float* S, const T* B, const T* C, float decay, float u, int32_t N) {
  float y = 0;
#pragma omp simd reduction(+ : y)
  for (int32_t n = 0; n < N; ++n) {
    S[n] = decay * S[n] + u * to_f32(B[n]);
    y += S[n] * to_f32(C[n]);
  }
  return y;
}

template <class T>
void run_step(const SsdStep& a, const Launch& launch) {
  const int32_t H = a.heads, P = a.head_dim, N = a.state_dim;
  parallel_for(launch.parallel, a.rows * H, 1 + 65536 / (P * N + 1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t r = i / H, slot = a.slots == nullptr ? r : a.slots[r];
      if (slot < 0) continue;
      const int32_t h = static_cast<int32_t>(i % H), g = h / (H / a.groups);
      const float dt = a.dt[r * H + h], decay = std::exp(dt * a.A[h]);
      for (int32_t p = 0; p < P; ++p) {
        const float x = to_f32(static_cast<const T*>(a.x)[r * a.x_stride + h * P + p]);
        const float y = step_row(a.state + ((slot * H + h) * P + p) * N, static_cast<const T*>(a.B) + r * a.B_stride + g * N,
                                 static_cast<const T*>(a.C) + r * a.C_stride + g * N, decay, dt * x, N);
        static_cast<T*>(a.y)[(r * H + h) * P + p] = from_f32<T>(y + (a.D == nullptr ? 0.0f : a.D[h] * x));
      }
    }
  });
}

}  // namespace

Support supports_ssd_fwd_cpu(const SsdFwd& a, const Device& device) { return on_cpu(device, a.dtype); }
Support supports_ssd_step_cpu(const SsdStep& a, const Device& device) { return on_cpu(device, a.dtype); }

void ssd_fwd_cpu(const SsdFwd& a, const Launch& launch) {
  if (a.dtype == DType::kF32) return run<float, float>(a, launch);
  bf16_dot() ? run<bf16, bf16>(a, launch) : run<bf16, float>(a, launch);
}

void ssd_step_cpu(const SsdStep& a, const Launch& launch) { a.dtype == DType::kF32 ? run_step<float>(a, launch) : run_step<bf16>(a, launch); }

}  // namespace weft::kernels
