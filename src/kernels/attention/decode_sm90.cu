// Few queries against many keys. The rows of a key head (its query heads times the document's queries) go through the keys together, so
// a key is read once; a group of lanes holds one key's row, eight elements a lane. Long documents are cut in splits whose results
// (maximum, sum, weighted values) a second kernel merges in order. Bound: memory, the keys and values once.
#include "kernels/attention/decode.cuh"

namespace weft::kernels {
namespace {

constexpr int kThreads = kDecodeThreads, kWarps = kThreads / 32, kMostSplits = 64;
constexpr int kWantedBlocks = 4 * 132, kLeastKeys = 128;  // of a split

template <class T, int kLanes, int kRows>
__global__ void __launch_bounds__(kThreads) decode(AttentionFwd a, int splits, Parts parts) {
  constexpr int kKeysPerWarp = 32 / kLanes, kSlots = kWarps * kKeysPerWarp, kUnroll = kRows == 1 ? 4 : 2, kWidth = kLanes * 8;
  WEFT_DYNAMIC_SMEM(raw);
  float *slot_max = reinterpret_cast<float*>(raw), *slot_sum = slot_max + kSlots * kRows, *slot_o = slot_sum + kSlots * kRows;
  const AttentionShape& s = a.s;
  const int doc = static_cast<int>(blockIdx.x) / splits, split = static_cast<int>(blockIdx.x) % splits, per_group = s.heads / s.groups;
  const int group = static_cast<int>(blockIdx.y) % s.groups, row0 = static_cast<int>(blockIdx.y) / s.groups * kRows;
  const int first = s.cu_q[doc], queries = s.cu_q[doc + 1] - first, keys = s.kv_lens[doc];
  const int rows = queries * per_group - row0 < kRows ? queries * per_group - row0 : kRows;
  if (rows <= 0) return;
  const int slot = static_cast<int>(threadIdx.x) / kLanes, col = static_cast<int>(threadIdx.x) % kLanes * 8;
  const bool has_k = col < s.dim, has_v = col < s.dim_v;

  float q[kRows][8], o[kRows][8], max[kRows], sum[kRows];
  Span see[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const bool real = r < rows;
    const int query = real ? (row0 + r) / per_group : 0, head = group * per_group + (real ? (row0 + r) % per_group : 0);
    see[r] = real ? seen_keys(s, query, queries, keys) : Span{0, 0};
    max[r] = -INFINITY, sum[r] = 0;
#pragma unroll
    for (int c = 0; c < 8; ++c) q[r][c] = 0, o[r][c] = 0;
    if (real && has_k) dev::load8(static_cast<const T*>(a.q) + (int64_t{first} + query) * s.q_stride + static_cast<int64_t>(head) * s.dim + col, q[r]);
  }
  const Span all{see[0].begin, seen_keys(s, (row0 + rows - 1) / per_group, queries, keys).end};
  const int chunk = all.end > all.begin ? (all.end - all.begin + splits - 1) / splits : 0;
  const int begin = all.begin + split * chunk, end = begin + chunk < all.end ? begin + chunk : all.end;
  const int64_t key0 = s.k_starts[doc];
  const T* k_base = static_cast<const T*>(a.k) + key0 * s.k_stride + static_cast<int64_t>(group) * s.dim + col;
  const T* v_base = static_cast<const T*>(a.v) + key0 * s.v_stride + static_cast<int64_t>(group) * s.dim_v + col;
  for (int j0 = begin; j0 < end; j0 += kSlots * kUnroll) {
    dev::Vec8<T> keys_of[kUnroll], values_of[kUnroll];  // as they lie in memory: all loads before the first use
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int j = j0 + u * kSlots + slot;
      keys_of[u] = {}, values_of[u] = {};
      if (j < end && has_k) keys_of[u] = dev::load8(k_base + j * s.k_stride);
      if (j < end && has_v) values_of[u] = dev::load8(v_base + j * s.v_stride);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int j = j0 + u * kSlots + slot;
      float k[8], v[8];
      dev::unpack(keys_of[u], k), dev::unpack(values_of[u], v);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float x = 0;
#pragma unroll
        for (int c = 0; c < 8; ++c) x += q[r][c] * k[c];
        x = warp_sum<kLanes>(x);
        x = j < end && j >= see[r].begin && j < see[r].end ? x * s.scale : -INFINITY;
        const float top = fmaxf(max[r], x), base = top == -INFINITY ? 0.0f : top;
        const float before = dev::exponential<T>(max[r] - base), p = dev::exponential<T>(x - base);
        sum[r] = sum[r] * before + p, max[r] = top;
#pragma unroll
        for (int c = 0; c < 8; ++c) o[r][c] = o[r][c] * before + p * v[c];
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (col == 0) slot_max[slot * kRows + r] = max[r], slot_sum[slot * kRows + r] = sum[r];
#pragma unroll
    for (int c = 0; c < 8; ++c) slot_o[(slot * kRows + r) * kWidth + col + c] = o[r][c];
  }
  __syncthreads();
  finish_rows<T, kSlots, kRows, kWidth>(a, {first, group, row0, rows, splits, split}, slot_max, slot_sum, slot_o, parts);
}

struct Plan {
  int rows, tiles, splits;  // rows of a tile, tiles of a key head
  explicit Plan(const AttentionShape& s) {
    const int64_t all = int64_t{s.max_q} * (s.heads / s.groups);
    rows = all <= 1 ? 1 : all <= 4 ? 4 : 8, tiles = static_cast<int>(ceil_div(all, rows));
    const int64_t blocks = int64_t{s.documents} * s.groups * tiles, most = ceil_div(s.max_kv, kLeastKeys);
    const int64_t wanted = blocks > 0 ? ceil_div(kWantedBlocks, blocks) : 1, few = wanted < most ? wanted : most;
    splits = static_cast<int>(few < 1 ? 1 : few > kMostSplits ? kMostSplits : few);
  }
};

}  // namespace

Support supports_attention_decode_sm90(const AttentionFwd& a, const Device& d) {
  const AttentionShape& s = a.s;
  if (s.max_q > kDecodeMostQueries) return {"more than 8 queries a document"};
  if (s.dim % 8 != 0 || s.dim_v % 8 != 0 || s.dim > kAttentionMostDim || s.dim_v > kAttentionMostDim) return {"dims are not multiples of 8 up to 256"};
  if (s.q_stride % 8 != 0 || s.k_stride % 8 != 0 || s.v_stride % 8 != 0 || !is_aligned(a.q, 16) || !is_aligned(a.k, 16) || !is_aligned(a.v, 16))
    return {"q, k or v is not aligned to 16 bytes"};
  if (s.dropout > 0) return {"no dropout"};
  if (a.max_logit != nullptr) return {"no maximum logit"};
  if (int64_t{s.groups} * Plan(s).tiles > 65535) return {"more than 65535 tiles of rows"};
  return on_sm90(d, s.dtype);
}

size_t workspace_attention_decode_sm90(const AttentionFwd& a) {
  return decode_workspace(a.s, Plan(a.s).splits);
}

void attention_decode_sm90(const AttentionFwd& a, const Launch& launch) {
  const AttentionShape& s = a.s;
  const Plan plan(s);
  const Parts parts = decode_parts(s, plan.splits, launch.workspace);
  const int most = s.dim > s.dim_v ? s.dim : s.dim_v, lanes = most <= 64 ? 8 : most <= 128 ? 16 : 32;
  with_float_type(s.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    const auto go = [&](auto kernel, int slots) {
      const size_t smem = static_cast<size_t>(slots * plan.rows) * static_cast<size_t>(2 + lanes * 8) * sizeof(float);
      launch_grid(kernel, dim3(static_cast<unsigned>(s.documents * plan.splits), static_cast<unsigned>(s.groups * plan.tiles)), dim3(kThreads), smem, launch.stream, a,
                  plan.splits, parts);
    };
    const auto with_rows = [&](auto one, auto four, auto eight) { plan.rows == 1 ? go(one, 128 / lanes) : plan.rows == 4 ? go(four, 128 / lanes) : go(eight, 128 / lanes); };
    if (lanes == 8) with_rows(decode<T, 8, 1>, decode<T, 8, 4>, decode<T, 8, 8>);
    else if (lanes == 16) with_rows(decode<T, 16, 1>, decode<T, 16, 4>, decode<T, 16, 8>);
    else with_rows(decode<T, 32, 1>, decode<T, 32, 4>, decode<T, 32, 8>);
    merge_splits<T>(a, plan.splits, parts, launch);
  });
}

}  // namespace weft::kernels
