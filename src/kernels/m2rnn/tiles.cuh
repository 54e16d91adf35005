// What the M2RNN kernels share. A block of four warps walks one document of one head; h [64, 16] lies in the registers of mma.sync sums,
// 16 rows a warp, so that h W needs no exchange: the sums of two 8-column tiles are the A operand of the next product. Products of the
// recurrence split both operands into two bf16 parts (error 2^-16), which has the shorter chain, or in the backward round them to tf32 (2^-10),
// which takes fewer instructions. tanh is the hardware's (absolute error 5e-4 at most).
#pragma once
#include "kernels/common/mma.cuh"
#include "kernels/m2rnn/m2rnn.h"

namespace weft::kernels::m2rnn {

constexpr int kK = 64, kV = 16, kChunk = kM2rnnChunk, kThreads = 128;

__device__ __forceinline__ float tanh_fast(float v) {
#if defined(WEFT_EMULATE)
  return std::tanh(v);
#else
  float r;
  asm("tanh.approx.f32 %0, %1;\n" : "=f"(r) : "f"(v));
  return r;
#endif
}

// The two bf16 parts of a matrix [16 rows, 16 columns] held as two C fragments, as A fragments.
struct SplitA {
  uint32_t high[4], low[4];
  __device__ __forceinline__ explicit SplitA(const float (&c)[2][4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float v0 = c[i >> 1][(i & 1) * 2], v1 = c[i >> 1][(i & 1) * 2 + 1];
      high[i] = pack_bf16(v0, v1);
      const float2 h = unpack_bf16(high[i]);
      low[i] = pack_bf16(v0 - h.x, v1 - h.y);
    }
  }
};
// W [16, 16] fp32 as B fragments of two column tiles; transposed: W^T.
struct SplitB {
  uint32_t high[2][2], low[2][2];
  __device__ __forceinline__ SplitB(const float* W, bool transposed) {
    const int q = lane_id() >> 2, r = lane_id() & 3;
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int row = k * 8 + r * 2, col = n * 8 + q;
        const float v0 = transposed ? W[col * kV + row] : W[row * kV + col], v1 = transposed ? W[col * kV + row + 1] : W[(row + 1) * kV + col];
        high[n][k] = pack_bf16(v0, v1);
        const float2 h = unpack_bf16(high[n][k]);
        low[n][k] = pack_bf16(v0 - h.x, v1 - h.y);
      }
  }
};
__device__ __forceinline__ void add_product(float (&c)[2][4], const float (&of)[2][4], const SplitB& b) {
  const SplitA a(of);
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    float small[4] = {};
    mma_bf16(small, a.low, b.high[n][0], b.high[n][1]);
    mma_bf16(c[n], a.high, b.high[n][0], b.high[n][1]);
    mma_bf16(small, a.high, b.low[n][0], b.low[n][1]);
#pragma unroll
    for (int e = 0; e < 4; ++e) c[n][e] += small[e];
  }
}

// W [16, 16] as tf32 B fragments of two column tiles (n) and two row tiles (k); transposed: W^T. The k slots r and r + 4 of a tile stand for its
// rows 2 r and 2 r + 1, so that the sums of one product are the A operand of the next as they lie.
struct RoundedB {
  uint32_t w[2][2][2];
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

// Rows of one chunk in shared memory.
struct Rows {
  bf16 q[kChunk * kK], k[kChunk * kK], v[kChunk * kV], dy[kChunk * kV];
  float f[kChunk];
};
template <class Args>
__device__ __forceinline__ void load_rows(Rows& to, const Args& a, const void* dy, int64_t first, int valid, int head) {
  const int t = threadIdx.x;
#pragma unroll
  for (int i = 0; i < kChunk * 8 / kThreads; ++i) {
    const int u = i * kThreads + t, row = u >> 3, col = (u & 7) * 8;
    const bool ok = row < valid;
    cp_async16(to.q + row * kK + col, static_cast<const bf16*>(a.q) + (ok ? (first + row) * a.q_stride + col : 0), ok);
    cp_async16(to.k + row * kK + col, static_cast<const bf16*>(a.k) + (ok ? (first + row) * a.k_stride + col : 0), ok);
  }
  {
    const int row = t >> 1, col = (t & 1) * 8;
    const bool ok = row < valid;
    cp_async16(to.v + row * kV + col, static_cast<const bf16*>(a.v) + (ok ? (first + row) * a.v_stride + head * kV + col : 0), ok);
    if (dy) cp_async16(to.dy + row * kV + col, static_cast<const bf16*>(dy) + (ok ? ((first + row) * a.heads + head) * kV + col : 0), ok);
  }
  if (t < kChunk) cp_async4(to.f + t, a.f + (t < valid ? (first + t) * a.heads + head : 0), t < valid);
  cp_async_commit();
}

// Sums over the 16 rows of a warp of four columns a lane (2 r, 2 r + 1, 8 + 2 r, 9 + 2 r); lane (q, r) gets column c(q, r) = 8 (q & 1) + 2 r + (q >> 1 & 1).
__device__ __forceinline__ float column_sums(float a0, float a1, float b0, float b1) {
  const int q = lane_id() >> 2;
  const bool second = q & 1, odd = q & 2;
  float x = second ? b0 : a0, y = second ? b1 : a1;
  x += __shfl_xor_sync(0xffffffffu, second ? a0 : b0, 4), y += __shfl_xor_sync(0xffffffffu, second ? a1 : b1, 4);
  float s = odd ? y : x;
  s += __shfl_xor_sync(0xffffffffu, odd ? x : y, 8);
  return s + __shfl_xor_sync(0xffffffffu, s, 16);
}
__device__ __forceinline__ int column_of_lane() {
  const int q = lane_id() >> 2, r = lane_id() & 3;
  return 8 * (q & 1) + 2 * r + (q >> 1 & 1);
}

// One step: c = tanh(h W + k v^T), h = f h + (1 - f) c. k0, k1: of rows q, q + 8; v: of the lane's four columns.
template <class W16>
__device__ __forceinline__ void step(float (&h)[2][4], float (&c)[2][4], const W16& W, float k0, float k1, const float (&v)[2][2], float f) {
#pragma unroll
  for (int n = 0; n < 2; ++n) c[n][0] = k0 * v[n][0], c[n][1] = k0 * v[n][1], c[n][2] = k1 * v[n][0], c[n][3] = k1 * v[n][1];
  add_product(c, h, W);
#pragma unroll
  for (int n = 0; n < 2; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) c[n][e] = tanh_fast(c[n][e]), h[n][e] = f * h[n][e] + (1 - f) * c[n][e];
}
__device__ __forceinline__ void four(float (&v)[2][2], const bf16* row) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const float2 p = unpack_bf16(*reinterpret_cast<const uint32_t*>(row + n * 8 + (lane_id() & 3) * 2));
    v[n][0] = p.x, v[n][1] = p.y;
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
  if (a.q_stride % 8 != 0 || a.k_stride % 8 != 0 || a.v_stride % 8 != 0) return "a token stride is not a multiple of 8 elements";
  auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (!aligned(a.q) || !aligned(a.k) || !aligned(a.v)) return "q, k or v is not 16-byte aligned";
  return nullptr;
}

}  // namespace weft::kernels::m2rnn
