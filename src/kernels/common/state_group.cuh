// A recurrent state [P = 64, N = 128] of one head as the wgmma sums of a warpgroup: element e of a lane is row 16 warp + lane / 4 + 8 (e / 2 % 2),
// column 8 (e / 4) + 2 (lane % 4) + e % 2. `row` is 16 warp + lane / 4.
#pragma once
#include "kernels/common/state_tile.cuh"
#include "kernels/common/wgmma.cuh"

namespace weft::kernels {

constexpr int kGroup = 128;                   // threads of a warpgroup
constexpr size_t kSmemLimit = 227 * 1024;  // of a block

// The same value, unknown to the compiler where it is made: what follows from it is not computed ahead of a long loop and spilled.
__device__ __forceinline__ int fresh(int v) {
#if !defined(WEFT_EMULATE)
  asm volatile("" : "+r"(v));
#endif
  return v;
}

// visit(element, the element right of it, row, column)
template <class Visit>
__device__ __forceinline__ void each_pair(float (&S)[64], int row, Visit visit) {
#pragma unroll
  for (int n = 0; n < 16; ++n)
#pragma unroll
    for (int h = 0; h < 2; ++h) visit(S[4 * n + 2 * h], S[4 * n + 2 * h + 1], row + 8 * h, n * 8 + (lane_id() & 3) * 2);
}
__device__ __forceinline__ void read_state(float (&S)[64], const float* from, int row) {  // zeros without `from`
  each_pair(S, row, [&](float& left, float& right, int p, int n) {
    const float2 v = from ? *reinterpret_cast<const float2*>(from + p * kStateN + n) : float2{0, 0};
    left = v.x, right = v.y;
  });
}
__device__ __forceinline__ void write_state(float (&S)[64], float* to, int row) {
  each_pair(S, row, [&](float left, float right, int p, int n) { *reinterpret_cast<float2*>(to + p * kStateN + n) = {left, right}; });
}

// The state as the first operand of a product over N: run<...>(y, operand[k], ...) for 16 columns from 16 k.
__device__ __forceinline__ void pack_state(uint32_t (&operand)[8][4], const float (&S)[64]) {
#pragma unroll
  for (int k = 0; k < 8; ++k)
#pragma unroll
    for (int e = 0; e < 4; ++e) operand[k][e] = pack_bf16(S[8 * k + 2 * e], S[8 * k + 2 * e + 1]);
}
// Its rows in bf16, 16 bytes a store: to[p * stride + n].
__device__ __forceinline__ void save_state(bf16* to, int stride, const uint32_t (&operand)[8][4], int row) {
  to += row * stride + (lane_id() & 3) * 8;
#pragma unroll
  for (int h = 0; h < 2; ++h)
#pragma unroll
    for (int g = 0; g < 4; ++g) {
      uint32_t v[4] = {operand[2 * g][h], operand[2 * g][2 + h], operand[2 * g + 1][h], operand[2 * g + 1][2 + h]};
      transpose_quad(v);
      *reinterpret_cast<uint4*>(to + h * 8 * stride + g * 32) = {v[0], v[1], v[2], v[3]};
    }
}

// Zeros right of the 16 x 16 diagonal blocks of a 64 x 64 matrix, which triangular products read and nothing else writes. By a warpgroup.
__device__ __forceinline__ void clear_right(const Panels<64>& matrix, int warp, int lane) {
  const int row = warp * 16 + (lane >> 2), col = (lane & 3) * 2;
#pragma unroll
  for (int n = 2; n < 8; ++n)
    if (n > 2 * warp + 1) *reinterpret_cast<uint32_t*>(matrix.at(row, n * 8 + col)) = *reinterpret_cast<uint32_t*>(matrix.at(row + 8, n * 8 + col)) = 0;
}

// Thread t of kThreads: 64 rows of kCols columns as panels; rows from `left` on become zeros. The caller commits and waits.
template <int kCols, int kThreads>
__device__ __forceinline__ void load_panels(bf16* to, const bf16* from, int64_t stride, int left, int t) {
  constexpr int kUnits = kCols / 8, kRows = kThreads / kUnits;  // at once: a multiple of 8, where the swizzle repeats
  static_assert(kRows % 8 == 0);
  const int row = t / kUnits, col = t % kUnits * 8;
  bf16* place = Panels<kCols>{to}.unit(row, col);
#pragma unroll
  for (int i = 0; i < 64; i += kRows) {
    const bool ok = row + i < left;
    cp_async16(place + i * 64, ok ? from + (row + i) * stride + col : from, ok);
  }
}

}  // namespace weft::kernels
