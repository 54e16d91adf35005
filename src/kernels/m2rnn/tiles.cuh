// What the M2RNN kernels share. A block of four warps walks one document of one head; h [64, 16] lies in the registers of mma.sync sums,
// 16 rows a warp, so that h W needs no exchange: the sums of two 8-column tiles are the A operand of the next product, in tf32 (error 2^-10).
// tanh is the hardware's (absolute error 5e-4 at most). Products with one step's inputs are mma.sync over eight steps of which seven are
// masked off: an infinity or NaN in v reaches up to seven steps before its own, of the same document.
#pragma once
#include "kernels/common/mma.cuh"
#include "kernels/m2rnn/m2rnn.h"

namespace weft::kernels::m2rnn {

constexpr int kK = 64, kV = 16, kChunk = kM2rnnChunk, kThreads = 128;

// A 16x8 (a0 (q, 2r..) a1 (q + 8, 2r..)) times B 8x8 (k 2r.., n q), bf16.
__device__ __forceinline__ void mma_bf16_k8(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) {
#if defined(WEFT_EMULATE)
  mma_bf16(c, {a0, a1, 0, 0}, b, 0);
#else
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n" : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(b));
#endif
}

// W [16, 16] as tf32 B fragments of two column tiles (n) and two row tiles (k); transposed: W^T. The k slots r and r + 4 of a tile stand for its
// rows 2 r and 2 r + 1, so that the sums of one product are the A operand of the next as they lie.
struct RoundedB {
  uint32_t w[2][2][2];
  __device__ __forceinline__ explicit RoundedB(const uint4 (&lanes)[2][32]) {  // a lane's words as store() left them
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const uint4 x = lanes[n][lane_id()];
      w[n][0][0] = x.x, w[n][0][1] = x.y, w[n][1][0] = x.z, w[n][1][1] = x.w;
    }
  }
  __device__ __forceinline__ void store(uint4 (&lanes)[2][32]) const {
#pragma unroll
    for (int n = 0; n < 2; ++n) lanes[n][lane_id()] = {w[n][0][0], w[n][0][1], w[n][1][0], w[n][1][1]};
  }
  __device__ __forceinline__ RoundedB(const float* W, bool transposed) {
    const int q = lane_id() >> 2, r = lane_id() & 3;
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int k = 0; k < 2; ++k)
#pragma unroll
        for (int b = 0; b < 2; ++b) {
          const int row = k * 8 + r * 2 + b, col = n * 8 + q;
          w[n][k][b] = __float_as_uint(transposed ? W[col * kV + row] : W[row * kV + col]) + 0x1000;  // rounded: the last 13 bits are dropped
        }
  }
};
__device__ __forceinline__ void add_product(float (&c)[2][4], const float (&a)[2][4], const RoundedB& b) {
#pragma unroll
  for (int k = 0; k < 2; ++k)
#pragma unroll
    for (int n = 0; n < 2; ++n) mma_tf32(c[n], a[k][0], a[k][2], a[k][1], a[k][3], b.w[n][k][0], b.w[n][k][1]);
}

// Inputs of some steps in shared memory, eight steps together; units of 8 columns swizzled so that ldmatrix meets no bank twice.
template <int kCount, bool kQueries>
struct Rows {
  struct Eight {
    bf16 q[kQueries ? 8 * kK : 8], k[8 * kK], v[8 * kV];
  };
  static constexpr int kStride = sizeof(Eight);  // bytes
  Eight eight[kCount / 8];
  float f[kCount];
};
template <int kWidth>
__device__ __forceinline__ int place(int row, int col) {  // row of eight
  if constexpr (kWidth == kK) return row * kK + (((col >> 3) ^ row) & 7) * 8 + (col & 7);
  return row * kV + (((col >> 3) ^ (row >> 2)) & 1) * 8 + (col & 7);
}
// The first `valid` rows; behind them zeros, and f = 1, which leaves h as it is. The caller waits.
template <int kCount, bool kQueries, class Args>
__device__ __forceinline__ void load_rows(Rows<kCount, kQueries>& to, const Args& a, int64_t first, int valid, int head) {
  const int t = threadIdx.x;
#pragma unroll
  for (int i = 0; i < kCount * 8 / kThreads; ++i) {
    const int u = i * kThreads + t, row = u >> 3, col = (u & 7) * 8;
    const bool ok = row < valid;
    auto& eight = to.eight[row >> 3];
    if constexpr (kQueries) cp_async16(eight.q + place<kK>(row & 7, col), static_cast<const bf16*>(a.q) + (ok ? (first + row) * a.q_stride + col : 0), ok);
    cp_async16(eight.k + place<kK>(row & 7, col), static_cast<const bf16*>(a.k) + (ok ? (first + row) * a.k_stride + col : 0), ok);
  }
  if (t < kCount * 2) {
    const int row = t >> 1, col = (t & 1) * 8;
    const bool ok = row < valid;
    cp_async16(to.eight[row >> 3].v + place<kV>(row & 7, col), static_cast<const bf16*>(a.v) + (ok ? (first + row) * a.v_stride + head * kV + col : 0), ok);
  }
  if (t < valid) cp_async4(to.f + t, a.f + (first + t) * a.heads + head, true);
  else if (t < kCount) to.f[t] = 1.f;
  cp_async_commit();
}

// Where a lane reads eight steps: 16 columns of rows of q or k (from column `warp` * 16) in words 0 and 1, and of rows of v or dy in words 2
// and 3.
__device__ __forceinline__ SmemAddress slot_address(const bf16* wide, const bf16* narrow, int warp) {
  const int l = lane_id(), row = l & 7, col = (l >> 3 & 1) * 8;
  return smem_address(l < 16 ? wide + place<kK>(row, warp * 16 + col) : narrow + place<kV>(row, col));
}
// Slots: the steps are k, the first operand's rows or the second's columns those of the rows.
__device__ __forceinline__ void load_slots(uint32_t (&to)[4], SmemAddress at) { ldmatrix_x4_trans(to, at); }
// Columns: as the second operand, the steps are its columns and the columns of the rows k.
__device__ __forceinline__ void load_columns(uint32_t (&to)[4], SmemAddress at) { ldmatrix_x4(to, at); }
// Of two steps of eight, 2 `pair` and the next: all ones in the lanes whose words and sums stand for them.
struct Pair {
  uint32_t mine;
  __device__ __forceinline__ explicit Pair(int pair) : mine((lane_id() & 3) == pair ? 0xffffffffu : 0u) {}
  // Of a word of load_slots, the first or second of the steps.
  __device__ __forceinline__ uint32_t only(uint32_t word, int second) const { return word & mine & (second ? 0xffff0000u : 0xffffu); }
  // That step out of a product whose columns are the steps, rows q and q + 8, into what began as zeros.
  __device__ __forceinline__ void keep(float (&to)[4], const float (&all)[4], int second) const {
#pragma unroll
    for (int e = second; e < 4; e += 2) to[e] = __uint_as_float(__float_as_uint(to[e]) | (__float_as_uint(all[e]) & mine));
  }
};

// h, c or a gradient in bf16: the words of the first operand.
__device__ __forceinline__ void pack(uint32_t (&to)[4], const float (&v)[2][4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) to[i] = pack_bf16(v[i >> 1][(i & 1) * 2], v[i >> 1][(i & 1) * 2 + 1]);
}

// One step of the eight in `slots` of k and v: c = tanh(h W + k v^T), h = f h + (1 - f) c.
__device__ __forceinline__ void step(float (&h)[2][4], float (&c)[2][4], const RoundedB& W, const uint32_t (&slots)[4], const Pair& pair, int second, float f) {
  const float rest = 1 - f;
  const uint32_t k[2] = {pair.only(slots[0], second), pair.only(slots[1], second)};
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) c[n][e] = 0;
    mma_bf16_k8(c[n], k[0], k[1], slots[2 + n]);
  }
  add_product(c, h, W);
#pragma unroll
  for (int n = 0; n < 2; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float kept = f * h[n][e];  // ahead of the tanh
      c[n][e] = tanh_fast(c[n][e]), h[n][e] = fmaf(rest, c[n][e], kept);
    }
}
// h of a warp in memory [64, 16] fp32.
template <class Visit>
__device__ __forceinline__ void each_pair(Visit visit) {
  const int row = warp_id() * 16 + (lane_id() >> 2), col = (lane_id() & 3) * 2;
#pragma unroll
  for (int n = 0; n < 2; ++n) visit(n, 0, row * kV + n * 8 + col), visit(n, 2, (row + 8) * kV + n * 8 + col);
}
__device__ __forceinline__ void read_state(float (&h)[2][4], const float* from) {
  each_pair([&](int n, int e, int at) {
    const float2 v = from ? *reinterpret_cast<const float2*>(from + at) : float2{0, 0};
    h[n][e] = v.x, h[n][e + 1] = v.y;
  });
}
__device__ __forceinline__ void write_state(const float (&h)[2][4], float* to) {
  each_pair([&](int n, int e, int at) { *reinterpret_cast<float2*>(to + at) = {h[n][e], h[n][e + 1]}; });
}

template <class Args>
const char* refusal(const Args& a, const Device& device) {
  if (device.kind != Device::kCuda || device.sm / 10 != 9) return "needs a GPU of compute capability 9.x";
  if (a.dtype != DType::kBf16) return "dtype is not bf16";
  if (a.key_dim != kK || a.value_dim != kV) return "built for key_dim 64, value_dim 16";
  if (a.q_stride >= 1 << 27) return "q has a token stride of 2^27 elements or more";
  if (a.q_stride % 8 != 0 || a.k_stride % 8 != 0 || a.v_stride % 8 != 0) return "a token stride is not a multiple of 8 elements";
  auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (!aligned(a.q) || !aligned(a.k) || !aligned(a.v)) return "q, k or v is not 16-byte aligned";
  return nullptr;
}

}  // namespace weft::kernels::m2rnn
