// Backward. A task is one head of one document: states forward once (kept per chunk in fp32), then chunks in reverse with dS.
// Tiles of pairs stand transposed (source token j is the row), so M^T and G^T are left operands as they come:
//   M^T = (B C^T) e^{cs_i - cs_j} dt_j     dM^T = x dY^T     G^T = dM^T e^{cs_i - cs_j} dt_j     W = M dM
//   dx_j = sum_i M_ij dy_i + w_j dS^T B_j + D dy_j         dB_j = sum_i G_ij C_i + w_j dS x_j     w_j = e^{cs_end - cs_j} dt_j
//   dC_i = sum_j G_ij B_j + e^{cs_i} S dy_i                 dS <- e^{cs_end} dS + sum_i e^{cs_i} C_i dy_i^T
//   dcs gathers row sums of W, minus column sums, and the end's terms; d(A dt) is its reverse running sum.
// dB and dC of the heads of a group are parts in the workspace, added in the order of heads.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/ssd/ssd.h"
#include "kernels/tile/pack_cpu.h"

namespace weft::kernels {
namespace {

using namespace tile;

constexpr int32_t L = kSsdChunk;

struct PairSums {
  float to[L], from[L], dt[L];  // sums of W over j and over i; of dM CB decay over i
};

// Row j of the transposed tile: i from j to n.
template <class E>
WEFT_CLONES void pair_row(const float* cb, const float* dm, const float* cs, float cs_j, float dt_j, int32_t j, int32_t n, E* m, E* g, float* to, float* from,
                          float* d_dt) {
  for (int32_t i = 0; i < L; ++i) m[i] = E{}, g[i] = E{};
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int32_t i = j; i < n; ++i) {
    const float decay = exp_f32(cs[i] - cs_j), plain = cb[i] * decay, grad = dm[i] * decay;
    const float w = dm[i] * plain;
    m[i] = convert<E>(plain * dt_j);
    g[i] = convert<E>(grad * dt_j);
    to[i] += w * dt_j;
    sum += w;
  }
  *from = sum * dt_j;
  *d_dt = sum;
}

template <class E>
WEFT_CLONES void scaled_row(const E* in, float s, E* out, int32_t n) {
#pragma omp simd
  for (int32_t c = 0; c < n; ++c) out[c] = from_f32<E>(to_f32(in[c]) * s);
}

template <class E>
WEFT_CLONES void add_products(const float* a, const E* b, float* out) {
#pragma omp simd
  for (int32_t i = 0; i < L; ++i) out[i] += a[i] * to_f32(b[i]);
}

template <class E>
WEFT_CLONES void scale_by(E* a, const float* b) {
#pragma omp simd
  for (int32_t i = 0; i < L; ++i) a[i] = from_f32<E>(to_f32(a[i]) * b[i]);
}

template <class E>
void transpose(const E* in, int32_t rows, int32_t cols, E* out) { turn(in, cols, out, rows, cols, rows); }  // [rows, cols] -> [cols, rows]

WEFT_CLONES float dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

template <class T>
WEFT_CLONES float dot_mixed(const T* a, const float* b, int32_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int32_t i = 0; i < n; ++i) sum += to_f32(a[i]) * b[i];
  return sum;
}

template <class T>
WEFT_CLONES float dot_rows(const T* a, const T* b, int32_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int32_t i = 0; i < n; ++i) sum += to_f32(a[i]) * to_f32(b[i]);
  return sum;
}

WEFT_CLONES void add_scaled(float* s, float by, const float* add, int32_t n) {
#pragma omp simd
  for (int32_t i = 0; i < n; ++i) s[i] += by * add[i];
}

WEFT_CLONES void scale_all(float* s, float by, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) s[i] *= by;
}

template <class T>
WEFT_CLONES void write_dx(const float* dx, float D, const T* dy, T* out, int32_t n) {
#pragma omp simd
  for (int32_t i = 0; i < n; ++i) out[i] = from_f32<T>(dx[i] + D * to_f32(dy[i]));
}

WEFT_CLONES void axpby(float* s, float by, const float* add, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) s[i] = s[i] * by + add[i];
}

template <class T, class E>
struct Task {
  const SsdBwd& a;
  int32_t H, P, N, Pp, Np;
  std::vector<E> b_rows, c_rows, x_rows, g_rows, c_panel, b_t, x_rowpanel, g_rowpanel, g_tpanel, g_scaled, c_rowpanel, c_t, s_rows, ds_rowpanel, ds_tpanel, x_scaled, m_t, g_t, pairs;
  std::vector<float> cb, dm, dx, v, dB, dC_t, S, dS, dS_off, states;
  float cs[L], dt[L], dcs[L], d_dt[L];
  double dA = 0, dD = 0;

  explicit Task(const SsdBwd& args) : a(args), H(a.heads), P(a.head_dim), N(a.state_dim), Pp(round_up(P, kPanel)), Np(round_up(N, kPanel)) {
    const size_t LN = size(L, Np), LP = size(L, Pp), NP = size(Np, Pp);
    for (auto* t : {&b_rows, &c_rows, &c_panel, &b_t, &c_rowpanel, &c_t}) t->resize(LN);
    for (auto* t : {&x_rows, &g_rows, &x_rowpanel, &g_rowpanel, &g_tpanel, &g_scaled, &x_scaled}) t->resize(LP);
    for (auto* t : {&s_rows, &ds_rowpanel, &ds_tpanel}) t->resize(NP);
    m_t.resize(size(L, L)), g_t.resize(size(L, L)), pairs.resize(size(L, L)), cb.resize(size(L, L)), dm.resize(size(L, L));
    dx.resize(LP), v.resize(LP), dB.resize(LN), dC_t.resize(LN), S.resize(NP), dS.resize(NP), dS_off.resize(NP);
  }
  static size_t size(int64_t r, int64_t c) { return static_cast<size_t>(r * c); }

  void load_decay(int64_t t0, int32_t n, int32_t h) {
    float sum = 0;
    for (int32_t i = 0; i < L; ++i) {
      dt[i] = i < n ? a.dt[(t0 + i) * H + h] : 0.0f;
      cs[i] = sum += dt[i] * a.A[h];
    }
  }

  // States before each chunk of the document, [chunks][Np, Pp].
  void forward(int64_t first, int64_t last, int64_t d, int32_t h, int32_t g) {
    const int64_t chunks = (last - first + L - 1) / L;
    const size_t NP = S.size();
    if (states.size() < static_cast<size_t>(chunks) * NP) states.resize(static_cast<size_t>(chunks) * NP);
    std::fill(S.begin(), S.end(), 0.0f);
    if (a.initial_state != nullptr)
      for (int32_t p = 0; p < P; ++p)
        for (int32_t n = 0; n < N; ++n) S[size(n, Pp) + static_cast<size_t>(p)] = a.initial_state[((d * H + h) * P + p) * N + n];
    for (int64_t c = 0; c < chunks; ++c) {
      std::copy(S.begin(), S.end(), states.begin() + static_cast<int64_t>(static_cast<size_t>(c) * NP));
      if (c + 1 == chunks) break;
      const int64_t t0 = first + c * L;
      load_decay(t0, L, h);
      copy_rows<E>(static_cast<const T*>(a.B) + t0 * a.B_stride + static_cast<int64_t>(g) * N, a.B_stride, L, N, b_rows.data(), L, Np);
      for (int32_t j = 0; j < L; ++j) scaled_row(b_rows.data() + j * Np, dt[j] * exp_f32(cs[L - 1] - cs[j]), b_rows.data() + j * Np, Np);
      transpose(b_rows.data(), L, Np, b_t.data());
      pack_rows<E>(static_cast<const T*>(a.x) + t0 * a.x_stride + static_cast<int64_t>(h) * P, a.x_stride, L, P, x_rowpanel.data(), L, Pp);
      const float keep = exp_f32(cs[L - 1]);
      scale_all(S.data(), keep, static_cast<int64_t>(NP));
      for (int32_t p = 0; p < Pp; p += kPanel) gemm(b_t.data(), L, x_rowpanel.data() + static_cast<int64_t>(p) * L, S.data() + p, Pp, Np, L, true);
    }
  }

  void backward_chunk(int64_t t0, int32_t n, int32_t h, int32_t g, const float* S_in, float* dB_parts, float* dC_parts) {
    load_decay(t0, n, h);
    const int64_t ld_y = static_cast<int64_t>(H) * P;
    const T* B = static_cast<const T*>(a.B) + t0 * a.B_stride + static_cast<int64_t>(g) * N;
    const T* C = static_cast<const T*>(a.C) + t0 * a.C_stride + static_cast<int64_t>(g) * N;
    const T* x = static_cast<const T*>(a.x) + t0 * a.x_stride + static_cast<int64_t>(h) * P;
    const T* dy = static_cast<const T*>(a.dy) + t0 * ld_y + static_cast<int64_t>(h) * P;
    copy_rows<E>(B, a.B_stride, n, N, b_rows.data(), L, Np);
    copy_rows<E>(C, a.C_stride, n, N, c_rows.data(), L, Np);
    copy_rows<E>(x, a.x_stride, n, P, x_rows.data(), L, Pp);
    copy_rows<E>(dy, ld_y, n, P, g_rows.data(), L, Pp);
    pack_transposed<E>(C, a.C_stride, n, N, c_panel.data(), L, Np);
    pack_rows<E>(C, a.C_stride, n, N, c_rowpanel.data(), L, Np);
    pack_transposed<E>(dy, ld_y, n, P, g_tpanel.data(), L, Pp);
    pack_rows<E>(dy, ld_y, n, P, g_rowpanel.data(), L, Pp);
    for (int32_t c = 0; c < L; c += kPanel) {
      gemm(b_rows.data(), Np, c_panel.data() + c * Np, cb.data() + c, L, L, Np, false);
      gemm(x_rows.data(), Pp, g_tpanel.data() + c * Pp, dm.data() + c, L, L, Pp, false);
    }
    PairSums sums{};
    for (int32_t j = 0; j < L; ++j)
      pair_row(cb.data() + j * L, dm.data() + j * L, cs, cs[j], dt[j], j, j < n ? n : j, m_t.data() + j * L, g_t.data() + j * L, sums.to, &sums.from[j], &sums.dt[j]);
    pack_rows<E>(g_t.data(), L, L, L, pairs.data(), L, L);
    for (int32_t i = 0; i < L; ++i) dcs[i] = sums.to[i] - sums.from[i], d_dt[i] = sums.dt[i];
    // The state that came in.
    for (int32_t i = 0; i < L; ++i) scaled_row(g_rows.data() + i * Pp, exp_f32(cs[i]), g_scaled.data() + i * Pp, Pp);
    copy_rows<E>(S_in, Pp, Np, Pp, s_rows.data(), Np, Pp);
    pack_transposed<E>(g_scaled.data(), Pp, L, Pp, g_tpanel.data(), L, Pp);
    for (int32_t c = 0; c < L; c += kPanel) gemm(s_rows.data(), Pp, g_tpanel.data() + c * Pp, dC_t.data() + c, L, Np, Pp, false);
    transpose(c_rows.data(), L, Np, c_t.data());
    for (int32_t k = 0; k < N; ++k) add_products(dC_t.data() + k * L, c_t.data() + k * L, dcs);
    transpose(b_rows.data(), L, Np, b_t.data());
    for (int32_t c = 0; c < L; c += kPanel) gemm(b_t.data(), L, pairs.data() + c * L, dC_t.data() + c, L, Np, L, true);
    // The state that goes out.
    const float keep = exp_f32(cs[L - 1]);
    pack_rows<E>(dS.data(), Pp, Np, Pp, ds_rowpanel.data(), Np, Pp);
    pack_transposed<E>(dS.data(), Pp, Np, Pp, ds_tpanel.data(), Np, Pp);
    float at_end = keep * dot(dS.data(), S_in, static_cast<int64_t>(dS.size()));
    for (int32_t c = 0; c < Pp; c += kPanel) {
      gemm(m_t.data(), L, g_rowpanel.data() + static_cast<int64_t>(c) * L, dx.data() + c, Pp, L, L, false);
      gemm(b_rows.data(), Np, ds_rowpanel.data() + static_cast<int64_t>(c) * Np, v.data() + c, Pp, L, Np, false);
    }
    for (int32_t j = 0; j < L; ++j) {
      const float e = exp_f32(cs[L - 1] - cs[j]), w = e * dt[j];
      const float dw = j < n ? dot_mixed(x_rows.data() + j * Pp, v.data() + j * Pp, Pp) : 0.0f;
      d_dt[j] += dw * e, dcs[j] -= dw * w, at_end += dw * w;
      scaled_row(x_rows.data() + j * Pp, w, x_scaled.data() + j * Pp, Pp);
      add_scaled(dx.data() + j * Pp, w, v.data() + j * Pp, Pp);
    }
    for (int32_t c = 0; c < Np; c += kPanel) {
      gemm(x_scaled.data(), Pp, ds_tpanel.data() + static_cast<int64_t>(c) * Pp, dB.data() + c, Np, L, Pp, false);
    }
    for (int32_t c = 0; c < Np; c += kPanel) gemm(g_t.data(), L, c_rowpanel.data() + static_cast<int64_t>(c) * L, dB.data() + c, Np, L, L, true);
    float into[L];
    for (int32_t i = 0; i < L; ++i) into[i] = exp_f32(cs[i]);
    for (int32_t k = 0; k < Np; ++k) scale_by(c_t.data() + k * L, into);
    for (int32_t c = 0; c < Pp; c += kPanel) gemm(c_t.data(), L, g_rowpanel.data() + static_cast<int64_t>(c) * L, dS_off.data() + c, Pp, Np, L, false);
    axpby(dS.data(), keep, dS_off.data(), static_cast<int64_t>(dS.size()));
    write(t0, n, h, at_end, x, dy, dB_parts, dC_parts);
  }

  void write(int64_t t0, int32_t n, int32_t h, float at_end, const T* x, const T* dy, float* dB_parts, float* dC_parts) {
    const float D = a.D == nullptr ? 0.0f : a.D[h];
    float da = at_end;
    for (int32_t i = L - 1; i >= 0; --i) {
      da += dcs[i];
      if (i >= n) continue;
      a.d_dt[(t0 + i) * H + h] = d_dt[i] + da * a.A[h];
      dA += static_cast<double>(da) * dt[i];
    }
    for (int32_t i = 0; i < n; ++i) {
      const T *x_i = x + i * a.x_stride, *dy_i = dy + static_cast<int64_t>(i) * H * P;
      if (a.D != nullptr) dD += dot_rows(x_i, dy_i, P);
      write_dx(dx.data() + i * Pp, D, dy_i, static_cast<T*>(a.dx) + ((t0 + i) * H + h) * P, P);
      std::copy_n(dB.data() + i * Np, N, dB_parts + ((t0 + i) * H + h) * N);
    }
    turn(dC_t.data(), L, dC_parts + (t0 * H + h) * N, static_cast<int64_t>(H) * N, n, N);
  }
};

template <class T>
WEFT_CLONES void add_heads(const float* parts, T* out, int32_t share, int32_t n) {
#pragma omp simd
  for (int32_t c = 0; c < n; ++c) {
    float sum = 0;
    for (int32_t h = 0; h < share; ++h) sum += parts[static_cast<int64_t>(h) * n + c];
    out[c] = from_f32<T>(sum);
  }
}

template <class T, class E>
void run(const SsdBwd& a, const Launch& launch) {
  const int32_t H = a.heads, N = a.state_dim, P = a.head_dim, share = H / a.groups;
  double* sums = static_cast<double*>(launch.workspace);  // [documents, H, 2]
  float* dB_parts = reinterpret_cast<float*>(sums + a.documents * H * 2);
  float* dC_parts = dB_parts + a.tokens * H * N;
  parallel_for(launch.parallel, a.documents * H, 1, [&](int64_t begin, int64_t end) {
    Task<T, E> task(a);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t d = i % a.documents;
      const int32_t h = static_cast<int32_t>(i / a.documents), g = h / share;
      const int64_t first = a.cu_seqlens[d], last = a.cu_seqlens[d + 1];
      task.dA = task.dD = 0;
      task.forward(first, last, d, h, g);
      std::fill(task.dS.begin(), task.dS.end(), 0.0f);
      if (a.d_final_state != nullptr)
        for (int32_t p = 0; p < P; ++p)
          for (int32_t n = 0; n < N; ++n) task.dS[Task<T, E>::size(n, task.Pp) + static_cast<size_t>(p)] = a.d_final_state[((d * H + h) * P + p) * N + n];
      const int64_t chunks = (last - first + L - 1) / L;
      for (int64_t c = chunks - 1; c >= 0; --c)
        task.backward_chunk(first + c * L, static_cast<int32_t>(std::min<int64_t>(L, last - first - c * L)), h, g,
                            task.states.data() + static_cast<size_t>(c) * task.dS.size(), dB_parts, dC_parts);
      if (a.d_initial_state != nullptr)
        for (int32_t p = 0; p < P; ++p)
          for (int32_t n = 0; n < N; ++n) a.d_initial_state[((d * H + h) * P + p) * N + n] = task.dS[Task<T, E>::size(n, task.Pp) + static_cast<size_t>(p)];
      sums[(d * H + h) * 2] = task.dA, sums[(d * H + h) * 2 + 1] = task.dD;
    }
  });
  for (int32_t h = 0; h < H; ++h) {
    double dA = 0, dD = 0;
    for (int64_t d = 0; d < a.documents; ++d) dA += sums[(d * H + h) * 2], dD += sums[(d * H + h) * 2 + 1];
    a.dA[h] += static_cast<float>(dA);
    if (a.dD != nullptr) a.dD[h] += static_cast<float>(dD);
  }
  parallel_for(launch.parallel, a.tokens * a.groups, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      add_heads(dB_parts + i * share * N, static_cast<T*>(a.dB) + i * N, share, N);
      add_heads(dC_parts + i * share * N, static_cast<T*>(a.dC) + i * N, share, N);
    }
  });
}

}  // namespace

Support supports_ssd_bwd_cpu(const SsdBwd& a, const Device& device) { return on_cpu(device, a.dtype); }

size_t workspace_ssd_bwd_cpu(const SsdBwd& a) {
  return static_cast<size_t>(a.documents * a.heads) * 2 * sizeof(double) + static_cast<size_t>(a.tokens) * static_cast<size_t>(a.heads) * static_cast<size_t>(a.state_dim) * 2 * sizeof(float) + 64;
}

void ssd_bwd_cpu(const SsdBwd& a, const Launch& launch) {
  if (a.dtype == DType::kF32) return run<float, float>(a, launch);
  bf16_dot() ? run<bf16, bf16>(a, launch) : run<bf16, float>(a, launch);
}

}  // namespace weft::kernels
