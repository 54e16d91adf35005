// A layer's end and the next mapping's projection in one pass: a warp takes 16 tokens and 32 columns of every stream at a time, mixes them in
// registers, writes the streams and gives the same words, rounded as written, to mma.sync. Four streams, bf16. Against mhc_post and
// mhc_project one reading of the streams is saved, a fifth of their bytes.
#include "kernels/mhc/mhc_layer.h"
#include "kernels/mhc/packed_weights.cuh"

namespace weft::kernels {
namespace {

constexpr int kStreams = 4, kStages = 3, kStageUnits = kStreams * kChunkUnits;

__device__ __forceinline__ void unpack8(const uint4& v, float (&f)[8]) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float2 two = unpack_bf16(words[j]);
    f[2 * j] = two.x, f[2 * j + 1] = two.y;
  }
}

__global__ void __launch_bounds__(256, 1) post_project(MhcPostFwd p, MhcProjectFwd a, const uint4* packed) {
  __shared__ uint4 ring[kStages][kStageUnits];
  const int lane = static_cast<int>(threadIdx.x & 31), q = lane / 4, r = lane % 4, chunks = p.dim / 32;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * 8 + (threadIdx.x >> 5)) * 16 + q;
  const bool here[2] = {row < p.tokens, row + 8 < p.tokens};
  float h[2][kStreams][kStreams], post[2][kStreams];  // [row][stream of y][stream of x]
#pragma unroll
  for (int s = 0; s < 2; ++s)
#pragma unroll
    for (int i = 0; i < kStreams; ++i) {
      const int64_t t = row + 8 * s;
      post[s][i] = here[s] ? p.p[t * kStreams + i] : 0.0f;
#pragma unroll
      for (int j = 0; j < kStreams; ++j) h[s][i][j] = here[s] ? p.h[(t * kStreams + (p.transposed ? j : i)) * kStreams + (p.transposed ? i : j)] : 0.0f;
    }
  uint4 next_x[kStreams][2], next_f[2];
  const auto read = [&](int chunk) {
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      const bool real = here[s] && chunk < chunks;
      const int64_t t = row + 8 * s, col = chunk * 32 + r * 8;
      next_f[s] = real ? *reinterpret_cast<const uint4*>(static_cast<const bf16*>(p.f) + t * p.dim + col) : make_uint4(0, 0, 0, 0);
#pragma unroll
      for (int j = 0; j < kStreams; ++j)
        next_x[j][s] = real ? *reinterpret_cast<const uint4*>(static_cast<const bf16*>(p.x) + (t * kStreams + j) * p.dim + col) : make_uint4(0, 0, 0, 0);
    }
  };
  const auto fetch = [&](int chunk, int stage) {  // the weights of this chunk of every stream
#pragma unroll
    for (int k = 0; k < kStageUnits / 256; ++k) {
      const int i = static_cast<int>(threadIdx.x) + 256 * k, stream = i / kChunkUnits;
      const bool real = chunk < chunks;
      cp_async16(&ring[stage][i], packed + (static_cast<int64_t>(stream) * chunks + (real ? chunk : 0)) * kChunkUnits + i % kChunkUnits, real);
    }
    cp_async_commit();
  };
  float acc[3][4] = {}, square[2] = {};
  fetch(0, 0), fetch(1, 1), read(0);
  int stage = 0;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    cp_async_wait<1>();
    __syncthreads();  // this chunk's weights have come, and every warp is done with those before
    fetch(chunk + 2, (stage + 2) % kStages);
    uint4 now_x[kStreams][2], now_f[2], y[kStreams][2];
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      now_f[s] = next_f[s];
#pragma unroll
      for (int j = 0; j < kStreams; ++j) now_x[j][s] = next_x[j][s];
    }
    read(chunk + 1);
    float b[8] = {};
    if (p.bias != nullptr) unpack8(*reinterpret_cast<const uint4*>(static_cast<const bf16*>(p.bias) + chunk * 32 + r * 8), b);
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      float f[8], sum[kStreams][8];
      unpack8(now_f[s], f);
#pragma unroll
      for (int i = 0; i < kStreams; ++i)
#pragma unroll
        for (int c = 0; c < 8; ++c) sum[i][c] = post[s][i] * (f[c] + b[c]);
#pragma unroll
      for (int j = 0; j < kStreams; ++j) {
        float x[8];
        unpack8(now_x[j][s], x);
#pragma unroll
        for (int i = 0; i < kStreams; ++i)
#pragma unroll
          for (int c = 0; c < 8; ++c) sum[i][c] += h[s][i][j] * x[c];
      }
#pragma unroll
      for (int i = 0; i < kStreams; ++i) {
        y[i][s] = make_uint4(pack_bf16(sum[i][0], sum[i][1]), pack_bf16(sum[i][2], sum[i][3]), pack_bf16(sum[i][4], sum[i][5]), pack_bf16(sum[i][6], sum[i][7]));
        float rounded[8];
        unpack8(y[i][s], rounded);
#pragma unroll
        for (int c = 0; c < 8; ++c) square[s] += rounded[c] * rounded[c];
        if (here[s]) *reinterpret_cast<uint4*>(static_cast<bf16*>(p.y) + ((row + 8 * s) * kStreams + i) * p.dim + chunk * 32 + r * 8) = y[i][s];
      }
    }
#pragma unroll
    for (int i = 0; i < kStreams; ++i) add_chunk(acc, y[i][0], y[i][1], ring[stage] + i * kChunkUnits, lane);
    stage = (stage + 1) % kStages;
  }
  cp_async_wait<0>();
  store_projection(a, row, r, acc, square);
}

}  // namespace

Support supports_mhc_post_project_fwd_sm90(const MhcPostProjectFwd& a, const Device& d) {
  const MhcPostFwd& p = a.post;
  if (a.project.num_out < 1 || a.project.num_out > kPackedOut) return {"num_out is not in 1 .. 24"};
  if (p.n != kStreams) return {"n is not 4"};
  if (p.dtype != DType::kBf16) return {"dtype is not bf16"};
  if (p.dim % 32 != 0 || p.dim == 0) return {"dim is not a multiple of 32"};
  if (!is_aligned(p.x, 16) || !is_aligned(p.f, 16) || !is_aligned(p.bias, 16) || !is_aligned(p.y, 16)) return {"a tensor is not aligned to 16 bytes"};
  return on_sm90(d);
}

size_t workspace_mhc_post_project_fwd_sm90(const MhcPostProjectFwd& a) { return packed_bytes(a.project.k); }

void mhc_post_project_fwd_sm90(const MhcPostProjectFwd& a, const Launch& launch) {
  if (a.post.tokens == 0) return;
  launch_grid(post_project, dim3(static_cast<unsigned>(ceil_div(a.post.tokens, 128))), dim3(256), 0, launch.stream, a.post, a.project,
              packed_weights(a.project, launch));
}

}  // namespace weft::kernels
