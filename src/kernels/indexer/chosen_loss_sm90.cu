// The indexer's loss over a choice of up to 256 keys at NAM56R's shape: 32 heads of 64, a target of 32 heads that share one key row of 128.
// A block a token, a warp 32 keys: both score matrices [32 heads, 32 keys] in mma.sync sums, softmaxes over the warps' maxima and sums, then
//   dX = dI gate [x > 0]      dq = dX k, the warps' parts added in order      dk += dX^T q by atomics
// Floor at T 32768: 1.7e11 FLOP (0.25 ms), 3.2 GB gathered and 2.1 GB of adds in L2.
#include "kernels/common/mma.cuh"
#include "kernels/indexer/chosen_loss.cuh"

namespace weft::kernels::indexer {
namespace {

constexpr int kKeys = 256, kH = 32, kE = 128, kJ = 32, kD = 64, kThreads = 256, kWarps = kThreads / 32;

struct Smem {
  bf16 target_k[kKeys * kE];  // then the warps' parts of dq, fp32
  bf16 k[kKeys * kD];
  bf16 target_q[kH * kE], q[kJ * kD];
  int keys[kKeys];            // token, or -1
  float gate[kJ], d_gate[kWarps][kJ], loss[kWarps];
  float2 rows[kWarps][kH], scores[kWarps];  // maximum and sum of a warp's keys: by target head; of the indexer
  int unsorted;
};
static_assert(sizeof(float) * kWarps * kJ * kD <= sizeof(bf16) * kKeys * kE);

__device__ __forceinline__ void add_pair(float* p, float a, float b) {
#if defined(WEFT_EMULATE)
  p[0] += a, p[1] += b;
#else
  asm volatile("red.global.add.v2.f32 [%0], {%1, %2};\n" ::"l"(p), "f"(a), "f"(b) : "memory");
#endif
}
// Over the eight lanes that hold other rows of the same columns.
__device__ __forceinline__ float column_sum(float v) {
#pragma unroll
  for (int o = 4; o < 32; o <<= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  return v;
}
// NaN wins, so that it shows.
__device__ __forceinline__ float larger(float a, float b) { return a != a ? a : (b != b ? b : fmaxf(a, b)); }

// acc += the products of 32 heads' rows with 32 keys' rows from key0 on.
template <int kDim>
__device__ __forceinline__ void add_products(float (&acc)[2][4][4], const Tile<kDim>& heads, const Tile<kDim>& keys, int key0) {
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    uint32_t fa[2][4];
    load_a(fa[0], heads, 0, k * 16), load_a(fa[1], heads, 16, k * 16);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      uint32_t fb[4];
      load_b(fb, keys, key0 + n * 16, k * 16);
#pragma unroll
      for (int m = 0; m < 2; ++m) mma_bf16(acc[m][2 * n], fa[m], fb[0], fb[1]), mma_bf16(acc[m][2 * n + 1], fa[m], fb[2], fb[3]);
    }
  }
}

__global__ void __launch_bounds__(kThreads, 2) chosen_loss_kernel(const IndexerLoss a) {
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<Smem*>(raw);
  const int64_t t = blockIdx.x;
  const int tid = threadIdx.x, warp = warp_id(), lane = lane_id(), qd = lane >> 2, r = lane & 3, key0 = warp * 32;
  int64_t low = 0, high = a.documents - 1;  // the last document that starts at or before t
  while (low < high) {
    const int64_t mid = (low + high + 1) / 2;
    if (a.cu_seqlens[mid] <= t) low = mid; else high = mid - 1;
  }
  const int start = a.cu_seqlens[low];
  const Tile<kE> TK{sm.target_k}, TQ{sm.target_q};
  const Tile<kD> KI{sm.k}, QI{sm.q};
  if (tid == 0) sm.unsorted = 0;
  {
    int key = tid < a.top_k ? a.indices[t * a.top_k + tid] : -1;
    if (key < start || key > t) key = -1;
    sm.keys[tid] = key;
    if (tid < kJ) sm.gate[tid] = a.gate[t * kJ + tid];
    __syncthreads();
    if (tid > 0 && key >= 0 && key <= sm.keys[tid - 1]) sm.unsorted = 1;  // a key after none: it may stand before as well
    if (tid > 0 && key >= 0 && sm.keys[tid - 1] < 0) sm.unsorted = 1;
    __syncthreads();
    bool again = false;
    if (sm.unsorted && key >= 0)
      for (int j = 0; j < tid; ++j) again |= sm.keys[j] == key;
    __syncthreads();
    if (again) sm.keys[tid] = -1;
    __syncwarp();
  }
  for (int u = lane; u < 32 * kE / 8; u += 32) {
    const int row = key0 + u / (kE / 8), col = u % (kE / 8) * 8, key = sm.keys[row];
    cp_async16(TK.unit(row, col), static_cast<const bf16*>(a.target_k) + (key < 0 ? 0 : static_cast<int64_t>(key) * kE + col), key >= 0);
  }
  for (int u = lane; u < 32 * kD / 8; u += 32) {
    const int row = key0 + u / (kD / 8), col = u % (kD / 8) * 8, key = sm.keys[row];
    cp_async16(KI.unit(row, col), static_cast<const bf16*>(a.k) + (key < 0 ? 0 : static_cast<int64_t>(key) * kD + col), key >= 0);
  }
  load_tile_async<kH, kE, kThreads>(TQ, static_cast<const bf16*>(a.target_q) + t * kH * kE, kE, kH);
  load_tile_async<kJ, kD, kThreads>(QI, static_cast<const bf16*>(a.q) + t * kJ * kD, kD, kJ);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  bool real[4][2];
#pragma unroll
  for (int n = 0; n < 4; ++n)
#pragma unroll
    for (int e = 0; e < 2; ++e) real[n][e] = sm.keys[key0 + n * 8 + r * 2 + e] >= 0;
  float s[2][4][4] = {};
  add_products(s, TQ, TK, key0);
  const float scale = a.scale * kLog2E;
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float top = -INFINITY, sum = 0;
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& v = s[m][n][half * 2 + e];
          v = real[n][e] ? v * scale : -INFINITY;
          top = larger(top, v);
        }
      top = larger(top, __shfl_xor_sync(0xffffffffu, top, 1)), top = larger(top, __shfl_xor_sync(0xffffffffu, top, 2));
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) sum += real[n][e] ? exp2_fast(s[m][n][half * 2 + e] - top) : 0.f;
      sum = warp_sum<4>(sum);
      if (r == 0) sm.rows[warp][m * 16 + half * 8 + qd] = make_float2(top, sum);
    }
  float x[2][4][4] = {};
  add_products(x, QI, KI, key0);
  const float gate[2][2] = {{sm.gate[qd], sm.gate[qd + 8]}, {sm.gate[qd + 16], sm.gate[qd + 24]}};
  auto on = [&](float v) { return !a.relu || !(v <= 0.f); };
  float score[4][2], top = -INFINITY, sum = 0;
#pragma unroll
  for (int n = 0; n < 4; ++n)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float v = 0;
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) v += on(x[m][n][half * 2 + e]) ? gate[m][half] * x[m][n][half * 2 + e] : 0.f;
      v = column_sum(v);
      score[n][e] = real[n][e] ? v : -INFINITY;
      top = larger(top, score[n][e]);
    }
  top = larger(top, __shfl_xor_sync(0xffffffffu, top, 1)), top = larger(top, __shfl_xor_sync(0xffffffffu, top, 2));
#pragma unroll
  for (int n = 0; n < 4; ++n)
#pragma unroll
    for (int e = 0; e < 2; ++e) sum += real[n][e] ? __expf(score[n][e] - top) : 0.f;
  sum = warp_sum<4>(sum);
  if (lane == 0) sm.scores[warp] = make_float2(top, sum);
  __syncthreads();  // the warps' maxima and sums; target_k is free
  auto all_of = [&](auto get, auto power) {  // maximum and sum over the warps
    float m = -INFINITY, z = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) m = larger(m, get(w).x);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) z += get(w).x == -INFINITY ? 0.f : get(w).y * power(get(w).x - m);
    return make_float2(m, z);
  };
  float p[4][2] = {};
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = m * 16 + half * 8 + qd;
      const float2 all = all_of([&](int w) { return sm.rows[w][row]; }, [](float v) { return exp2_fast(v); });
      const float one = 1.f / (kH * all.y);
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) p[n][e] += real[n][e] ? exp2_fast(s[m][n][half * 2 + e] - all.x) * one : 0.f;
    }
  const float2 all = all_of([&](int w) { return sm.scores[w]; }, [](float v) { return __expf(v); });
  const bool empty = all.x == -INFINITY;
  const float log_z = all.x + logf(all.y), w = empty ? 0.f : (a.weights ? a.weights[t] : 1.f) * (a.coeff / fmaxf(*a.total_weight, 1e-20f));
  float loss = 0;
#pragma unroll
  for (int n = 0; n < 4; ++n)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float share = column_sum(p[n][e]), log_q = score[n][e] - log_z;
      if (qd == 0 && real[n][e] && !(share <= 0.f)) loss += share * (logf(share) - log_q);
      score[n][e] = real[n][e] && !empty ? w * (__expf(log_q) - share) : 0.f;  // dI from here on
    }
  loss = warp_sum(loss);
  if (lane == 0) sm.loss[warp] = w * loss;
  if (a.dq != nullptr) {
    uint32_t dx[2][2][4];  // A fragments: 16 heads, 16 keys
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float along = 0;
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          float d[2];
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float v = x[m][n][half * 2 + e];
            d[e] = on(v) ? score[n][e] * gate[m][half] : 0.f, along += on(v) ? score[n][e] * v : 0.f;
          }
          dx[m][n >> 1][(n & 1) * 2 + half] = pack_bf16(d[0], d[1]);
        }
        along = warp_sum<4>(along);
        if (r == 0) sm.d_gate[warp][m * 16 + half * 8 + qd] = along;
      }
    float* parts = reinterpret_cast<float*>(sm.target_k) + warp * (kJ * kD);
#pragma unroll
    for (int part = 0; part < 4; ++part) {  // 16 columns at a time
      float c[2][2][4] = {};
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        uint32_t fb[4];
        load_b_trans(fb, KI, key0 + k * 16, part * 16);
#pragma unroll
        for (int m = 0; m < 2; ++m) mma_bf16(c[m][0], dx[m][k], fb[0], fb[1]), mma_bf16(c[m][1], dx[m][k], fb[2], fb[3]);
      }
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          float* to = parts + (m * 16 + qd) * kD + part * 16 + n * 8 + r * 2;
          *reinterpret_cast<float2*>(to) = make_float2(c[m][n][0], c[m][n][1]), *reinterpret_cast<float2*>(to + 8 * kD) = make_float2(c[m][n][2], c[m][n][3]);
        }
    }
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      uint32_t turned[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m)
        turned[m][0] = transpose_8x8(dx[m][k][0]), turned[m][1] = transpose_8x8(dx[m][k][2]), turned[m][2] = transpose_8x8(dx[m][k][1]), turned[m][3] = transpose_8x8(dx[m][k][3]);
      const int key_low = sm.keys[key0 + k * 16 + qd], key_high = sm.keys[key0 + k * 16 + qd + 8];
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        float c[2][4] = {};
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          uint32_t fb[4];
          load_b_trans(fb, QI, m * 16, part * 16);
          mma_bf16(c[0], turned[m], fb[0], fb[1]), mma_bf16(c[1], turned[m], fb[2], fb[3]);
        }
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const int col = part * 16 + n * 8 + r * 2;
          if (key_low >= 0) add_pair(a.dk + static_cast<int64_t>(key_low) * kD + col, c[n][0], c[n][1]);
          if (key_high >= 0) add_pair(a.dk + static_cast<int64_t>(key_high) * kD + col, c[n][2], c[n][3]);
        }
      }
    }
  }
  __syncthreads();
  if (tid == 0) {
    loss = 0;
    for (int i = 0; i < kWarps; ++i) loss += sm.loss[i];
    a.loss[t] = empty ? 0.f : loss;
  }
  if (a.dq == nullptr) return;
  const float* parts = reinterpret_cast<const float*>(sm.target_k);
  for (int i = tid; i < kJ * kD; i += kThreads) {
    float v = 0;
#pragma unroll
    for (int part = 0; part < kWarps; ++part) v += parts[part * (kJ * kD) + i];
    a.dq[t * (kJ * kD) + i] = v;
  }
  if (tid < kJ) {
    float v = 0;
    for (int i = 0; i < kWarps; ++i) v += sm.d_gate[i][tid];
    a.d_gate[t * kJ + tid] = v;
  }
}

}  // namespace

bool takes_chosen_loss(const IndexerLoss& a) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  return a.indices != nullptr && a.top_k <= kKeys && a.heads == kJ && a.dim == kD && a.target_heads == kH && a.target_groups == 1 && a.target_dim == kE && a.dtype == DType::kBf16 &&
         a.target_dtype == DType::kBf16 && aligned(a.q) && aligned(a.k) && aligned(a.target_q) && aligned(a.target_k);
}

void chosen_loss(const IndexerLoss& a, cudaStream_t stream) { launch_grid(chosen_loss_kernel, dim3(static_cast<unsigned>(a.tokens)), dim3(kThreads), sizeof(Smem), stream, a); }

}  // namespace weft::kernels::indexer
