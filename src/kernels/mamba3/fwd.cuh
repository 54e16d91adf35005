// The Mamba-3 forward: what its two kinds of warps share. One warpgroup feeds: it turns the group's B and C into q and k of the head, two chunks
// ahead at most; one multiplies, with the head's state in its registers.
#pragma once
#include "kernels/common/state_group.cuh"
#include "kernels/mamba3/tiles.cuh"

namespace weft::kernels::mamba3 {

enum FwdBarrier { kFeed = 1, kFull = 2, kFree = 4, kOwn = 6 };  // kFull, kFree: + stage

// cos and sin of a chunk's angles as the feeding threads read them, 16 bytes (two angles) at a time: [step][piece][unit]. A unit is the
// 8 columns (and, above rank 1, their partners 64 on) that a thread turns.
template <int R>
struct TurnTable {
  static constexpr int kPerUnit = R == 1 ? 4 : 8, kStride = kPerUnit * 8 + 4;  // in float2; 32 bytes more than a multiple of the banks
  static __device__ __forceinline__ int at(int step, int angle) {
    const int unit = angle / kPerUnit, in = angle % kPerUnit;
    return step * kStride + (in >> 1) * 16 + unit * 2 + (in & 1);
  }
};

template <int R>
struct FwdSmem {
  static constexpr int kSteps = kRows / R, kAngles = R == 1 ? 32 : 64, kXStride = kP + 8;
  struct Tiles {
    bf16 q[kRows * kN], k[kRows * kN];  // Panels<128>
  } tiles[2];
  bf16 M[kRows * kRows];  // Panels<64>
  struct Small {
    bf16 x[kSteps * kXStride], z[kSteps * kXStride];
    float cs[kSteps], from[kSteps], grow[kSteps], w[kSteps], gamma[kSteps];  // as in Decay
  } small[2];
  bf16 o[2][kSteps * kXStride];
  alignas(16) float2 turn[kSteps * TurnTable<R>::kStride];
  float bias[2][R * kN];  // of B, C
  bf16 round_bias[2][R * kN];
  alignas(16) float mimo[3][kP * R];  // [p][rank] of x, z, o
  alignas(16) float omega[2][kSteps * kAngles];
  struct alignas(16) Raw {
    float dt[kSteps + 4], a[kSteps + 4], lambda[kSteps + 4];
  } raw[2];
};

// What one block works on.
struct FwdPlace {
  int document, head, group, chunks, start, length;  // start, length: tokens
};

}  // namespace weft::kernels::mamba3
