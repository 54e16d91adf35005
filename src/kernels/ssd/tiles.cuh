// What the SSD kernels share: sizes, the decay of one chunk, what they refuse.
#pragma once
#include "kernels/common/state_tile.cuh"
#include "kernels/ssd/ssd.h"

namespace weft::kernels::ssd {

constexpr int kL = kSsdChunk, kP = kStateP, kN = kStateN;

// One warp: cs = inclusive sum of A dt over the chunk's 64 tokens (dt = 0 past its end, so cs[63] is the chunk's total).
// Lane l holds tokens 2l and 2l + 1 in dt0, dt1.
__device__ __forceinline__ void chunk_decay(float dt0, float dt1, float A, float* cs) {
  const float a0 = dt0 * A, a1 = dt1 * A, end = warp_scan(a0 + a1);
  cs[2 * lane_id()] = end - a1;
  cs[2 * lane_id() + 1] = end;
}

// Two heads a block, where that leaves enough blocks for 132 processors twice; the emulation takes both forms at small shapes.
template <class Args>
bool two_heads(const Args& a) {
#if defined(WEFT_EMULATE)
  constexpr int kEnough = 3;
#else
  constexpr int kEnough = 264;
#endif
  return a.heads / a.groups % 2 == 0 && a.heads * a.documents > kEnough;
}

template <class Args>
const char* refusal(const Args& a, const Device& device) {
  if (device.kind != Device::kCuda || device.sm / 10 != 9) return "needs a GPU of compute capability 9.x";
  if (a.dtype != DType::kBf16) return "dtype is not bf16";
  if (a.head_dim != kP || a.state_dim != kN) return "built for head_dim 64, state_dim 128";
  if (a.groups < 1 || a.heads % a.groups != 0) return "heads is not a multiple of groups";
  if (a.x_stride % 8 != 0 || a.B_stride % 8 != 0 || a.C_stride % 8 != 0) return "a token stride is not a multiple of 8 elements";
  auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (!aligned(a.x) || !aligned(a.B) || !aligned(a.C)) return "x, B or C is not 16-byte aligned";
  return nullptr;
}

}  // namespace weft::kernels::ssd
