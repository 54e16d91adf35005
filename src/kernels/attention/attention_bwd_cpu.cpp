// Backward. A task is one query head of one document; tiles are 64 keys by 64 queries and stand transposed (keys are rows), so
// that P and dS are the left operands of dV and dK as they come, and dQ is gathered transposed:
//   S^T = K Q^T, P^T = exp(scale S^T - lse), dP^T = V dO^T, dS^T = scale P^T (dP^T - delta), delta = sum_c o do
//   dV += P^T dO, dK += dS^T Q, dQ^T += K^T dS^T
// Grouped heads leave fp32 parts that are added in the order of heads: the same sums for any number of threads.
#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/tile/tile_cpu.h"

namespace weft::kernels {
namespace {

using namespace tile;

constexpr int32_t kTile = 64;
constexpr float kInf = std::numeric_limits<float>::infinity();

template <class T>
WEFT_CLONES float dot(const T* a, const T* b, int32_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int32_t i = 0; i < n; ++i) sum += to_f32(a[i]) * to_f32(b[i]);
  return sum;
}

// One key's row of a tile: logits and dp over queries -> p and ds; queries outside [begin, end) get 0.
template <class E>
WEFT_CLONES void tile_row(const float* logits, const float* dp, const float* lse, const float* delta, float scale, int32_t begin, int32_t end,
                          E* p, E* ds) {
  for (int32_t i = 0; i < begin; ++i) p[i] = E{}, ds[i] = E{};
  for (int32_t i = end; i < kTile; ++i) p[i] = E{}, ds[i] = E{};
#pragma omp simd
  for (int32_t i = begin; i < end; ++i) {
    const float e = exp_f32(logits[i] * scale - lse[i]);
    p[i] = convert<E>(e);
    ds[i] = convert<E>(scale * e * (dp[i] - delta[i]));
  }
}

// The same with dropout: p is what met V, dp passes only through kept pairs.
template <class E>
void tile_row_dropped(const AttentionShape& s, uint32_t head_seed, uint32_t query, uint32_t key, const float* logits, const float* dp,
                      const float* lse, const float* delta, int32_t begin, int32_t end, E* p, E* ds) {
  const auto threshold = static_cast<uint32_t>(static_cast<double>(s.dropout) * 4294967296.0);
  for (int32_t i = 0; i < kTile; ++i) {
    const bool seen = i >= begin && i < end;
    const float keep = !seen || attention_hash(head_seed, query + static_cast<uint32_t>(i), key) < threshold ? 0.0f : 1.0f / (1.0f - s.dropout);
    const float e = seen ? exp_f32(logits[i] * s.scale - lse[i]) : 0.0f;
    p[i] = convert<E>(e * keep);
    ds[i] = seen ? convert<E>(s.scale * e * (keep * dp[i] - delta[i])) : E{};
  }
}

template <class T>
WEFT_CLONES void store(const float* src, int64_t ld, T* dst, int64_t stride, int32_t rows, int32_t cols) {
  for (int32_t r = 0; r < rows; ++r)
#pragma omp simd
    for (int32_t c = 0; c < cols; ++c) dst[r * stride + c] = from_f32<T>(src[r * ld + c]);
}

template <class T, class E>
struct Task {
  const AttentionBwd& a;
  std::vector<E> qt, gt, qr, gr, kr, vr, kt, p, ds, packed;  // t: transposed panels over queries, r: rows or row panels; g is d_o
  std::vector<float> lse, delta, logits, dp, dq, dk, dv;

  void run(int32_t d, int32_t head, float* dk_parts, float* dv_parts) {
    const AttentionShape& s = a.s;
    const int32_t queries = s.host_cu_q[d + 1] - s.host_cu_q[d], keys = s.host_kv_lens[d], group = head / (s.heads / s.groups);
    const int32_t dim = round_up(s.dim, kPanel), dim_v = round_up(s.dim_v, kPanel), Q = round_up(queries, kTile);
    const int64_t row0 = s.host_cu_q[d], key0 = s.host_k_starts[d], o_stride = static_cast<int64_t>(s.heads) * s.dim_v;
    const T* q = static_cast<const T*>(a.q) + row0 * s.q_stride + static_cast<int64_t>(head) * s.dim;
    const T* k = static_cast<const T*>(a.k) + key0 * s.k_stride + static_cast<int64_t>(group) * s.dim;
    const T* v = static_cast<const T*>(a.v) + key0 * s.v_stride + static_cast<int64_t>(group) * s.dim_v;
    const T* o = static_cast<const T*>(a.o) + row0 * o_stride + static_cast<int64_t>(head) * s.dim_v;
    const T* g = static_cast<const T*>(a.d_o) + row0 * o_stride + static_cast<int64_t>(head) * s.dim_v;
    const auto fit = [](auto& x, int64_t n) { if (static_cast<int64_t>(x.size()) < n) x.resize(static_cast<size_t>(n)); };
    fit(qt, static_cast<int64_t>(Q) * dim), fit(qr, static_cast<int64_t>(Q) * dim), fit(gt, static_cast<int64_t>(Q) * dim_v), fit(gr, static_cast<int64_t>(Q) * dim_v);
    fit(kr, kTile * dim), fit(kt, kTile * dim), fit(vr, kTile * dim_v), fit(p, kTile * kTile), fit(ds, kTile * kTile), fit(packed, kTile * kTile);
    fit(lse, Q), fit(delta, Q), fit(logits, kTile * kTile), fit(dp, kTile * kTile), fit(dq, static_cast<int64_t>(dim) * Q);
    fit(dk, kTile * dim), fit(dv, kTile * dim_v);
    pack_transposed<E>(q, s.q_stride, queries, s.dim, qt.data(), Q, dim);
    pack_transposed<E>(g, o_stride, queries, s.dim_v, gt.data(), Q, dim_v);
    pack_rows<E>(q, s.q_stride, queries, s.dim, qr.data(), Q, dim);
    pack_rows<E>(g, o_stride, queries, s.dim_v, gr.data(), Q, dim_v);
    for (int32_t i = 0; i < queries; ++i) {
      lse[static_cast<size_t>(i)] = a.lse[(row0 + i) * s.heads + head];
      delta[static_cast<size_t>(i)] = dot(o + i * o_stride, g + i * o_stride, s.dim_v);
      if (a.d_sinks != nullptr) sink_sum -= lse[static_cast<size_t>(i)] == -kInf ? 0.0 : std::exp(a.sinks[head] - lse[static_cast<size_t>(i)]) * delta[static_cast<size_t>(i)];
    }
    std::fill(dq.begin(), dq.begin() + static_cast<int64_t>(dim) * Q, 0.0f);
    const uint32_t seed = attention_head_seed(s.seed, head);
    for (int32_t k0 = 0; k0 < keys; k0 += kTile) {
      const int32_t n = std::min(kTile, keys - k0);
      copy_rows<E>(k + k0 * s.k_stride, s.k_stride, n, s.dim, kr.data(), kTile, dim);
      copy_rows<E>(v + k0 * s.v_stride, s.v_stride, n, s.dim_v, vr.data(), kTile, dim_v);
      turn(kr.data(), dim, kt.data(), kTile, dim, kTile);
      std::fill(dk.begin(), dk.end(), 0.0f), std::fill(dv.begin(), dv.end(), 0.0f);
      // Queries that see any key of this block: key j is seen by i in [j - shift - right, j - shift + left], shift = keys - queries.
      const int32_t shift = keys - queries;
      const int32_t first = s.right < 0 ? 0 : std::max(0, k0 - shift - s.right), last = s.left < 0 ? queries : std::min(queries, k0 + n - shift + s.left);
      for (int32_t q0 = first / kTile * kTile; q0 < last; q0 += kTile) {
        const int32_t m = std::min(kTile, queries - q0);
        for (int32_t c = 0; c < kTile; c += kPanel) {
          gemm(kr.data(), dim, qt.data() + static_cast<int64_t>(q0 + c) * dim, logits.data() + c, kTile, kTile, dim, false);
          gemm(vr.data(), dim_v, gt.data() + static_cast<int64_t>(q0 + c) * dim_v, dp.data() + c, kTile, kTile, dim_v, false);
        }
        for (int32_t j = 0; j < kTile; ++j) {
          const int32_t at = k0 + j - shift - q0;
          int32_t begin = s.right < 0 ? 0 : std::clamp(at - s.right, 0, m), end = s.left < 0 ? m : std::clamp(at + s.left + 1, 0, m);
          if (j >= n || end <= begin) begin = end = 0;
          if (s.dropout > 0)
            tile_row_dropped<E>(s, seed, static_cast<uint32_t>(row0 + q0), static_cast<uint32_t>(key0 + k0 + j), logits.data() + j * kTile, dp.data() + j * kTile,
                                lse.data() + q0, delta.data() + q0, begin, end, p.data() + j * kTile, ds.data() + j * kTile);
          else
            tile_row<E>(logits.data() + j * kTile, dp.data() + j * kTile, lse.data() + q0, delta.data() + q0, s.scale, begin, end,
                        p.data() + j * kTile, ds.data() + j * kTile);
        }
        pack_rows<E>(ds.data(), kTile, kTile, kTile, packed.data(), kTile, kTile);
        for (int32_t c = 0; c < dim_v; c += kPanel)
          gemm(p.data(), kTile, gr.data() + static_cast<int64_t>(c) * Q + static_cast<int64_t>(q0) * kPanel, dv.data() + c, dim_v, kTile, kTile, true);
        for (int32_t c = 0; c < dim; c += kPanel)
          gemm(ds.data(), kTile, qr.data() + static_cast<int64_t>(c) * Q + static_cast<int64_t>(q0) * kPanel, dk.data() + c, dim, kTile, kTile, true);
        for (int32_t c = 0; c < kTile; c += kPanel)
          gemm(kt.data(), kTile, packed.data() + c * kTile, dq.data() + q0 + c, Q, dim, kTile, true);
      }
      if (dk_parts == nullptr) {
        const int64_t ld_k = static_cast<int64_t>(s.groups) * s.dim, ld_v = static_cast<int64_t>(s.groups) * s.dim_v;
        store(dk.data(), dim, static_cast<T*>(a.dk) + (key0 + k0) * ld_k + static_cast<int64_t>(group) * s.dim, ld_k, n, s.dim);
        store(dv.data(), dim_v, static_cast<T*>(a.dv) + (key0 + k0) * ld_v + static_cast<int64_t>(group) * s.dim_v, ld_v, n, s.dim_v);
      } else {
        store(dk.data(), dim, dk_parts + ((key0 + k0) * s.heads + head) * s.dim, static_cast<int64_t>(s.heads) * s.dim, n, s.dim);
        store(dv.data(), dim_v, dv_parts + ((key0 + k0) * s.heads + head) * s.dim_v, static_cast<int64_t>(s.heads) * s.dim_v, n, s.dim_v);
      }
    }
    turn(dq.data(), Q, static_cast<T*>(a.dq) + (row0 * s.heads + head) * s.dim, static_cast<int64_t>(s.heads) * s.dim, queries, s.dim);
  }
  double sink_sum = 0;
};

template <class T>
WEFT_CLONES void add_heads(const float* parts, T* out, int32_t share, int32_t dim) {
#pragma omp simd
  for (int32_t c = 0; c < dim; ++c) {
    float sum = 0;
    for (int32_t h = 0; h < share; ++h) sum += parts[h * dim + c];
    out[c] = from_f32<T>(sum);
  }
}

template <class T, class E>
void run(const AttentionBwd& a, const Launch& launch) {
  const AttentionShape& s = a.s;
  const int32_t share = s.heads / s.groups;
  double* sink_parts = static_cast<double*>(launch.workspace);  // [documents, heads]
  float* dk_parts = share == 1 ? nullptr : reinterpret_cast<float*>(sink_parts + static_cast<int64_t>(s.documents) * s.heads);
  float* dv_parts = share == 1 ? nullptr : dk_parts + s.key_rows * s.heads * s.dim;
  int64_t covered = 0;
  for (int32_t d = 0; d < s.documents; ++d) covered += s.host_kv_lens[d];
  if (covered != s.key_rows) {  // rows of no document
    std::fill_n(static_cast<char*>(a.dk), bytes(s.dtype, static_cast<size_t>(s.key_rows * s.groups * s.dim)), 0);
    std::fill_n(static_cast<char*>(a.dv), bytes(s.dtype, static_cast<size_t>(s.key_rows * s.groups * s.dim_v)), 0);
  }
  parallel_for(launch.parallel, static_cast<int64_t>(s.documents) * s.heads, 1, [&](int64_t begin, int64_t end) {
    Task<T, E> task{a};
    for (int64_t i = begin; i < end; ++i) {  // heads outermost, as in the forward
      const int32_t d = static_cast<int32_t>(i % s.documents), head = static_cast<int32_t>(i / s.documents);
      task.sink_sum = 0;
      task.run(d, head, dk_parts, dv_parts);
      sink_parts[static_cast<int64_t>(d) * s.heads + head] = task.sink_sum;
    }
  });
  if (a.d_sinks != nullptr)
    for (int32_t h = 0; h < s.heads; ++h) {
      double sum = 0;
      for (int32_t d = 0; d < s.documents; ++d) sum += sink_parts[static_cast<int64_t>(d) * s.heads + h];
      a.d_sinks[h] += static_cast<float>(sum);
    }
  if (share == 1) return;
  for (int32_t d = 0; d < s.documents; ++d)
    parallel_for(launch.parallel, static_cast<int64_t>(s.host_kv_lens[d]) * s.groups, 64, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t at = s.host_k_starts[d] * static_cast<int64_t>(s.groups) + i;  // (row, group), row-major
        add_heads(dk_parts + at * share * s.dim, static_cast<T*>(a.dk) + at * s.dim, share, s.dim);
        add_heads(dv_parts + at * share * s.dim_v, static_cast<T*>(a.dv) + at * s.dim_v, share, s.dim_v);
      }
    });
}

}  // namespace

Support supports_attention_bwd_cpu(const AttentionBwd& a, const Device& device) {
  if (device.kind != Device::kCpu) return {"runs on the CPU only"};
  if (a.s.dtype != DType::kF32 && a.s.dtype != DType::kBf16) return {"dtype is not f32 or bf16"};
  return {};
}

size_t workspace_attention_bwd_cpu(const AttentionBwd& a) {
  const AttentionShape& s = a.s;
  const size_t parts = s.heads == s.groups ? 0 : static_cast<size_t>(s.key_rows) * static_cast<size_t>(s.heads) * static_cast<size_t>(s.dim + s.dim_v);
  return static_cast<size_t>(s.documents) * static_cast<size_t>(s.heads) * sizeof(double) + parts * sizeof(float) + 64;
}

void attention_bwd_cpu(const AttentionBwd& a, const Launch& launch) {
  if (a.s.dtype == DType::kF32) return run<float, float>(a, launch);
  bf16_dot() ? run<bf16, bf16>(a, launch) : run<bf16, float>(a, launch);
}

}  // namespace weft::kernels
