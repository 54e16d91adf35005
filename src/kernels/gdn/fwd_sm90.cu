// Gated delta rule forward in chunks of 64. One block of eight warps walks one document of one value head; S^T [Dv, Dk] lies in registers,
// 16 rows of Dv a warp, and all products are transposed so that S^T, and then v', are A operands in place. G = inclusive sum of g:
//   A_ij = beta_i (k_i . k_j) e^{G_i - G_j} (j < i)      T = (I + A)^{-1}, fp32, by blocks of 16
//   v' = T diag(beta) (v - diag(e^G) k S)                o = scale (diag(e^G) q S + P v'),  P_ij = (q_i . k_j) e^{G_i - G_j} (j <= i)
//   S = e^{G_63} S + k^T diag(e^{G_63 - G}) v'
// Floor at b8 s4096 Hv 32 d 128: 1.6e11 FLOP (0.2 ms at 800 TFLOP/s); q, k, v, o 0.8 GB (0.2 ms at 4.3 TB/s).
#include "kernels/gdn/tiles.cuh"

namespace weft::kernels {
namespace gdn {
namespace {

constexpr int kPitch = kL + 1, kBlockPitch = 17;

struct Smem {
  bf16 q[kL * kD], k[2][kL * kD], v[kL * kD];  // o takes the place of v
  bf16 T[kL * kL], P[kL * kL];
  float A[kL * kPitch];  // below the diagonal blocks the inverse's blocks come to lie transposed above them
  float diagonal[4][16 * kBlockPitch], product[3][16 * kBlockPitch];
  Decays decay;
};

// The inverse of I + A, A strictly lower: 16 x 16 blocks on the diagonal by substitution, then block diagonals downwards. Also to `kept`.
__device__ __forceinline__ void invert(Smem& sm, bf16* kept) {
  const int t = threadIdx.x, warp = warp_id(), lane = lane_id();
  if (warp < 4 && lane < 16) {
    const int b = warp * 16;
    float x[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      float s = i == lane ? 1.f : 0.f;
#pragma unroll
      for (int k = 0; k < i; ++k) s -= sm.A[(b + i) * kPitch + b + k] * x[k];
      x[i] = s;
      sm.diagonal[warp][i * kBlockPitch + lane] = s;
    }
  }
  __syncthreads();
  const int r = t >> 4, c = t & 15;
  for (int d = 1; d < 4; ++d) {
    for (int I = d; I < 4; ++I) {
      const int J = I - d;
      float s = 0;
#pragma unroll
      for (int k = 0; k < 16; ++k) s += sm.A[(I * 16 + r) * kPitch + J * 16 + k] * sm.diagonal[J][k * kBlockPitch + c];
      for (int k = J * 16 + 16; k < I * 16; ++k) s += sm.A[(I * 16 + r) * kPitch + k] * sm.A[(J * 16 + c) * kPitch + k];
      sm.product[I - d][r * kBlockPitch + c] = s;
    }
    __syncthreads();
    for (int I = d; I < 4; ++I) {
      float s = 0;
#pragma unroll
      for (int k = 0; k < 16; ++k) s -= sm.diagonal[I][r * kBlockPitch + k] * sm.product[I - d][k * kBlockPitch + c];
      sm.A[((I - d) * 16 + c) * kPitch + I * 16 + r] = s;
    }
    __syncthreads();
  }
  const Tile<kL> T{sm.T};
  for (int i = t; i < kL * kL / 2; i += kThreads) {
    const int row = i >> 5, col = (i & 31) * 2;
    const bool above = col >> 4 > row >> 4;  // the diagonal blocks: nothing reads there
    const bool within = col >> 4 == row >> 4;
    const float* from = within ? sm.diagonal[row >> 4] + (row & 15) * kBlockPitch + (col & 15) : sm.A + col * kPitch + row;
    const uint32_t pair = above ? 0u : pack_bf16(from[0], from[within ? 1 : kPitch]);
    if (!above) *reinterpret_cast<uint32_t*>(T.at(row, col)) = pair;
    if (kept) *reinterpret_cast<uint32_t*>(kept + row * kL + col) = pair;
  }
}

__global__ void __launch_bounds__(kThreads, 2) fwd_kernel(const GdnFwd a) {
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<Smem*>(raw);
  const int head = static_cast<int>(blockIdx.x % a.value_heads), key_head = head / (a.value_heads / a.key_heads);
  const int64_t document = blockIdx.x / a.value_heads, start = a.cu_seqlens[document], length = a.cu_seqlens[document + 1] - start;
  const int chunks = static_cast<int>((length + kL - 1) / kL), warp = warp_id(), lane = lane_id(), q = lane >> 2, r = lane & 3, p0 = warp * 16;
  const int64_t key_row = static_cast<int64_t>(a.key_heads) * kD, value_row = static_cast<int64_t>(a.value_heads) * kD, state = (document * a.value_heads + head) * (kD * kD);
  float S[16][4];
  each_pair(p0, [&](int n, int e, int row, int col) {  // [Dk, Dv] in memory
    S[n][e] = a.initial_state ? a.initial_state[state + col * kD + row] : 0.f;
    S[n][e + 1] = a.initial_state ? a.initial_state[state + (col + 1) * kD + row] : 0.f;
  });
  auto valid = [&](int c) { return static_cast<int>(length - static_cast<int64_t>(c) * kL < kL ? length - static_cast<int64_t>(c) * kL : kL); };
  auto load_key = [&](int c) {
    load_tile_async<kL, kD, kThreads>(Tile<kD>{sm.k[c & 1]}, static_cast<const bf16*>(a.k) + (start + static_cast<int64_t>(c) * kL) * key_row + key_head * kD, key_row, valid(c));
  };
  float g0 = 0, g1 = 0, b0 = 0, b1 = 0;  // of the chunk to come, in warp 0
  auto fetch = [&](int c) {
    const int64_t i = static_cast<int64_t>(c) * kL + 2 * lane, at = (start + i) * a.value_heads + head;
    g0 = i < length ? a.g[at] : 0.f, b0 = i < length ? a.beta[at] : 0.f;
    g1 = i + 1 < length ? a.g[at + a.value_heads] : 0.f, b1 = i + 1 < length ? a.beta[at + a.value_heads] : 0.f;
  };
  if (chunks > 0) {
    load_key(0);
    if (warp == 0) fetch(0);
  }
  for (int c = 0; c < chunks; ++c) {
    const int64_t first = start + static_cast<int64_t>(c) * kL;
    const int count = valid(c);
    __syncthreads();  // the last chunk's reads are over
    load_tile_async<kL, kD, kThreads>(Tile<kD>{sm.q}, static_cast<const bf16*>(a.q) + first * key_row + key_head * kD, key_row, count);
    load_tile_async<kL, kD, kThreads>(Tile<kD>{sm.v}, static_cast<const bf16*>(a.v) + first * value_row + head * kD, value_row, count);
    cp_async_commit();
    if (c + 1 < chunks) load_key(c + 1);
    cp_async_commit();
    if (warp == 0) {
      set_decays(sm.decay, g0, g1, b0, b1);
      if (c + 1 < chunks) fetch(c + 1);
    }
    const int64_t slot = (start / kL + document + c) * a.value_heads + head;
    if (a.states) write_state(S, static_cast<bf16*>(a.states) + slot * (kD * kD), p0);
    cp_async_wait<1>();
    __syncthreads();
    const auto K = fresh(Tile<kD>{sm.k[c & 1]}), Q = fresh(Tile<kD>{sm.q});
    const Tile<kL> P{sm.P};
    {  // A and P: warps 0 to 3 and 4 to 7 take them, 16 rows each
      const int row0 = (warp & 3) * 16, i = row0 + q;
      for (int block = 0; block * 16 <= row0; ++block) {
        float x[2][4] = {};
#pragma unroll
        for (int k = 0; k < kD / 16; ++k) {
          uint32_t fa[4], fb[4];
          if (warp < 4) load_a(fa, K, row0, k * 16); else load_a(fa, Q, row0, k * 16);
          load_b(fb, K, block * 16, k * 16);
          mma_bf16(x[0], fa, fb[0], fb[1]);
          mma_bf16(x[1], fa, fb[2], fb[3]);
        }
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const int j = block * 16 + n * 8 + r * 2;
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int ii = i + (e >> 1) * 8, jj = j + (e & 1);
            x[n][e] = jj < ii || (jj == ii && warp >= 4) ? x[n][e] * exp2_fast(sm.decay.to[ii] - sm.decay.to[jj]) : 0.f;
          }
          if (warp < 4) {
            sm.A[i * kPitch + j] = sm.decay.beta[i] * x[n][0], sm.A[i * kPitch + j + 1] = sm.decay.beta[i] * x[n][1];
            sm.A[(i + 8) * kPitch + j] = sm.decay.beta[i + 8] * x[n][2], sm.A[(i + 8) * kPitch + j + 1] = sm.decay.beta[i + 8] * x[n][3];
          } else {
            *reinterpret_cast<uint32_t*>(P.at(i, j)) = pack_bf16(x[n][0], x[n][1]);
            *reinterpret_cast<uint32_t*>(P.at(i + 8, j)) = pack_bf16(x[n][2], x[n][3]);
          }
        }
      }
    }
    __syncthreads();
    invert(sm, a.inverses ? static_cast<bf16*>(a.inverses) + slot * (kL * kL) : nullptr);
    // S^T k^T while T settles, then the right side, in A fragments.
    uint32_t fr[4][4];
    const Tile<kD> V{sm.v};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float x[4][4] = {};
#pragma unroll
      for (int k = 0; k < kD / 16; ++k) {
        const uint32_t fs[4] = {pack_bf16(S[2 * k][0], S[2 * k][1]), pack_bf16(S[2 * k][2], S[2 * k][3]), pack_bf16(S[2 * k + 1][0], S[2 * k + 1][1]), pack_bf16(S[2 * k + 1][2], S[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          uint32_t fb[4];
          load_b(fb, K, half * 32 + n * 16, k * 16);
          mma_bf16(x[2 * n], fs, fb[0], fb[1]);
          mma_bf16(x[2 * n + 1], fs, fb[2], fb[3]);
        }
      }
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        uint32_t fv[4];
        load_a_trans(fv, V, p0, (half * 2 + m) * 16);  // v where the sums are
#pragma unroll
        for (int e = 0; e < 4; ++e) {  // word e: tile 2 m + e / 2, rows q (e even) or q + 8
          const int j = (half * 4 + m * 2 + (e >> 1)) * 8 + r * 2;
          const float2 v = unpack_bf16(fv[e]);
          const float s0 = x[m * 2 + (e >> 1)][(e & 1) * 2], s1 = x[m * 2 + (e >> 1)][(e & 1) * 2 + 1];
          fr[half * 2 + m][e] = pack_bf16(sm.decay.beta[j] * (v.x - sm.decay.grow[j] * s0), sm.decay.beta[j + 1] * (v.y - sm.decay.grow[j + 1] * s1));
        }
      }
    }
    __syncthreads();  // T
    const auto T = fresh(Tile<kL>{sm.T}), Pf = fresh(P);
    uint32_t fv[4][4];  // v'^T
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      float x[2][4] = {};
#pragma unroll
      for (int k = 0; k <= m; ++k) {
        uint32_t fb[4];
        load_b(fb, T, m * 16, k * 16);
        mma_bf16(x[0], fr[k], fb[0], fb[1]);
        mma_bf16(x[1], fr[k], fb[2], fb[3]);
      }
      fv[m][0] = pack_bf16(x[0][0], x[0][1]), fv[m][1] = pack_bf16(x[0][2], x[0][3]), fv[m][2] = pack_bf16(x[1][0], x[1][1]), fv[m][3] = pack_bf16(x[1][2], x[1][3]);
    }
    __syncwarp();  // columns p0.. of v are this warp's alone: o takes their place
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float x[4][4] = {};
#pragma unroll
      for (int k = 0; k < kD / 16; ++k) {
        const uint32_t fs[4] = {pack_bf16(S[2 * k][0], S[2 * k][1]), pack_bf16(S[2 * k][2], S[2 * k][3]), pack_bf16(S[2 * k + 1][0], S[2 * k + 1][1]), pack_bf16(S[2 * k + 1][2], S[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          uint32_t fb[4];
          load_b(fb, Q, half * 32 + n * 16, k * 16);
          mma_bf16(x[2 * n], fs, fb[0], fb[1]);
          mma_bf16(x[2 * n + 1], fs, fb[2], fb[3]);
        }
      }
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const float g0 = sm.decay.grow[half * 32 + n * 8 + r * 2], g1 = sm.decay.grow[half * 32 + n * 8 + r * 2 + 1];
        x[n][0] *= g0, x[n][1] *= g1, x[n][2] *= g0, x[n][3] *= g1;
      }
#pragma unroll
      for (int k = 0; k < 4; ++k)
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          if (k > half * 2 + n) continue;
          uint32_t fb[4];
          load_b(fb, Pf, half * 32 + n * 16, k * 16);
          mma_bf16(x[2 * n], fv[k], fb[0], fb[1]);
          mma_bf16(x[2 * n + 1], fv[k], fb[2], fb[3]);
        }
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const float s = a.scale;
        stmatrix_x4_trans(V.unit(half * 32 + n * 16 + (lane & 7) + (lane >> 4) * 8, p0 + ((lane >> 3) & 1) * 8), pack_bf16(s * x[2 * n][0], s * x[2 * n][1]),
                          pack_bf16(s * x[2 * n][2], s * x[2 * n][3]), pack_bf16(s * x[2 * n + 1][0], s * x[2 * n + 1][1]), pack_bf16(s * x[2 * n + 1][2], s * x[2 * n + 1][3]));
      }
    }
    add_outer(S, fv, sm.decay.w, K, sm.decay.grow[kL - 1]);
    __syncwarp();
    bf16* o = static_cast<bf16*>(a.o) + first * value_row + head * kD + p0;
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const int i = t * 16 + (lane >> 1), u = (lane & 1) * 8;
      if (i < count) *reinterpret_cast<uint4*>(o + i * value_row + u) = *reinterpret_cast<const uint4*>(V.unit(i, p0 + u));
    }
  }
  if (a.final_state)
    each_pair(p0, [&](int n, int e, int row, int col) { a.final_state[state + col * kD + row] = S[n][e], a.final_state[state + (col + 1) * kD + row] = S[n][e + 1]; });
}

}  // namespace
}  // namespace gdn

Support supports_gdn_fwd_sm90(const GdnFwd& a, const Device& device) {
  if ((a.states == nullptr) != (a.inverses == nullptr)) return {"states without inverses, or the other way round"};
  return gdn::supports(a, {a.q, a.k, a.v, a.o, a.states, a.inverses}, device);
}

void gdn_fwd_sm90(const GdnFwd& a, const Launch& l) {
  launch_grid(gdn::fwd_kernel, dim3(static_cast<unsigned>(a.documents * a.value_heads)), dim3(gdn::kThreads), sizeof(gdn::Smem), l.stream, a);
}

}  // namespace weft::kernels
