// What the passes of the gated delta rule share.
#pragma once
#include <initializer_list>

#include "kernels/common/device.cuh"
#include "kernels/common/packed.cuh"
#include "kernels/common/state_tile.cuh"
#include "kernels/gdn/gdn.h"

namespace weft::kernels::gdn {

constexpr int kL = kGdnChunk, kD = 128, kThreads = 256;

template <class Args>
Support supports(const Args& a, std::initializer_list<const void*> pointers, const Device& device) {
  if (const Support s = on_sm90(device); !s) return s;
  if (a.dtype != DType::kBf16) return {"dtype is not bf16"};
  if (a.key_dim != kD || a.value_dim != kD) return {"built for key_dim 128, value_dim 128"};
  if (a.key_heads < 1 || a.value_heads % a.key_heads != 0) return {"value_heads is not a multiple of key_heads"};
  for (const void* p : pointers)
    if (!is_aligned(p, 16)) return {"a tensor is not 16-byte aligned"};
  return {};
}

struct Decays {  // of a chunk's tokens, G the inclusive sum of g
  float to[kL], beta[kL], grow[kL], w[kL];  // log2(e) G; beta; e^G; e^{G_63 - G}
};
// By one warp: tokens 2 lane and 2 lane + 1 of the chunk with these g and beta.
__device__ __forceinline__ void set_decays(Decays& d, float g0, float g1, float b0, float b1) {
  const int i = 2 * lane_id();
  const float end1 = warp_scan(g0 + g1) * kLog2E, end0 = end1 - g1 * kLog2E, all = __shfl_sync(0xffffffffu, end1, 31);
  *reinterpret_cast<float2*>(&d.to[i]) = {end0, end1};
  *reinterpret_cast<float2*>(&d.beta[i]) = {b0, b1};
  *reinterpret_cast<float2*>(&d.grow[i]) = {exp2_fast(end0), exp2_fast(end1)};
  *reinterpret_cast<float2*>(&d.w[i]) = {exp2_fast(all - end0), exp2_fast(all - end1)};
}

// T of a chunk as the forward left it in shared memory, rows swizzled as Tile<64> and Panels<64> have them, by all threads of the block.
template <int kThreads>
__device__ __forceinline__ void load_inverse(bf16* to, const void* inverses, int64_t slot, int thread) {
  const bf16* from = static_cast<const bf16*>(inverses) + slot * (kL * kL);
#pragma unroll
  for (int u = thread; u < kL * kL / 8; u += kThreads) cp_async16(to + u * 8, from + u * 8, true);
}

// The passes of the backward; slots and layouts as the states of the forward.
void bwd_state(const GdnBwd&, bf16* d_states, bf16* d_right, cudaStream_t);
void bwd_chunk(const GdnBwd&, const bf16* d_states, const bf16* d_right, cudaStream_t);

}  // namespace weft::kernels::gdn
