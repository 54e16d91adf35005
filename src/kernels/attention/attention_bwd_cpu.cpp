// Backward. A task is one query head of one document; tiles are 64 keys by 64 queries and stand transposed (keys are rows), so
// that P and dS are the left operands of dV and dK as they come, and dQ is gathered transposed:
//   S^T = K Q^T, P^T = exp(scale S^T - lse), dP^T = V dO^T, dS^T = scale P^T (dP^T - delta), delta = sum_j p_j dp_j
//   dV += P^T dO, dK += dS^T Q, dQ^T += K^T dS^T
// The tiles of 64 queries are kept in fp32 until delta is whole. (o . do is the same number, but an output that was rounded to bf16
// leaves its error there, and dP - delta may cancel.)
// Grouped heads leave fp32 parts that are added in the order of heads: the same sums for any number of threads.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/tile/pack_cpu.h"

namespace weft::kernels {
namespace {

using namespace tile;

constexpr int32_t kTile = 64;
constexpr float kInf = std::numeric_limits<float>::infinity();

// One key's row of a tile, over the queries [begin, end) that see it: logits -> p, delta += p dp.
WEFT_CLONES void weigh_row(float* logits_p, const float* dp, const float* lse, float* delta, float scale, int32_t begin, int32_t end) {
#pragma omp simd
  for (int32_t i = begin; i < end; ++i) {
    const float e = exp_f32(logits_p[i] * scale - lse[i]);
    logits_p[i] = e;
    delta[i] += e * dp[i];
  }
}

// The same with dropout: dp passes only through kept pairs, so it becomes keep dp.
void weigh_row_dropped(const AttentionShape& s, uint32_t head_seed, uint32_t query, uint32_t key, float* logits_p, float* dp, const float* lse, float* delta,
                       int32_t begin, int32_t end) {
  const auto threshold = static_cast<uint32_t>(static_cast<double>(s.dropout) * 4294967296.0);
  for (int32_t i = begin; i < end; ++i)
    dp[i] *= attention_hash(head_seed, query + static_cast<uint32_t>(i), key) < threshold ? 0.0f : 1.0f / (1.0f - s.dropout);
  weigh_row(logits_p, dp, lse, delta, s.scale, begin, end);
}

// p and dp -> the operands of the products; queries outside [begin, end) get 0.
template <class E>
WEFT_CLONES void tile_row(const float* p_f32, const float* dp, const float* delta, float scale, int32_t begin, int32_t end, E* p, E* ds) {
  for (int32_t i = 0; i < begin; ++i) p[i] = E{}, ds[i] = E{};
  for (int32_t i = end; i < kTile; ++i) p[i] = E{}, ds[i] = E{};
#pragma omp simd
  for (int32_t i = begin; i < end; ++i) {
    p[i] = convert<E>(p_f32[i]);
    ds[i] = convert<E>(scale * p_f32[i] * (dp[i] - delta[i]));
  }
}

// What met V is p of the kept pairs alone.
template <class E>
void drop_row(const AttentionShape& s, uint32_t head_seed, uint32_t query, uint32_t key, const float* p_f32, int32_t begin, int32_t end, E* p) {
  const auto threshold = static_cast<uint32_t>(static_cast<double>(s.dropout) * 4294967296.0);
  for (int32_t i = begin; i < end; ++i)
    p[i] = attention_hash(head_seed, query + static_cast<uint32_t>(i), key) < threshold ? E{} : convert<E>(p_f32[i] * (1.0f / (1.0f - s.dropout)));
}

template <class T>
WEFT_CLONES void store(const float* src, int64_t ld, T* dst, int64_t stride, int32_t rows, int32_t cols) {
  for (int32_t r = 0; r < rows; ++r)
#pragma omp simd
    for (int32_t c = 0; c < cols; ++c) dst[r * stride + c] = from_f32<T>(src[r * ld + c]);
}

struct Seen {  // queries of a tile that see a key
  int32_t begin, end;
};

template <class T, class E>
struct Task {
  const AttentionBwd& a;
  std::vector<E> qt, gt, qr, gr, kr, vr, kt, p, ds, packed;  // t: transposed panels over queries (keys for kt), r: rows or row panels; g is d_o
  std::vector<float> lse, delta, p_f32, dp, dq, dk, dv;      // p_f32, dp: [key blocks][64 keys][64 queries]

  void run(int32_t d, int32_t head, float* dk_parts, float* dv_parts) {
    const AttentionShape& s = a.s;
    const int32_t queries = s.host_cu_q[d + 1] - s.host_cu_q[d], keys = s.host_kv_lens[d], group = head / (s.heads / s.groups);
    const int32_t dim = round_up(s.dim, kPanel), dim_v = round_up(s.dim_v, kPanel), K = round_up(keys, kTile), shift = keys - queries;
    const int64_t row0 = s.host_cu_q[d], key0 = s.host_k_starts[d], o_stride = static_cast<int64_t>(s.heads) * s.dim_v;
    const T* q = static_cast<const T*>(a.q) + row0 * s.q_stride + static_cast<int64_t>(head) * s.dim;
    const T* k = static_cast<const T*>(a.k) + key0 * s.k_stride + static_cast<int64_t>(group) * s.dim;
    const T* v = static_cast<const T*>(a.v) + key0 * s.v_stride + static_cast<int64_t>(group) * s.dim_v;
    const T* g = static_cast<const T*>(a.d_o) + row0 * o_stride + static_cast<int64_t>(head) * s.dim_v;
    const auto fit = [](auto& x, int64_t n) { if (static_cast<int64_t>(x.size()) < n) x.resize(static_cast<size_t>(n)); };
    fit(qt, kTile * dim), fit(qr, kTile * dim), fit(gt, kTile * dim_v), fit(gr, kTile * dim_v), fit(p, kTile * kTile), fit(ds, kTile * kTile), fit(packed, kTile * kTile);
    fit(kr, static_cast<int64_t>(K) * dim), fit(kt, static_cast<int64_t>(K) * dim), fit(vr, static_cast<int64_t>(K) * dim_v);
    fit(p_f32, static_cast<int64_t>(K) * kTile), fit(dp, static_cast<int64_t>(K) * kTile), fit(lse, kTile), fit(delta, kTile);
    fit(dq, dim * kTile), fit(dk, static_cast<int64_t>(K) * dim), fit(dv, static_cast<int64_t>(K) * dim_v);
    copy_rows<E>(k, s.k_stride, keys, s.dim, kr.data(), K, dim);
    copy_rows<E>(v, s.v_stride, keys, s.dim_v, vr.data(), K, dim_v);
    for (int64_t k0 = 0; k0 < K; k0 += kTile) turn(kr.data() + k0 * dim, dim, kt.data() + k0 * dim, kTile, dim, kTile);
    std::fill(dk.begin(), dk.begin() + static_cast<int64_t>(K) * dim, 0.0f), std::fill(dv.begin(), dv.begin() + static_cast<int64_t>(K) * dim_v, 0.0f);
    const uint32_t seed = attention_head_seed(s.seed, head);
    for (int32_t q0 = 0; q0 < queries; q0 += kTile) {
      const int32_t m = std::min(kTile, queries - q0);
      // Keys that any query of this tile sees: query i sees key j in [i + shift - left, i + shift + right].
      const int32_t first = s.left < 0 ? 0 : std::max(0, q0 + shift - s.left) / kTile * kTile, last = s.right < 0 ? keys : std::min(keys, q0 + m + shift + s.right);
      const auto seen = [&](int32_t key) -> Seen {
        const int32_t at = key - shift - q0;
        const int32_t begin = s.right < 0 ? 0 : std::clamp(at - s.right, 0, m), end = s.left < 0 ? m : std::clamp(at + s.left + 1, 0, m);
        return key >= keys || end <= begin ? Seen{0, 0} : Seen{begin, end};
      };
      pack_transposed<E>(q + q0 * s.q_stride, s.q_stride, m, s.dim, qt.data(), kTile, dim);
      pack_transposed<E>(g + q0 * o_stride, o_stride, m, s.dim_v, gt.data(), kTile, dim_v);
      pack_rows<E>(q + q0 * s.q_stride, s.q_stride, m, s.dim, qr.data(), kTile, dim);
      pack_rows<E>(g + q0 * o_stride, o_stride, m, s.dim_v, gr.data(), kTile, dim_v);
      for (int32_t i = 0; i < m; ++i) lse[static_cast<size_t>(i)] = a.lse[(row0 + q0 + i) * s.heads + head];
      std::fill(delta.begin(), delta.end(), 0.0f), std::fill(dq.begin(), dq.end(), 0.0f);
      for (int32_t k0 = first; k0 < last; k0 += kTile) {
        float *pt = p_f32.data() + static_cast<int64_t>(k0) * kTile, *dpt = dp.data() + static_cast<int64_t>(k0) * kTile;
        for (int32_t c = 0; c < kTile; c += kPanel) {
          gemm(kr.data() + static_cast<int64_t>(k0) * dim, dim, qt.data() + static_cast<int64_t>(c) * dim, pt + c, kTile, kTile, dim, false);
          gemm(vr.data() + static_cast<int64_t>(k0) * dim_v, dim_v, gt.data() + static_cast<int64_t>(c) * dim_v, dpt + c, kTile, kTile, dim_v, false);
        }
        for (int32_t j = 0; j < kTile; ++j) {
          const Seen by = seen(k0 + j);
          if (s.dropout > 0)
            weigh_row_dropped(s, seed, static_cast<uint32_t>(row0 + q0), static_cast<uint32_t>(key0 + k0 + j), pt + j * kTile, dpt + j * kTile, lse.data(), delta.data(),
                              by.begin, by.end);
          else
            weigh_row(pt + j * kTile, dpt + j * kTile, lse.data(), delta.data(), s.scale, by.begin, by.end);
        }
      }
      if (a.d_sinks != nullptr)
        for (size_t i = 0; i < static_cast<size_t>(m); ++i) sink_sum -= lse[i] == -kInf ? 0.0 : std::exp(a.sinks[head] - lse[i]) * delta[i];
      for (int32_t k0 = first; k0 < last; k0 += kTile) {
        const float *pt = p_f32.data() + static_cast<int64_t>(k0) * kTile, *dpt = dp.data() + static_cast<int64_t>(k0) * kTile;
        for (int32_t j = 0; j < kTile; ++j) {
          const Seen by = seen(k0 + j);
          tile_row<E>(pt + j * kTile, dpt + j * kTile, delta.data(), s.scale, by.begin, by.end, p.data() + j * kTile, ds.data() + j * kTile);
          if (s.dropout > 0)
            drop_row<E>(s, seed, static_cast<uint32_t>(row0 + q0), static_cast<uint32_t>(key0 + k0 + j), pt + j * kTile, by.begin, by.end, p.data() + j * kTile);
        }
        pack_rows<E>(ds.data(), kTile, kTile, kTile, packed.data(), kTile, kTile);
        for (int32_t c = 0; c < dim_v; c += kPanel)
          gemm(p.data(), kTile, gr.data() + static_cast<int64_t>(c) * kTile, dv.data() + static_cast<int64_t>(k0) * dim_v + c, dim_v, kTile, kTile, true);
        for (int32_t c = 0; c < dim; c += kPanel)
          gemm(ds.data(), kTile, qr.data() + static_cast<int64_t>(c) * kTile, dk.data() + static_cast<int64_t>(k0) * dim + c, dim, kTile, kTile, true);
        for (int32_t c = 0; c < kTile; c += kPanel)
          gemm(kt.data() + static_cast<int64_t>(k0) * dim, kTile, packed.data() + c * kTile, dq.data() + c, kTile, dim, kTile, true);
      }
      turn(dq.data(), kTile, static_cast<T*>(a.dq) + ((row0 + q0) * s.heads + head) * s.dim, static_cast<int64_t>(s.heads) * s.dim, m, s.dim);
    }
    if (dk_parts == nullptr) {
      const int64_t ld_k = static_cast<int64_t>(s.groups) * s.dim, ld_v = static_cast<int64_t>(s.groups) * s.dim_v;
      store(dk.data(), dim, static_cast<T*>(a.dk) + key0 * ld_k + static_cast<int64_t>(group) * s.dim, ld_k, keys, s.dim);
      store(dv.data(), dim_v, static_cast<T*>(a.dv) + key0 * ld_v + static_cast<int64_t>(group) * s.dim_v, ld_v, keys, s.dim_v);
    } else {
      store(dk.data(), dim, dk_parts + (key0 * s.heads + head) * s.dim, static_cast<int64_t>(s.heads) * s.dim, keys, s.dim);
      store(dv.data(), dim_v, dv_parts + (key0 * s.heads + head) * s.dim_v, static_cast<int64_t>(s.heads) * s.dim_v, keys, s.dim_v);
    }
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
