// Sparse MLA backward. P = 2^{scale log2(e) q k - lse} again, dP = do v^T, dS = scale P (dP - sum_d o do); dq = dS k; each key row gets
// dS^T q and, in its first 64 columns, P^T do: added in fp32 to a [T, 128] buffer. NOT deterministic: the adds of different tokens meet in
// any order. Each warp takes 32 keys of a chunk of 256 for P, dS and the key gradient, then its own part of dq over all keys.
// Floor at T 32768, K 256, H 32: 2.7e11 FLOP (0.34 ms at 800 TFLOP/s); 4.3 GB of adds in L2, 2.1 GB gathered.
#include "kernels/sparse_mla/tiles.cuh"

namespace weft::kernels {
namespace sparse_mla {
namespace {

constexpr int kChunk = 256, kWarps = 8, kThreads = kWarps * 32, kKeys = kChunk / kWarps;

struct Smem {
  bf16 q[kHeads * kD];
  bf16 d_o[kHeads * kV];
  bf16 k[kChunk * kD];
  bf16 p[kWarps / 2][kHeads * 64], ds[kWarps / 2][kHeads * 64];  // of two warps side by side
  float lse[kHeads], delta[kHeads];
};

// p[0..3] += v where `real`; 16-byte aligned.
__device__ __forceinline__ void add_four(float* p, float v0, float v1, float v2, float v3, bool real) {
#if defined(WEFT_EMULATE)
  if (real) p[0] += v0, p[1] += v1, p[2] += v2, p[3] += v3;
#else
  asm volatile("{\n.reg .pred real;\nsetp.ne.s32 real, %5, 0;\n@real red.global.add.v4.f32 [%0], {%1, %2, %3, %4};\n}\n" ::"l"(p), "f"(v0), "f"(v1), "f"(v2), "f"(v3),
               "r"(static_cast<int>(real))
               : "memory");
#endif
}

// The buffer's columns: a lane's four sums of two 8-column blocks lie together, so that one instruction adds them.
//   place 16 n + 4 r + {0, 1, 2, 3}  is column  16 n + 2 r + {0, 1, 8, 9}
template <bool kCodes>
__global__ void __launch_bounds__(kThreads, 2) bwd_kernel(const SparseMlaBwd a, float* dkv) {
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<Smem*>(raw);
  const int warp = warp_id(), lane = lane_id(), q = lane >> 2, r = lane & 3;
  const int64_t t = blockIdx.x;
  const int head0 = static_cast<int>(blockIdx.y) * kHeads, heads = a.heads - head0 < kHeads ? a.heads - head0 : kHeads;
  const Tile<kD> Q{sm.q}, K{sm.k + warp * kKeys * kD}, all_keys{sm.k};
  const Tile<kV> DO{sm.d_o};
  const Tile<64> P{sm.p[warp / 2]}, DS{sm.ds[warp / 2]};
  const int side = warp % 2 * 32;  // the warp's columns of P and dS
  int index[1];
  load_indices(index, a, t, warp * kKeys);
  if constexpr (!kCodes) load_queries<kCodes, kThreads>(Q, a, t, head0, heads);
  {
    const int row = static_cast<int>(threadIdx.x >> 3), c = static_cast<int>(threadIdx.x & 7) * 8;
    const bool real = row < heads;
    const int64_t at = (t * a.heads + head0 + (real ? row : 0)) * kV + c;
    uint4 o = *reinterpret_cast<const uint4*>(static_cast<const bf16*>(a.o) + at), g = *reinterpret_cast<const uint4*>(static_cast<const bf16*>(a.d_o) + at);
    float lse = a.lse[t * a.heads + head0 + (real ? row : 0)];
    if (!real) o = g = uint4{}, lse = 0;
    *reinterpret_cast<uint4*>(DO.unit(row, c)) = g;
    const uint32_t x[4] = {o.x, o.y, o.z, o.w}, y[4] = {g.x, g.y, g.z, g.w};
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 u = unpack_bf16(x[i]), v = unpack_bf16(y[i]);
      sum += u.x * v.x + u.y * v.y;
    }
    sum = warp_sum<8>(sum);
    // A row without a key has no use for its lse of -infinity.
    if (c == 0) sm.delta[row] = sum, sm.lse[row] = lse == -INFINITY ? 0.f : lse;
  }
  const int start = document_start(a.cu_seqlens, a.documents, t);
  const float scale = a.scale * kLog2E;
  float dq[4][4] = {};
  const int row0 = warp / 4 * 16, col0 = warp % 4 * 32;  // the warp's part of dq
  for (int k0 = 0; k0 < a.top_k; k0 += kChunk) {
    if (k0 > 0) {
      load_indices(index, a, t, k0 + warp * kKeys);
      __syncthreads();  // all have done with the keys, P and dS
    }
    uint32_t valid[1];
    float key_scale[1];
    gather<kCodes>(K, a, index, t, start, valid, key_scale);
    cp_async_commit();
    if constexpr (kCodes) {
      if (k0 == 0) load_queries<kCodes, kThreads>(Q, a, t, head0, heads);  // behind the keys, whose way is longer
    }
    cp_async_wait<0>();
    if constexpr (kCodes) __syncwarp(), widen<1>(K, key_scale);
    if (k0 == 0) __syncthreads(); else __syncwarp();
    {
      float s[2][kKeys / 8][4] = {}, dp[2][kKeys / 8][4] = {};
#pragma unroll
      for (int k = 0; k < kD / 16; ++k) {
        uint32_t fa[2][4], fg[2][4], fb[4];
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          load_a(fa[m], Q, m * 16, k * 16);
          if (k < kV / 16) load_a(fg[m], DO, m * 16, k * 16);
        }
#pragma unroll
        for (int n = 0; n < kKeys / 16; ++n) {
          load_b(fb, K, n * 16, k * 16);
#pragma unroll
          for (int m = 0; m < 2; ++m) {
            mma_bf16(s[m][2 * n], fa[m], fb[0], fb[1]), mma_bf16(s[m][2 * n + 1], fa[m], fb[2], fb[3]);
            if (k < kV / 16) mma_bf16(dp[m][2 * n], fg[m], fb[0], fb[1]), mma_bf16(dp[m][2 * n + 1], fg[m], fb[2], fb[3]);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float lse = sm.lse[i * 8 + q];
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
          for (int b = 0; b < 2; ++b) s[i / 2][n][i % 2 * 2 + b] = exp2_fast(s[i / 2][n][i % 2 * 2 + b] * scale - lse);
      }
      if (valid[0] != 0xffffffffu) {
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
          for (int b = 0; b < 2; ++b) {
            const bool ok = counts(valid, n * 8 + r * 2 + b);
#pragma unroll
            for (int i = 0; i < 4; ++i)
              if (!ok) s[i / 2][n][i % 2 * 2 + b] = 0;
          }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = i * 8 + q;
        const float delta = sm.delta[row] * a.scale;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
          const float p0 = s[i / 2][n][i % 2 * 2], p1 = s[i / 2][n][i % 2 * 2 + 1];
          *reinterpret_cast<uint32_t*>(P.at(row, side + n * 8 + r * 2)) = pack_bf16(p0, p1);
          *reinterpret_cast<uint32_t*>(DS.at(row, side + n * 8 + r * 2)) = pack_bf16(p0 * (dp[i / 2][n][i % 2 * 2] * a.scale - delta), p1 * (dp[i / 2][n][i % 2 * 2 + 1] * a.scale - delta));
        }
      }
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kChunk / 16; ++k) {
      uint32_t fa[4], fb[4];
      if (k % 4 == 0 && k0 + k * 16 >= a.top_k) break;
      load_a(fa, Tile<64>{sm.ds[k / 4]}, row0, k % 4 * 16);
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        load_b_trans(fb, all_keys, k * 16, col0 + n * 16);
        mma_bf16(dq[2 * n], fa, fb[0], fb[1]), mma_bf16(dq[2 * n + 1], fa, fb[2], fb[3]);
      }
    }
    if (valid[0] == 0) continue;
    uint32_t fs[2][2][4], fp[2][2][4];
    const bool odd = q & 1;
    float* to[4][2];  // rows of the key gradient, in pairs: the lane's own and its neighbour's
    bool real[4][2];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int k = 0; k < 2; ++k) load_a_trans(fs[m][k], DS, side + m * 16, k * 16), load_a_trans(fp[m][k], P, side + m * 16, k * 16);
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int key = m * 16 + h * 8 + (q & ~1) + j;
          to[m * 2 + h][j] = dkv + static_cast<int64_t>(__shfl_sync(0xffffffffu, index[0], key)) * kD + r * 4 + (odd ? 16 : 0), real[m * 2 + h][j] = counts(valid, key);
        }
    }
#pragma unroll
    for (int n = 0; n < kD / 16; n += 2) {
      float c[2][2][2][4] = {};
#pragma unroll
      for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          uint32_t fb[4];
          load_b_trans(fb, Q, k * 16, (n + j) * 16);
#pragma unroll
          for (int m = 0; m < 2; ++m) mma_bf16(c[j][m][0], fs[m][k], fb[0], fb[1]), mma_bf16(c[j][m][1], fs[m][k], fb[2], fb[3]);
          if (n < kV / 16) {
            load_b_trans(fb, DO, k * 16, (n + j) * 16);
#pragma unroll
            for (int m = 0; m < 2; ++m) mma_bf16(c[j][m][0], fp[m][k], fb[0], fb[1]), mma_bf16(c[j][m][1], fp[m][k], fb[2], fb[3]);
          }
        }
      // Eight lanes hold two rows: each takes half of either, so that an add is of whole 128-byte lines.
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float mine[4], got[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float low = c[0][i / 2][e / 2][i % 2 * 2 + e % 2], high = c[1][i / 2][e / 2][i % 2 * 2 + e % 2];
          mine[e] = odd ? high : low, got[e] = __shfl_xor_sync(0xffffffffu, odd ? low : high, 4);
        }
        add_four(to[i][0] + n * 16, odd ? got[0] : mine[0], odd ? got[1] : mine[1], odd ? got[2] : mine[2], odd ? got[3] : mine[3], real[i][0]);
        add_four(to[i][1] + n * 16, odd ? mine[0] : got[0], odd ? mine[1] : got[1], odd ? mine[2] : got[2], odd ? mine[3] : got[3], real[i][1]);
      }
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = row0 + h * 8 + q;
    if (row >= heads) continue;
    bf16* out = static_cast<bf16*>(a.dq) + (t * a.heads + head0 + row) * kD + col0 + r * 2;
#pragma unroll
    for (int n = 0; n < 4; ++n) *reinterpret_cast<uint32_t*>(out + n * 8) = pack_bf16(dq[n][h * 2], dq[n][h * 2 + 1]);
  }
}

__global__ void __launch_bounds__(256) zero_kernel(float4* p, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i < count) p[i] = float4{0, 0, 0, 0};
}
// A thread takes 16 columns.
__global__ void __launch_bounds__(256) round_kernel(const float4* from, uint4* to, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= count) return;
  uint32_t low[4], high[4];
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const float4 v = from[i * 4 + r];
    low[r] = pack_bf16(v.x, v.y), high[r] = pack_bf16(v.z, v.w);
  }
  to[i * 2] = uint4{low[0], low[1], low[2], low[3]}, to[i * 2 + 1] = uint4{high[0], high[1], high[2], high[3]};
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
  const int64_t fours = a.tokens * (sparse_mla::kD / 4), sixteens = a.tokens * (sparse_mla::kD / 16);
  float* dkv = static_cast<float*>(l.workspace);
  launch_grid(sparse_mla::zero_kernel, dim3(static_cast<unsigned>((fours + 255) / 256)), dim3(256), 0, l.stream, reinterpret_cast<float4*>(dkv), fours);
  launch_grid(a.stored == DType::kBf16 ? sparse_mla::bwd_kernel<false> : sparse_mla::bwd_kernel<true>,
              dim3(static_cast<unsigned>(a.tokens), static_cast<unsigned>((a.heads + sparse_mla::kHeads - 1) / sparse_mla::kHeads)), dim3(sparse_mla::kThreads), sizeof(sparse_mla::Smem), l.stream,
              a, dkv);
  launch_grid(sparse_mla::round_kernel, dim3(static_cast<unsigned>((sixteens + 255) / 256)), dim3(256), 0, l.stream, reinterpret_cast<const float4*>(dkv), static_cast<uint4*>(a.dkv), sixteens);
}

}  // namespace weft::kernels
