// Sparse MLA backward. P = 2^{scale log2(e) q k - lse} again, dP = do v^T, dS = scale P (dP - sum_d o do); dq = dS k; each key row gets
// dS^T q and, in its first 64 columns, P^T do: added in fp32 to a [T, 128] buffer. NOT deterministic: the adds of different tokens meet in
// any order. Floor at T 32768, K 256, H 32: 2.7e11 FLOP (0.34 ms at 800 TFLOP/s); 4.3 GB of adds in L2, 2.1 GB gathered.
#include "kernels/sparse_mla/tiles.cuh"

namespace weft::kernels {
namespace sparse_mla {
namespace {

struct Smem {
  bf16 q[kHeads * kD];
  bf16 d_o[kHeads * kV];
  bf16 k[4][kKeys * kD];  // at the end: the warp's part of dq, fp32 [32, 128]
  bf16 p[4][kHeads * kKeys], ds[4][kHeads * kKeys];
  float lse[kHeads], delta[kHeads];
};

__device__ __forceinline__ void add_row_pair(float* p, float a, float b) {
#if defined(WEFT_EMULATE)
  p[0] += a, p[1] += b;
#else
  asm volatile("red.global.add.v2.f32 [%0], {%1, %2};\n" ::"l"(p), "f"(a), "f"(b) : "memory");
#endif
}

template <bool kCodes>
__global__ void __launch_bounds__(kThreads, 2) bwd_kernel(const SparseMlaBwd a, float* dkv) {
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<Smem*>(raw);
  const int blocks = (a.heads + kHeads - 1) / kHeads, head0 = static_cast<int>(blockIdx.x % blocks) * kHeads, warp = warp_id(), lane = lane_id(), q = lane >> 2, r = lane & 3;
  const int64_t t = blockIdx.x / blocks;
  const int heads = a.heads - head0 < kHeads ? a.heads - head0 : kHeads;
  const Tile<kD> Q{sm.q}, K{sm.k[warp]};
  const Tile<kV> DO{sm.d_o};
  const Tile<kKeys> P{sm.p[warp]}, DS{sm.ds[warp]};
  if constexpr (!kCodes) load_queries<kCodes>(Q, a, t, head0, heads);
  load_tile_async<kHeads, kV, kThreads>(DO, static_cast<const bf16*>(a.d_o) + (t * a.heads + head0) * kV, kV, heads);
  {
    const int row = threadIdx.x >> 2, c0 = (threadIdx.x & 3) * 16;
    float sum = 0;
    if (row < heads) {
      const int64_t at = (t * a.heads + head0 + row) * kV + c0;
#pragma unroll
      for (int c = 0; c < 16; c += 2) {
        const float2 x = unpack_bf16(*reinterpret_cast<const uint32_t*>(static_cast<const bf16*>(a.o) + at + c)), g = unpack_bf16(*reinterpret_cast<const uint32_t*>(static_cast<const bf16*>(a.d_o) + at + c));
        sum += x.x * g.x + x.y * g.y;
      }
    }
    sum = warp_sum<4>(sum);
    if (c0 == 0) sm.delta[row] = sum, sm.lse[row] = row < heads ? a.lse[t * a.heads + head0 + row] : 0.f;
  }
  const int start = document_start(a.cu_seqlens, a.documents, t);
  const float scale = a.scale * kLog2E;
  float dq[2][16][4] = {};
  bool first = true;
  for (int k0 = warp * kKeys; k0 < a.top_k || first; k0 += 4 * kKeys) {
    const int32_t* indices = a.indices + t * a.top_k + (k0 < a.top_k ? k0 : 0);
    uint32_t valid[2];
    float key_scale[2];
    __syncwarp();
    gather<kCodes>(K, a, indices, a.top_k - k0, t, start, valid, key_scale);
    cp_async_commit();
    if constexpr (kCodes) {
      if (first) load_queries<kCodes>(Q, a, t, head0, heads);  // behind the keys, whose way is longer
    }
    cp_async_wait<0>();
    if constexpr (kCodes) __syncwarp(), widen(K, key_scale);
    if (first) __syncthreads(); else __syncwarp();
    first = false;
    if ((valid[0] | valid[1]) == 0) continue;
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      float s[8][4] = {}, dp[8][4] = {};
#pragma unroll
      for (int k = 0; k < kD / 16; ++k) {
        uint32_t fa[4], fb[4], fg[4];
        load_a(fa, Q, m * 16, k * 16);
        if (k < kV / 16) load_a(fg, DO, m * 16, k * 16);
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          load_b(fb, K, n * 16, k * 16);
          mma_bf16(s[2 * n], fa, fb[0], fb[1]);
          mma_bf16(s[2 * n + 1], fa, fb[2], fb[3]);
          if (k < kV / 16) {
            mma_bf16(dp[2 * n], fg, fb[0], fb[1]);
            mma_bf16(dp[2 * n + 1], fg, fb[2], fb[3]);
          }
        }
      }
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = m * 16 + h * 8 + q;
        const float lse = sm.lse[row], delta = sm.delta[row];
#pragma unroll
        for (int n = 0; n < 8; ++n) {
          float p[2], d[2];
#pragma unroll
          for (int b = 0; b < 2; ++b) {
            p[b] = counts(valid, n * 8 + r * 2 + b) ? exp2_fast(s[n][h * 2 + b] * scale - lse) : 0.f;
            d[b] = p[b] == 0 ? 0.f : p[b] * (dp[n][h * 2 + b] - delta) * a.scale;
          }
          *reinterpret_cast<uint32_t*>(P.at(row, n * 8 + r * 2)) = pack_bf16(p[0], p[1]);
          *reinterpret_cast<uint32_t*>(DS.at(row, n * 8 + r * 2)) = pack_bf16(d[0], d[1]);
        }
      }
    }
    __syncwarp();
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int k = 0; k < kKeys / 16; ++k) {
        uint32_t fa[4], fb[4];
        load_a(fa, DS, m * 16, k * 16);
#pragma unroll
        for (int n = 0; n < kD / 16; ++n) {
          load_b_trans(fb, K, k * 16, n * 16);
          mma_bf16(dq[m][2 * n], fa, fb[0], fb[1]);
          mma_bf16(dq[m][2 * n + 1], fa, fb[2], fb[3]);
        }
      }
    for (int m = 0; m < kKeys / 16; ++m) {  // rows of the key gradient, 16 at a time
      const int key0 = m * 16 + q, key1 = key0 + 8;
      const bool ok0 = counts(valid, key0), ok1 = counts(valid, key1);
      float* to0 = dkv + (ok0 ? static_cast<int64_t>(indices[key0]) * kD : 0) + r * 2;
      float* to1 = dkv + (ok1 ? static_cast<int64_t>(indices[key1]) * kD : 0) + r * 2;
      uint32_t fs[2][4], fp[2][4];
#pragma unroll
      for (int k = 0; k < 2; ++k) load_a_trans(fs[k], DS, m * 16, k * 16), load_a_trans(fp[k], P, m * 16, k * 16);
#pragma unroll
      for (int n = 0; n < kD / 16; ++n) {
        float c[2][4] = {};
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          uint32_t fb[4];
          load_b_trans(fb, Q, k * 16, n * 16);
          mma_bf16(c[0], fs[k], fb[0], fb[1]);
          mma_bf16(c[1], fs[k], fb[2], fb[3]);
          if (n < kV / 16) {
            load_b_trans(fb, DO, k * 16, n * 16);
            mma_bf16(c[0], fp[k], fb[0], fb[1]);
            mma_bf16(c[1], fp[k], fb[2], fb[3]);
          }
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          if (ok0) add_row_pair(to0 + n * 16 + i * 8, c[i][0], c[i][1]);
          if (ok1) add_row_pair(to1 + n * 16 + i * 8, c[i][2], c[i][3]);
        }
      }
    }
  }
  __syncwarp();
  float* part = reinterpret_cast<float*>(sm.k[warp]);
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = m * 16 + h * 8 + q;
#pragma unroll
      for (int n = 0; n < 16; ++n) *reinterpret_cast<float2*>(part + row * kD + ((n * 8 + r * 2) ^ ((row & 3) << 3))) = {dq[m][n][h * 2], dq[m][n][h * 2 + 1]};
    }
  __syncthreads();
  for (int i = threadIdx.x; i < heads * kD / 2; i += kThreads) {
    const int row = i / (kD / 2), c = i % (kD / 2) * 2;
    float v0 = 0, v1 = 0;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const float2 v = *reinterpret_cast<const float2*>(reinterpret_cast<const float*>(sm.k[w]) + row * kD + (c ^ ((row & 3) << 3)));
      v0 += v.x, v1 += v.y;
    }
    *reinterpret_cast<uint32_t*>(static_cast<bf16*>(a.dq) + (t * a.heads + head0 + row) * kD + c) = pack_bf16(v0, v1);
  }
}

__global__ void __launch_bounds__(256) zero_kernel(float4* p, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i < count) p[i] = float4{0, 0, 0, 0};
}
__global__ void __launch_bounds__(256) round_kernel(const float4* from, uint2* to, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i < count) to[i] = uint2{pack_bf16(from[i].x, from[i].y), pack_bf16(from[i].z, from[i].w)};
}

}  // namespace
}  // namespace sparse_mla

Support supports_sparse_mla_bwd_sm90(const SparseMlaBwd& a, const Device& device) {
  if (a.deterministic) return {"the key gradient is summed by atomic adds, whose order is not fixed"};
  auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (!aligned(a.d_o) || !aligned(a.o) || !aligned(a.dkv)) return {"o, d_o or dkv is not 16-byte aligned"};
  return {sparse_mla::refusal(a, device)};
}

size_t workspace_sparse_mla_bwd_sm90(const SparseMlaBwd& a) { return static_cast<size_t>(a.tokens) * sparse_mla::kD * sizeof(float); }

void sparse_mla_bwd_sm90(const SparseMlaBwd& a, const Launch& l) {
  const int64_t blocks = a.tokens * ((a.heads + sparse_mla::kHeads - 1) / sparse_mla::kHeads), fours = a.tokens * (sparse_mla::kD / 4);
  float* dkv = static_cast<float*>(l.workspace);
  launch_grid(sparse_mla::zero_kernel, dim3(static_cast<unsigned>((fours + 255) / 256)), dim3(256), 0, l.stream, reinterpret_cast<float4*>(dkv), fours);
  launch_grid(a.stored == DType::kBf16 ? sparse_mla::bwd_kernel<false> : sparse_mla::bwd_kernel<true>, dim3(static_cast<unsigned>(blocks)), dim3(sparse_mla::kThreads), sizeof(sparse_mla::Smem), l.stream, a, dkv);
  launch_grid(sparse_mla::round_kernel, dim3(static_cast<unsigned>((fours + 255) / 256)), dim3(256), 0, l.stream, reinterpret_cast<const float4*>(dkv), static_cast<uint2*>(a.dkv), fours);
}

}  // namespace weft::kernels
