// proj = x W^T and |x| in one pass over x on mma.sync: the fp32 weights are two bf16 addends, a warp takes 16 tokens. Weights come
// through a ring in shared memory that the block's warps share, x straight to registers, both read ahead.
#include "kernels/common/device.cuh"
#include "kernels/common/mma.cuh"
#include "kernels/mhc/mhc_map.h"
#include "kernels/mhc/packed_weights.cuh"

namespace weft::kernels {
namespace {

constexpr int kGroup = 4, kStages = 3;  // chunks of 32 columns handled at once; groups in the ring
constexpr int kGroupUnits = kGroup * kChunkUnits;

using dev::block_reduce;
using dev::to_f32;

// Any K and dtype: a block a token.
template <class T>
__global__ void __launch_bounds__(256) project_plain(MhcProjectFwd a) {
  __shared__ float scratch[33];
  const T* x = static_cast<const T*>(a.x) + blockIdx.x * static_cast<int64_t>(a.k);
  float square = 0;
  for (int c = threadIdx.x; c < a.k; c += 256) square += to_f32(x[c]) * to_f32(x[c]);
  const float norm = sqrtf(block_reduce(square, scratch));
  for (int o = 0; o < a.num_out; ++o) {
    float sum = 0;
    for (int c = threadIdx.x; c < a.k; c += 256) sum += to_f32(x[c]) * a.w[o * static_cast<int64_t>(a.k) + c];
    sum = block_reduce(sum, scratch);
    if (threadIdx.x == 0) a.proj[blockIdx.x * static_cast<int64_t>(a.num_out) + o] = sum;
  }
  if (threadIdx.x == 0) a.norm[blockIdx.x] = norm, a.r[blockIdx.x] = 1.0f / (norm / sqrtf(static_cast<float>(a.k)) + a.eps);
}

__global__ void __launch_bounds__(256, 2) project_fwd(MhcProjectFwd a, const uint4* packed) {
  __shared__ uint4 ring[kStages][kGroupUnits];
  const int lane = threadIdx.x & 31, q = lane / 4, r = lane % 4, chunks = a.k / 32;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * 8 + (threadIdx.x >> 5)) * 16 + q;
  const bool low = row < a.tokens, high = row + 8 < a.tokens;
  const bf16 *x_low = static_cast<const bf16*>(a.x) + row * a.k + r * 8, *x_high = x_low + 8 * static_cast<int64_t>(a.k);
  float acc[3][4] = {}, square[2] = {};
  uint4 next[kGroup][2];
  auto read = [&](int c0) {
#pragma unroll
    for (int u = 0; u < kGroup; ++u) {
      const bool here = c0 + u < chunks;
      next[u][0] = low && here ? *reinterpret_cast<const uint4*>(x_low + (c0 + u) * 32) : make_uint4(0, 0, 0, 0);
      next[u][1] = high && here ? *reinterpret_cast<const uint4*>(x_high + (c0 + u) * 32) : make_uint4(0, 0, 0, 0);
    }
  };
  auto fetch = [&](int c0, int stage) {
#pragma unroll
    for (int k = 0; k < kGroupUnits / 256; ++k) {
      const int i = static_cast<int>(threadIdx.x) + 256 * k;
      cp_async16(&ring[stage][i], packed + static_cast<int64_t>(c0) * kChunkUnits + i, c0 + i / kChunkUnits < chunks);
    }
    cp_async_commit();
  };
  fetch(0, 0), fetch(kGroup, 1), read(0);
  int stage = 0;
  for (int c0 = 0; c0 < chunks; c0 += kGroup) {
    cp_async_wait<1>();
    __syncthreads();  // this group has come, and every warp is done with the one before
    fetch(c0 + 2 * kGroup, (stage + 2) % kStages);
    uint4 v[kGroup][2];
#pragma unroll
    for (int u = 0; u < kGroup; ++u) v[u][0] = next[u][0], v[u][1] = next[u][1];
    read(c0 + kGroup);
#pragma unroll
    for (int u = 0; u < kGroup; ++u) {
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        const uint32_t words[4] = {v[u][s].x, v[u][s].y, v[u][s].z, v[u][s].w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float2 f = unpack_bf16(words[j]);
          square[s] += f.x * f.x + f.y * f.y;
        }
      }
      add_chunk(acc, v[u][0], v[u][1], ring[stage] + u * kChunkUnits, lane);
    }
    stage = (stage + 1) % kStages;
  }
  cp_async_wait<0>();
  store_projection(a, row, r, acc, square);
}

}  // namespace

Support supports_mhc_project_fwd_sm90(const MhcProjectFwd& a, const Device& d) {
  if (a.num_out < 1 || a.num_out > kPackedOut) return {"num_out is not in 1 .. 24"};
  return on_sm90(d, a.dtype);
}

size_t workspace_mhc_project_fwd_sm90(const MhcProjectFwd& a) { return packed_bytes(a.k); }

void mhc_project_fwd_sm90(const MhcProjectFwd& a, const Launch& launch) {
  if (a.tokens == 0) return;
  if (a.dtype != DType::kBf16 || a.k % 32 != 0 || !is_aligned(a.x, 16)) {
    if (a.dtype == DType::kBf16)
      launch_grid(project_plain<bf16>, dim3(static_cast<unsigned>(a.tokens)), dim3(256), 0, launch.stream, a);
    else
      launch_grid(project_plain<float>, dim3(static_cast<unsigned>(a.tokens)), dim3(256), 0, launch.stream, a);
    return;
  }
  launch_grid(project_fwd, dim3(static_cast<unsigned>(ceil_div(a.tokens, 128))), dim3(256), 0, launch.stream, a, packed_weights(a, launch));
}

}  // namespace weft::kernels
