// Forward. Keys and values of a document are packed once a key head; a task is 64 queries of one head against blocks of 256
// keys with a running maximum. Few queries (decoding) skip the packing and walk the keys row by row.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/tile/pack_cpu.h"

namespace weft::kernels {
namespace {

using namespace tile;

constexpr int32_t kQueries = 64, kKeys = 256, kFew = 8;
constexpr float kInf = std::numeric_limits<float>::infinity();

struct Range {  // keys that a query sees
  int32_t begin, end;
};
Range visible(const AttentionShape& s, int32_t query, int32_t queries, int32_t keys) {
  const int32_t at = query + keys - queries;
  return {s.left < 0 ? 0 : std::max(0, at - s.left), s.right < 0 ? keys : std::max(0, std::min(keys, at + s.right + 1))};
}

// One row of logits -> probabilities (unnormalised, keys outside the range 0), running max and sum; returns the factor of what came before.
template <class E>
WEFT_CLONES float softmax_row(const float* logits, E* p, int32_t width, int32_t begin, int32_t end, float scale, float* max, float* sum) {
  float top = *max;
#pragma omp simd reduction(max : top)
  for (int32_t j = begin; j < end; ++j) top = logits[j] * scale > top ? logits[j] * scale : top;
  for (int32_t j = 0; j < begin; ++j) p[j] = E{};
  for (int32_t j = end; j < width; ++j) p[j] = E{};
  if (top == -kInf) {  // nothing seen yet, or only NaN, which no comparison finds
    bool unseen = true;
    for (int32_t j = begin; j < end; ++j) unseen = unseen && logits[j] == logits[j], p[j] = E{};
    if (unseen) return 1;
  }
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (int32_t j = begin; j < end; ++j) {
    const float e = exp_f32(logits[j] * scale - top);
    total += e;
    p[j] = convert<E>(e);
  }
  const float keep = *max == -kInf ? 0.0f : exp_f32(*max - top);
  *sum = *sum * keep + total;  // NaN in a key that is read is in the total: the row becomes NaN
  *max = top;
  return keep;
}

template <class E>
void drop(E* p, const AttentionShape& s, uint32_t head_seed, uint32_t query, uint32_t key, int32_t begin, int32_t end) {
  const auto threshold = static_cast<uint32_t>(static_cast<double>(s.dropout) * 4294967296.0);
  const float scale = 1.0f / (1.0f - s.dropout);
  for (int32_t j = begin; j < end; ++j)
    p[j] = attention_hash(head_seed, query, key + static_cast<uint32_t>(j)) < threshold ? E{} : from_f32<E>(to_f32(p[j]) * scale);
}

template <class T>
WEFT_CLONES void finish_row(const float* o, T* out, int32_t n, float sum) {
  const float scale = sum == 0 ? 0.0f : 1.0f / sum;
#pragma omp simd
  for (int32_t c = 0; c < n; ++c) out[c] = from_f32<T>(o[c] * scale);
}

WEFT_CLONES void scale_row(float* o, int32_t n, float scale) {
#pragma omp simd
  for (int32_t c = 0; c < n; ++c) o[c] *= scale;
}

template <class T>
WEFT_CLONES float dot(const T* a, const T* b, int32_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int32_t i = 0; i < n; ++i) sum += to_f32(a[i]) * to_f32(b[i]);
  return sum;
}

template <class T>
WEFT_CLONES void add_row(float* o, const T* v, int32_t n, float p) {
#pragma omp simd
  for (int32_t i = 0; i < n; ++i) o[i] += p * to_f32(v[i]);
}

// Adds the sink, writes o, lse and the row's maximum.
template <class T>
void finish(const AttentionFwd& a, int64_t row, int32_t head, const float* o, float max, float sum, float* row_max) {
  const AttentionShape& s = a.s;
  if (row_max != nullptr) row_max[row * s.heads + head] = max;
  float scale_down = 1;
  if (a.sinks != nullptr) {
    const float sink = a.sinks[head], top = std::max(max, sink);
    scale_down = max == -kInf ? 0.0f : std::exp(max - top);
    sum = sum * scale_down + std::exp(sink - top);
    max = top;
  }
  a.lse[row * s.heads + head] = sum == 0 ? -kInf : max + std::log(sum);
  finish_row(o, static_cast<T*>(a.o) + (row * s.heads + head) * s.dim_v, s.dim_v, scale_down == 0 ? kInf : sum / scale_down);
}

struct Document {
  int32_t queries, keys, blocks, padded;  // query blocks (0: the few-queries path), keys rounded to panels
  int64_t first_task, packed;             // of its query blocks; where its packed keys begin, in keys
};

std::vector<Document> documents(const AttentionShape& s, int64_t* tasks, int64_t* packed_keys) {
  std::vector<Document> out;
  *tasks = 0, *packed_keys = 0;
  for (int32_t d = 0; d < s.documents; ++d) {
    const int32_t queries = s.host_cu_q[d + 1] - s.host_cu_q[d], keys = s.host_kv_lens[d];
    const bool few = queries <= kFew;
    const Document doc{queries, keys, few ? 0 : (queries + kQueries - 1) / kQueries, few ? 0 : round_up(keys, kPanel), *tasks, *packed_keys};
    *tasks += few ? (queries > 0 ? 1 : 0) : doc.blocks;
    *packed_keys += doc.padded;
    out.push_back(doc);
  }
  return out;
}

template <class T>
void few_queries(const AttentionFwd& a, const Document& doc, int32_t d, int32_t head, float* row_max, std::vector<float>& buffer) {
  const AttentionShape& s = a.s;
  const int32_t group = head / (s.heads / s.groups);
  const int64_t key0 = s.host_k_starts[d];
  const T* k = static_cast<const T*>(a.k) + key0 * s.k_stride + static_cast<int64_t>(group) * s.dim;
  const T* v = static_cast<const T*>(a.v) + key0 * s.v_stride + static_cast<int64_t>(group) * s.dim_v;
  buffer.resize(static_cast<size_t>(doc.keys) * 2 + static_cast<size_t>(s.dim_v));
  float *logits = buffer.data(), *p = logits + doc.keys, *o = p + doc.keys;
  for (int32_t i = 0; i < doc.queries; ++i) {
    const int64_t row = s.host_cu_q[d] + i;
    const T* q = static_cast<const T*>(a.q) + row * s.q_stride + static_cast<int64_t>(head) * s.dim;
    const Range r = visible(s, i, doc.queries, doc.keys);
    float max = -kInf, sum = 0;
    for (int32_t j = r.begin; j < r.end; ++j) logits[j] = dot(q, k + j * s.k_stride, s.dim);
    if (r.end > r.begin) softmax_row<float>(logits, p, doc.keys, r.begin, r.end, s.scale, &max, &sum);
    if (s.dropout > 0) drop(p, s, attention_head_seed(s.seed, head), static_cast<uint32_t>(row), static_cast<uint32_t>(key0), r.begin, r.end);
    std::fill(o, o + s.dim_v, 0.0f);
    for (int32_t j = r.begin; j < r.end; ++j) add_row(o, v + j * s.v_stride, s.dim_v, p[j]);
    finish<T>(a, row, head, o, max, sum, row_max);
  }
}

template <class T, class E>
void run(const AttentionFwd& a, const Launch& launch) {
  const AttentionShape& s = a.s;
  int64_t tasks = 0, packed_keys = 0;
  const std::vector<Document> docs = documents(s, &tasks, &packed_keys);
  const int32_t dim = round_up(s.dim, kPanel), dim_v = round_up(s.dim_v, kPanel);
  E* k_packed = static_cast<E*>(launch.workspace);
  E* v_packed = k_packed + packed_keys * s.groups * dim;
  float* row_max = a.max_logit == nullptr ? nullptr : reinterpret_cast<float*>(v_packed + packed_keys * s.groups * dim_v);
  parallel_for(launch.parallel, static_cast<int64_t>(s.documents) * s.groups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int32_t d = static_cast<int32_t>(i / s.groups), g = static_cast<int32_t>(i % s.groups);
      const Document& doc = docs[static_cast<size_t>(d)];
      if (doc.blocks == 0) continue;
      const int64_t key0 = s.host_k_starts[d];
      pack_transposed<E>(static_cast<const T*>(a.k) + key0 * s.k_stride + static_cast<int64_t>(g) * s.dim, s.k_stride, doc.keys, s.dim,
                         k_packed + (doc.packed * s.groups + static_cast<int64_t>(g) * doc.padded) * dim, doc.padded, dim);
      pack_rows<E>(static_cast<const T*>(a.v) + key0 * s.v_stride + static_cast<int64_t>(g) * s.dim_v, s.v_stride, doc.keys, s.dim_v,
                   v_packed + (doc.packed * s.groups + static_cast<int64_t>(g) * doc.padded) * dim_v, doc.padded, dim_v);
    }
  });
  // Heads outermost: a contiguous range of tasks holds whole documents, so causal work spreads evenly.
  parallel_for(launch.parallel, tasks * s.heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<E> q(static_cast<size_t>(kQueries) * static_cast<size_t>(dim)), p(kQueries * kKeys);
    std::vector<float> logits(kQueries * kKeys), o(static_cast<size_t>(kQueries) * static_cast<size_t>(dim_v)), buffer;
    size_t d = 0;
    for (int64_t task = begin; task < end; ++task) {
      const int32_t head = static_cast<int32_t>(task / tasks);
      const int64_t local = task % tasks;
      d = static_cast<size_t>(std::upper_bound(docs.begin(), docs.end(), local, [](int64_t t, const Document& x) { return t < x.first_task; }) - docs.begin()) - 1;
      const Document& doc = docs[d];
      if (doc.blocks == 0) {
        few_queries<T>(a, doc, static_cast<int32_t>(d), head, row_max, buffer);
        continue;
      }
      const int32_t group = head / (s.heads / s.groups), q0 = static_cast<int32_t>(local - doc.first_task) * kQueries;
      const int32_t rows = std::min(kQueries, doc.queries - q0), padded_rows = round_up(rows, 8);
      const int64_t row0 = s.host_cu_q[d] + q0, key0 = s.host_k_starts[d];
      const E* kp = k_packed + (doc.packed * s.groups + static_cast<int64_t>(group) * doc.padded) * dim;
      const E* vp = v_packed + (doc.packed * s.groups + static_cast<int64_t>(group) * doc.padded) * dim_v;
      copy_rows<E>(static_cast<const T*>(a.q) + row0 * s.q_stride + static_cast<int64_t>(head) * s.dim, s.q_stride, rows, s.dim, q.data(), padded_rows, dim);
      std::fill(o.begin(), o.begin() + static_cast<int64_t>(padded_rows) * dim_v, 0.0f);
      float max[kQueries], sum[kQueries];
      std::fill(max, max + kQueries, -kInf), std::fill(sum, sum + kQueries, 0.0f);
      const int32_t first = visible(s, q0, doc.queries, doc.keys).begin / kPanel * kPanel, last = visible(s, q0 + rows - 1, doc.queries, doc.keys).end;
      for (int32_t k0 = first; k0 < last; k0 += kKeys) {
        const int32_t width = std::min(kKeys, round_up(last - k0, kPanel));
        for (int32_t c = 0; c < width; c += kPanel)
          gemm(q.data(), dim, kp + static_cast<int64_t>(k0 + c) * dim, logits.data() + c, kKeys, padded_rows, dim, false);
        for (int32_t r = 0; r < padded_rows; ++r) {
          Range seen = r < rows ? visible(s, q0 + r, doc.queries, doc.keys) : Range{0, 0};
          seen.begin = std::clamp(seen.begin - k0, 0, width), seen.end = std::clamp(seen.end - k0, seen.begin, width);
          E* row = p.data() + r * kKeys;
          if (seen.end <= seen.begin) {
            std::fill(row, row + width, E{});
            continue;
          }
          const float keep = softmax_row(logits.data() + r * kKeys, row, width, seen.begin, seen.end, s.scale, &max[r], &sum[r]);
          if (keep != 1) scale_row(o.data() + static_cast<int64_t>(r) * dim_v, dim_v, keep);
          if (s.dropout > 0)
            drop(row, s, attention_head_seed(s.seed, head), static_cast<uint32_t>(row0 + r), static_cast<uint32_t>(key0 + k0), seen.begin, seen.end);
        }
        for (int32_t c = 0; c < dim_v; c += kPanel)
          gemm(p.data(), kKeys, vp + static_cast<int64_t>(c) * doc.padded + static_cast<int64_t>(k0) * kPanel, o.data() + c, dim_v, padded_rows, width, true);
      }
      for (int32_t r = 0; r < rows; ++r) finish<T>(a, row0 + r, head, o.data() + static_cast<int64_t>(r) * dim_v, max[r], sum[r], row_max);
    }
  });
  if (row_max == nullptr) return;
  std::fill(a.max_logit, a.max_logit + s.heads, -kInf);
  for (int64_t t = 0; t < s.tokens; ++t)
    for (int32_t h = 0; h < s.heads; ++h) a.max_logit[h] = std::max(a.max_logit[h], row_max[t * s.heads + h]);
}

}  // namespace

Support supports_attention_fwd_cpu(const AttentionFwd& a, const Device& device) {
  if (device.kind != Device::kCpu) return {"runs on the CPU only"};
  if (a.s.dtype != DType::kF32 && a.s.dtype != DType::kBf16) return {"dtype is not f32 or bf16"};
  return {};
}

size_t workspace_attention_fwd_cpu(const AttentionFwd& a) {
  int64_t tasks = 0, keys = 0;
  documents(a.s, &tasks, &keys);
  const size_t element = a.s.dtype == DType::kBf16 && bf16_dot() ? 2 : 4;
  return static_cast<size_t>(keys) * static_cast<size_t>(a.s.groups) * static_cast<size_t>(round_up(a.s.dim, kPanel) + round_up(a.s.dim_v, kPanel)) * element +
         (a.max_logit == nullptr ? 0 : static_cast<size_t>(a.s.tokens) * static_cast<size_t>(a.s.heads) * sizeof(float)) + 64;
}

void attention_fwd_cpu(const AttentionFwd& a, const Launch& launch) {
  if (a.s.dtype == DType::kF32) return run<float, float>(a, launch);
  bf16_dot() ? run<bf16, bf16>(a, launch) : run<bf16, float>(a, launch);
}

}  // namespace weft::kernels
