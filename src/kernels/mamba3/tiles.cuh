// What the Mamba-3 kernels share. A chunk is 64 rows: 64 / R steps of R ranks, row = step * R + rank.
#pragma once
#include <cuda_fp16.h>

#include "kernels/common/state_tile.cuh"
#include "kernels/mamba3/mamba3.h"

namespace weft::kernels::mamba3 {

constexpr int kRows = 64, kP = kStateP, kN = kStateN;
template <int R>
constexpr int kShift = R == 4 ? 2 : R == 2 ? 1 : 0;  // row >> kShift is the step, row & (R - 1) the rank
constexpr float kTwoPi = 6.283185307179586f;

// The thread's number through a shuffle: a plain read would be repeated, slowly, wherever it is used.
__device__ __forceinline__ int thread_number() { return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x), lane_id()); }
__device__ __forceinline__ float wrap_angle(float v) { return v - kTwoPi * floorf(v * (1 / kTwoPi)); }
// cos and sin of any angle: shifted to [-pi, pi], where the fast functions are accurate to 5e-7.
__device__ __forceinline__ __half2 cos_sin(float angle) {
  float s, c;
  __sincosf(wrap_angle(angle) - kTwoPi / 2, &s, &c);
  return __floats2half2_rn(-c, -s);
}
__device__ __forceinline__ float sigmoid(float v) { return reciprocal_fast(1 + exp2_fast(-kLog2E * v)); }

// The order of a chunk's rows. A lane of wgmma's sums holds columns 2r, 2r + 1, 2r + 8, 2r + 9 of each 16 and rows q, q + 8: at rank 4 those
// are the four ranks of one step, so that a sum over ranks stays in a thread and one decay serves eight products.
template <int R>
struct Rows {
  static constexpr int kSteps = kRows / R, kOwnSteps = 4 / R;  // of a lane in 16 columns
  static __device__ __forceinline__ int step(int row) { return R == 4 ? (row >> 4) * 4 + (row >> 1 & 3) : row >> kShift<R>; }
  static __device__ __forceinline__ int rank(int row) { return R == 4 ? (row >> 3 & 1) * 2 + (row & 1) : row & (R - 1); }
  static __device__ __forceinline__ int row(int step, int rank) { return R == 4 ? (step >> 2) * 16 + (rank >> 1) * 8 + (step & 3) * 2 + (rank & 1) : step * R + rank; }
  // Of column 8 half + 2r + e of a block of 16: which of the lane's steps, which rank.
  static constexpr int own(int half, int e) { return R == 4 ? 0 : R == 2 ? half : 2 * half + e; }
  static constexpr int own_rank(int half, int e) { return R == 4 ? 2 * half + e : R == 2 ? e : 0; }
  static __device__ __forceinline__ int own_step(int block, int own, int r) { return R == 4 ? 4 * block + r : R == 2 ? 8 * block + 4 * own + r : 16 * block + 8 * (own >> 1) + 2 * r + (own & 1); }
};

// What the raw dt, a, lambda of a chunk become; one value a row of the chunk.
struct Decay {
  float cs[kRows], grow[kRows], w[kRows];  // log2(e) (inclusive sum of a); e^{sum}; scale e^{sum_end - sum}
  float scale[kRows], gamma[kRows];        // lambda_t dt_t + (1 - lambda_{t+1}) dt_{t+1}, the second 0 at the document's last token; lambda_t dt_t
};

// One warp. Raw values of step s at [s * stride]; they are 0 past the document's end, and dt, lambda reach one step past the chunk.
// visit(step, cs, from, grow, w, scale, gamma), each lane its steps.
template <int R, class Visit>
__device__ __forceinline__ void each_rate(const float* a, const float* dt, const float* lambda, int stride, Visit visit) {
  constexpr int kSteps = kRows / R, kPer = kSteps > 32 ? 2 : 1;
  const int lane = lane_id(), s0 = lane * kPer;
  float v[kPer], sum = 0;
#pragma unroll
  for (int e = 0; e < kPer; ++e) v[e] = s0 + e < kSteps ? a[(s0 + e) * stride] : 0.f, sum += v[e];
  const float upto = warp_scan(sum), end = __shfl_sync(0xffffffffu, upto, 31) * kLog2E;
  float cs = (upto - sum) * kLog2E;
#pragma unroll
  for (int e = 0; e < kPer; ++e) {
    const int s = s0 + e;
    if (s >= kSteps) break;
    cs += v[e] * kLog2E;
    const float gamma = lambda[s * stride] * dt[s * stride], scale = gamma + (1 - lambda[(s + 1) * stride]) * dt[(s + 1) * stride];
    visit(s, cs, cs - __log2f(scale), exp2_fast(cs), scale * exp2_fast(end - cs), scale, gamma);
  }
}
template <int R>
__device__ __forceinline__ void chunk_decay(Decay& d, const float* a, const float* dt, const float* lambda, int stride) {
  each_rate<R>(a, dt, lambda, stride, [&](int step, float cs, float, float grow, float w, float scale, float gamma) {
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int row = step * R + r;
      d.cs[row] = cs, d.grow[row] = grow, d.w[row] = w, d.scale[row] = scale, d.gamma[row] = gamma;
    }
  });
}

// Four (cos, sin) in one 16-byte load.
struct Turns4 {
  uint4 raw;
  __device__ __forceinline__ explicit Turns4(const __half2* p) : raw(*reinterpret_cast<const uint4*>(p)) {}
  __device__ __forceinline__ float2 operator[](int i) const {
    const uint32_t w = i == 0 ? raw.x : i == 1 ? raw.y : i == 2 ? raw.z : raw.w;
    return __half22float2(*reinterpret_cast<const __half2*>(&w));
  }
};

// Turns by nothing behind those of each step, where the last 8 columns that turn do so in part. Thread t of n; nobody writes there again.
__device__ __forceinline__ void whole_turns(__half2* turn, int stride, int angles, int steps, int t, int n) {
  if (angles % 8 == 0) return;
  for (int i = t; i < steps * 4; i += n) turn[(i >> 2) * stride + angles + (i & 3)] = __floats2half2_rn(1, 0);
}

// Adds the bias to 8 + 8 values (columns 8 u.. and 64 + 8 u..) of one row and turns them by the angles; kTurn -1 turns back (no bias then).
// cs: cos, sin of the row's step, one pair an angle, 16-byte aligned; where angles is not a multiple of 8, four more are read: at rank 4 they
// must be (1, 0), as whole_turns leaves them.
template <int R>
__device__ __forceinline__ void rotate(float (&lo)[8], float (&hi)[8], int u, const __half2* cs, int angles, float direction) {
  if constexpr (R > 1) {
    if (8 * u < angles) {
      const Turns4 turns[2] = {Turns4(cs + 8 * u), Turns4(cs + 8 * u + 4)};
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const float2 t = turns[e >> 2][e & 3];
        const float x = lo[e], y = hi[e], s = direction * t.y;
        if (R == 4 || 8 * u + e < angles) lo[e] = x * t.x - y * s, hi[e] = x * s + y * t.x;
      }
    }
  } else {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float(&v)[8] = half ? hi : lo;
      if (half * 32 + 4 * u >= angles) continue;  // angles is a multiple of 4
      const Turns4 turns(cs + half * 32 + 4 * u);
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        const float2 t = turns[m];
        const float x = v[2 * m], y = v[2 * m + 1], s = direction * t.y;
        v[2 * m] = x * t.x - y * s, v[2 * m + 1] = x * s + y * t.x;
      }
    }
  }
}

__device__ __forceinline__ void unpack8(float (&v)[8], const uint4& p) {
  const uint32_t w[4] = {p.x, p.y, p.z, p.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 f = unpack_bf16(w[i]);
    v[2 * i] = f.x, v[2 * i + 1] = f.y;
  }
}
__device__ __forceinline__ void unpack8(float (&v)[8], const bf16* from) { unpack8(v, *reinterpret_cast<const uint4*>(from)); }
__device__ __forceinline__ void add8(float (&v)[8], const float* w) {
#pragma unroll
  for (int e = 0; e < 8; e += 4) {
    const float4 f = __ldg(reinterpret_cast<const float4*>(w + e));
    v[e] += f.x, v[e + 1] += f.y, v[e + 2] += f.z, v[e + 3] += f.w;
  }
}
__device__ __forceinline__ void add_shared8(float (&v)[8], const float* w) {
#pragma unroll
  for (int e = 0; e < 8; e += 4) {
    const float4 f = *reinterpret_cast<const float4*>(w + e);
    v[e] += f.x, v[e + 1] += f.y, v[e + 2] += f.z, v[e + 3] += f.w;
  }
}
__device__ __forceinline__ void times_shared8(float (&v)[8], const float (&a)[8], const float* w) {
#pragma unroll
  for (int e = 0; e < 8; e += 4) {
    const float4 f = *reinterpret_cast<const float4*>(w + e);
    v[e] = a[e] * f.x, v[e + 1] = a[e + 1] * f.y, v[e + 2] = a[e + 2] * f.z, v[e + 3] = a[e + 3] * f.w;
  }
}
__device__ __forceinline__ void pack8(bf16* to, const float (&v)[8]) {
  *reinterpret_cast<uint4*>(to) = uint4{pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])};
}

// dt, a, lambda of a chunk's steps and of one more, where the document has them. Thread t of more than `steps`.
__device__ __forceinline__ void load_rates(float* dt, float* a, float* lambda, const Mamba3Inputs& in, int head, int64_t first, int64_t left, int steps, int t) {
  if (t > steps) return;
  const bool ok = t < left;
  const int64_t i = (ok ? first + t : first) * in.heads + head;
  cp_async4(dt + t, in.dt + i, ok), cp_async4(a + t, in.a + i, ok), cp_async4(lambda + t, in.lambda + i, ok);
}

const char* refusal(const Mamba3Inputs&, const Device&);

}  // namespace weft::kernels::mamba3
