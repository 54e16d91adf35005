// Few queries against many keys on tensor cores, bf16. Up to eight rows of a key head (its query heads times the document's queries) share the
// keys: S^T = K Q^T and O^T = V^T P^T are mma.sync products whose eight columns are the rows, so that keys and values go from memory straight to
// registers as first operands, 16 bytes a load, and P^T is S^T with its 8 x 8 tiles transposed. A warp goes through 16 keys at a time; the next
// keys are asked for once their products are made, the next values likewise. Splits as in decode_sm90.cu. Bound: memory, keys and values once.
#include "kernels/attention/decode.cuh"
#include "kernels/common/mma.cuh"

namespace weft::kernels {
namespace {

constexpr int kThreads = kDecodeThreads, kWarps = kThreads / 32, kRows = 8, kKeys = 16;  // keys of a warp's tile
constexpr int kLeastKeys = 256;                                                          // of a split
constexpr float kLn2 = 0.6931471805599453f;

constexpr int blocks_per_sm(int dim, int dim_v) { return dim + dim_v <= 128 ? 5 : dim + dim_v <= 256 ? 3 : 2; }

__device__ __forceinline__ void load16(uint32_t (&to)[4], const bf16* p) {  // read once by one block: not kept in L1
#if defined(WEFT_EMULATE)
  const uint4 v = *reinterpret_cast<const uint4*>(p);
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
#else
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];\n" : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "l"(p));
#endif
}
__device__ __forceinline__ uint32_t low_halves(uint32_t a, uint32_t b) { return (a & 0xffffu) | b << 16; }
__device__ __forceinline__ uint32_t high_halves(uint32_t a, uint32_t b) { return a >> 16 | (b & 0xffff0000u); }

// The k slots of a product stand for dims 32 c + 8 r + i (lane % 4 = r): what a lane loads of a key and of a query at once. Rows of O^T: dims
// 64 c + 8 q + 2 j and the next (lane / 4 = q, tile 4 c + j).
template <int kD, int kV>
__global__ void __launch_bounds__(kThreads, blocks_per_sm(kD, kV)) decode_mma(AttentionFwd a, int splits, int tiles, Parts parts) {
  constexpr int kWidth = kV + 8;
  __shared__ float slot_max[kWarps * kRows], slot_sum[kWarps * kRows];
  WEFT_DYNAMIC_SMEM(raw);
  float* slot_o = reinterpret_cast<float*>(raw);
  const AttentionShape& s = a.s;
  int unit = static_cast<int>(blockIdx.x);  // the key heads of the same keys next to each other
  const int group = unit % s.groups, row0 = (unit /= s.groups) % tiles * kRows, split = (unit /= tiles) % splits, doc = unit / splits;
  const int per_group = s.heads / s.groups, first = s.cu_q[doc], queries = s.cu_q[doc + 1] - first, keys = s.kv_lens[doc];
  const int rows = queries * per_group - row0 < kRows ? queries * per_group - row0 : kRows;
  if (rows <= 0) return;
  const int warp = warp_id(), q = lane_id() >> 2, r = lane_id() & 3;

  uint32_t query[kD / 32][4];
#pragma unroll
  for (int c = 0; c < kD / 32; ++c) {
#pragma unroll
    for (int i = 0; i < 4; ++i) query[c][i] = 0;
    const int row = row0 + q;
    if (q < rows) load16(query[c], static_cast<const bf16*>(a.q) + (int64_t{first} + row / per_group) * s.q_stride + static_cast<int64_t>(group * per_group + row % per_group) * kD + c * 32 + r * 8);
  }
  Span see[2];  // of rows 2 r and 2 r + 1
#pragma unroll
  for (int e = 0; e < 2; ++e) see[e] = 2 * r + e < rows ? seen_keys(s, (row0 + 2 * r + e) / per_group, queries, keys) : Span{0, 0};
  const Span all{seen_keys(s, row0 / per_group, queries, keys).begin, seen_keys(s, (row0 + rows - 1) / per_group, queries, keys).end};
  const int chunk = all.end > all.begin ? ((all.end - all.begin + splits - 1) / splits + kKeys - 1) / kKeys * kKeys : 0;
  const int begin = all.begin + split * chunk, end = begin + chunk < all.end ? begin + chunk : all.end;
  const bf16* k_base = static_cast<const bf16*>(a.k) + s.k_starts[doc] * s.k_stride + group * kD + r * 8;
  const bf16* v_base = static_cast<const bf16*>(a.v) + s.k_starts[doc] * s.v_stride + group * kV + q * 8;

  uint32_t k[2][kD / 32][4], v[4][kV / 64][4];  // keys q and q + 8; values of keys 2 r, 2 r + 1, 2 r + 8, 2 r + 9
  const auto row_of = [&](int j) { return static_cast<int64_t>(j < end ? j : end - 1); };  // past the end: a key again, which then counts nothing
  const auto load_keys = [&](int j0) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const bf16* from = k_base + row_of(j0 + q + i * 8) * s.k_stride;
#pragma unroll
      for (int c = 0; c < kD / 32; ++c) load16(k[i][c], from + c * 32);
    }
  };
  const auto load_values = [&](int j0) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bf16* from = v_base + row_of(j0 + 2 * r + (i & 1) + (i >> 1) * 8) * s.v_stride;
#pragma unroll
      for (int c = 0; c < kV / 64; ++c) load16(v[i][c], from + c * 64);
    }
  };
  float o[kV / 16][4], max[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
#pragma unroll
  for (int t = 0; t < kV / 16; ++t)
#pragma unroll
    for (int e = 0; e < 4; ++e) o[t][e] = 0;
  const float scale = s.scale * kLog2E;
  int j0 = begin + warp * kKeys;
  if (j0 < end) load_keys(j0), load_values(j0);
  for (; j0 < end; j0 += kWarps * kKeys) {
    const int next = j0 + kWarps * kKeys;
    float p[4] = {0, 0, 0, 0}, p1[4] = {0, 0, 0, 0};
#pragma unroll
    for (int c = 0; c < kD / 32; ++c) {
      mma_bf16(p, {k[0][c][0], k[1][c][0], k[0][c][1], k[1][c][1]}, query[c][0], query[c][1]);
      mma_bf16(p1, {k[0][c][2], k[1][c][2], k[0][c][3], k[1][c][3]}, query[c][2], query[c][3]);
    }
    if (next < end) load_keys(next);
    float before[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float top = max[e];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int j = j0 + q + i * 8;
        float& x = p[i * 2 + e];
        x = j < end && j >= see[e].begin && j < see[e].end ? (x + p1[i * 2 + e]) * scale : -INFINITY, top = fmaxf(top, x);
      }
#pragma unroll
      for (int lanes = 4; lanes < 32; lanes *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, lanes));
      const float base = top == -INFINITY ? 0.0f : top;
      before[e] = exp2_fast(max[e] - base), max[e] = top;
      p[e] = exp2_fast(p[e] - base), p[2 + e] = exp2_fast(p[2 + e] - base);
      sum[e] = sum[e] * before[e] + (p[e] + p[2 + e]);
    }
    const uint32_t weight0 = transpose_8x8(pack_bf16(p[0], p[1])), weight1 = transpose_8x8(pack_bf16(p[2], p[3]));
#pragma unroll
    for (int t = 0; t < kV / 16; ++t) {
      const int c = t / 4, w = t % 4;
#pragma unroll
      for (int e = 0; e < 4; ++e) o[t][e] *= before[e & 1];
      mma_bf16(o[t], {low_halves(v[0][c][w], v[1][c][w]), high_halves(v[0][c][w], v[1][c][w]), low_halves(v[2][c][w], v[3][c][w]), high_halves(v[2][c][w], v[3][c][w])}, weight0, weight1);
    }
    if (next < end) load_values(next);
  }
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    const int row = 2 * r + e, slot = warp * kRows + row;
#pragma unroll
    for (int lanes = 4; lanes < 32; lanes *= 2) sum[e] += __shfl_xor_sync(0xffffffffu, sum[e], lanes);
    if (q == 0) slot_max[slot] = max[e] * kLn2, slot_sum[slot] = sum[e];
    if (row < rows) {
#pragma unroll
      for (int t = 0; t < kV / 16; ++t) *reinterpret_cast<float2*>(slot_o + slot * kWidth + t / 4 * 64 + q * 8 + t % 4 * 2) = {o[t][e], o[t][2 + e]};
    }
  }
  __syncthreads();
  finish_rows<bf16, kWarps, kRows, kWidth>(a, {first, group, row0, rows, splits, split}, slot_max, slot_sum, slot_o, parts);
}

struct Plan {
  int tiles, splits;
  explicit Plan(const AttentionShape& s) {
    tiles = static_cast<int>(ceil_div(int64_t{s.max_q} * (s.heads / s.groups), kRows));
    const int64_t units = int64_t{s.documents} * s.groups * tiles, at_once = 132 * blocks_per_sm(s.dim, s.dim_v), most = ceil_div(s.max_kv, kLeastKeys);
    // Units that are less than what is at once on the device are cut so that they fill it once, others so that their last round is full.
    int64_t wanted = units < 1 ? 1 : at_once / units;
    if (wanted <= 2) {
      double best = 0;
      for (int64_t i = 1; i <= 4; ++i) {
        const double rounds = static_cast<double>(units * i) / static_cast<double>(at_once), full = rounds / static_cast<double>(static_cast<int64_t>(rounds + 0.9999));
        if (full > best + 0.1) best = full, wanted = i;
      }
    }
    wanted = wanted < most ? wanted : most;
    splits = static_cast<int>(wanted < 1 ? 1 : wanted > kDecodeMostSplits ? kDecodeMostSplits : wanted);
  }
};

bool has_dims(int dim, int dim_v) { return (dim == dim_v && (dim == 64 || dim == 128 || dim == 256)) || (dim == 128 && dim_v == 64) || (dim == 192 && dim_v == 128); }

}  // namespace

Support supports_attention_decode_mma(const AttentionFwd& a, const Device& d) {
  const AttentionShape& s = a.s;
  if (s.dtype != DType::kBf16) return {"dtype is not bf16"};
  if (s.max_q > kDecodeMostQueries) return {"more than 8 queries a document"};
  if (!has_dims(s.dim, s.dim_v)) return {"dims are not 64, 128, 256, 128/64 or 192/128"};
  if (s.q_stride % 8 != 0 || s.k_stride % 8 != 0 || s.v_stride % 8 != 0 || !is_aligned(a.q, 16) || !is_aligned(a.k, 16) || !is_aligned(a.v, 16))
    return {"q, k or v is not aligned to 16 bytes"};
  if (s.dropout > 0) return {"no dropout"};
  if (a.max_logit != nullptr) return {"no maximum logit"};
  const Plan plan(s);
  if (int64_t{s.documents} * s.groups * plan.tiles * plan.splits > INT32_MAX) return {"more than 2^31 blocks"};
  return on_sm90(d, s.dtype);
}

size_t workspace_attention_decode_mma(const AttentionFwd& a) { return decode_workspace(a.s, Plan(a.s).splits); }

void attention_decode_mma(const AttentionFwd& a, const Launch& launch) {
  const AttentionShape& s = a.s;
  const Plan plan(s);
  const Parts parts = decode_parts(s, plan.splits, launch.workspace);
  const auto go = [&](auto kernel) {
    launch_grid(kernel, dim3(static_cast<unsigned>(int64_t{s.documents} * s.groups * plan.tiles * plan.splits)), dim3(kThreads),
                static_cast<size_t>(kWarps * kRows) * static_cast<size_t>(s.dim_v + 8) * sizeof(float), launch.stream, a, plan.splits, plan.tiles, parts);
  };
  if (s.dim == 64) go(decode_mma<64, 64>);
  else if (s.dim == 192) go(decode_mma<192, 128>);
  else if (s.dim == 256) go(decode_mma<256, 256>);
  else s.dim_v == 64 ? go(decode_mma<128, 64>) : go(decode_mma<128, 128>);
  merge_splits<bf16>(a, plan.splits, parts, launch);
}

}  // namespace weft::kernels
