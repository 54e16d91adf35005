// Gated delta rule backward, second pass: each chunk of a key head on its own, its value heads in turn; rows i, columns j of a chunk.
//   R = diag(beta) (v - diag(e^G) k S)     u = T R     E = e^{G_i - G_j}     dA = -dR u^T
//   dQK = scale (do u^T) * E (j <= i)      dKK = diag(beta) dA * E (j < i)
//   dq = scale diag(e^G) do S^T + dQK k
//   dk = diag(e^{G_63 - G}) u dS^T - diag(beta e^G) dR S^T + dQK^T q + (dKK + dKK^T) k        dv = diag(beta) dR
//   d_beta = rows of dR * (v - diag(e^G) k S) + dA * (k k^T) * E
//   dG = rows of (dQK * q k^T + dKK * k k^T) - columns, + q * (part of dq through S) - k * (part of dk through dS) + k * (part through S)
//   dg = sums of dG from the end, with e^{G_63} dS * S + sum of k * (part of dk through dS) at the last token
// Floor at b8 s4096 Hv 32 d 128: 2.9e11 FLOP, 2 GB: 0.5 ms.
#include "kernels/gdn/tiles.cuh"

namespace weft::kernels::gdn {
namespace {

constexpr int kWide = 512, kSides = kWide / 128, kCols = kD / kSides, kN = kCols / 8;  // 16 warps: four row blocks, four column blocks

struct Smem {
  bf16 S[kD * kD], dS[kD * kD];                          // S^T, dS^T: [Dv, Dk]
  bf16 q[kL * kD], k[kL * kD], v[kL * kD], d_o[kL * kD], dR[kL * kD];  // R, then u, take the place of v
  bf16 T[kL * kL], dQK[kL * kL], dKK[kL * kL];
  Decays decay;
  float row[kSides][kL], beta[kSides + 2][kL];  // of dG and d_beta: sums along rows, one array for each column of warps and stage
  float through[3][kSides][kL];                 // q * dq through S, k * dk through dS, k * dk through S
  float column[2][4][kL];                       // along columns: by product and block of rows
  float ends[kWide / 32];
};

// x of 16 rows and kCols columns += A B.
template <class A, class B>
__device__ __forceinline__ void product(float (&x)[kN][4], int k_first, int k_last, const A& load_left, const B& load_right) {
  for (int k = k_first; k < k_last; ++k) {
    uint32_t fa[4];
    load_left(fa, k * 16);
#pragma unroll
    for (int n = 0; n < kN / 2; ++n) {
      uint32_t fb[4];
      load_right(fb, k * 16, n * 16);
      mma_bf16(x[2 * n], fa, fb[0], fb[1]);
      mma_bf16(x[2 * n + 1], fa, fb[2], fb[3]);
    }
  }
}
__device__ __forceinline__ void clear(float (&x)[kN][4]) {
#pragma unroll
  for (int n = 0; n < kN; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) x[n][e] = 0.f;
}
// x's rows times their factors; with the sums of x * tile along rows into `sums`.
__device__ __forceinline__ void scale_rows(float (&x)[kN][4], float low, float high, const Tile<kD>& tile, int row0, int col0, float* sums) {
  const int q = lane_id() >> 2, r = lane_id() & 3;
  float s0 = 0, s1 = 0;
#pragma unroll
  for (int n = 0; n < kN; ++n) {
    x[n][0] *= low, x[n][1] *= low, x[n][2] *= high, x[n][3] *= high;
    const float2 a = unpack_bf16(*reinterpret_cast<const uint32_t*>(tile.at(row0 + q, col0 + n * 8 + r * 2))), b = unpack_bf16(*reinterpret_cast<const uint32_t*>(tile.at(row0 + q + 8, col0 + n * 8 + r * 2)));
    s0 += x[n][0] * a.x + x[n][1] * a.y, s1 += x[n][2] * b.x + x[n][3] * b.y;
  }
  s0 = warp_sum<4>(s0), s1 = warp_sum<4>(s1);
  if (r == 0) sums[row0 + q] = s0, sums[row0 + q + 8] = s1;
}
__device__ __forceinline__ void put_rows(const float (&x)[kN][4], const Tile<kD>& tile, int row0, int col0) {
  const int q = lane_id() >> 2, r = lane_id() & 3;
#pragma unroll
  for (int n = 0; n < kN; ++n) {
    *reinterpret_cast<uint32_t*>(tile.at(row0 + q, col0 + n * 8 + r * 2)) = pack_bf16(x[n][0], x[n][1]);
    *reinterpret_cast<uint32_t*>(tile.at(row0 + q + 8, col0 + n * 8 + r * 2)) = pack_bf16(x[n][2], x[n][3]);
  }
}
__device__ __forceinline__ void store_tile(const Tile<kD>& tile, bf16* to, int64_t stride, int count) {
  for (int u = threadIdx.x; u < kL * kD / 8; u += kWide) {
    const int row = u >> 4, col = (u & 15) * 8;
    if (row < count) *reinterpret_cast<uint4*>(to + row * stride + col) = *reinterpret_cast<const uint4*>(tile.unit(row, col));
  }
}

__global__ void __launch_bounds__(kWide, 1) bwd_chunk_kernel(const GdnBwd a, const bf16* d_states, const bf16* d_right) {
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<Smem*>(raw);
  const int64_t slot = blockIdx.x / a.key_heads;
  const int key_head = static_cast<int>(blockIdx.x % a.key_heads), share = a.value_heads / a.key_heads;
  const ChunkPlace place = place_of_slot(a.cu_seqlens, a.documents, slot, kL);
  if (place.count == 0) return;
  const int warp = warp_id(), lane = lane_id(), q = lane >> 2, r = lane & 3, row0 = (warp & 3) * 16, side = warp >> 2, col0 = side * kCols, i0 = row0 + q, i1 = i0 + 8;
  const int64_t key_row = static_cast<int64_t>(a.key_heads) * kD, value_row = static_cast<int64_t>(a.value_heads) * kD;
  const int64_t key_at = place.first * key_row + key_head * kD;
  const Tile<kD> Q{sm.q}, K{sm.k}, V{sm.v}, G{sm.d_o}, R{sm.dR}, S{sm.S}, dS{sm.dS};
  const Tile<kL> T{sm.T}, dQK{sm.dQK}, dKK{sm.dKK};
  load_tile_async<kL, kD, kWide>(Q, static_cast<const bf16*>(a.q) + key_at, key_row, place.count);
  load_tile_async<kL, kD, kWide>(K, static_cast<const bf16*>(a.k) + key_at, key_row, place.count);
  float dq[kN][4], dk[kN][4];
  clear(dq), clear(dk);
  for (int head = key_head * share; head < (key_head + 1) * share; ++head) {
    const int64_t value_at = place.first * value_row + head * kD, at = slot * a.value_heads + head;
    __syncthreads();  // the last head's reads are over
    load_tile_async<kL, kD, kWide>(V, static_cast<const bf16*>(a.v) + value_at, value_row, place.count);
    load_tile_async<kL, kD, kWide>(R, d_right + value_at, value_row, place.count);
    load_tile_async<kD, kD, kWide>(S, static_cast<const bf16*>(a.states) + at * (kD * kD), kD, kD);
    load_inverse<kWide>(sm.T, a.inverses, at, static_cast<int>(threadIdx.x));
    cp_async_commit();
    load_tile_async<kL, kD, kWide>(G, static_cast<const bf16*>(a.d_o) + value_at, value_row, place.count);
    load_tile_async<kD, kD, kWide>(dS, d_states + at * (kD * kD), kD, kD);
    cp_async_commit();
    if (warp == 0) {
      const int i = 2 * lane;
      const int64_t gate = (place.first + i) * a.value_heads + head;
      const bool in0 = i < place.count, in1 = i + 1 < place.count;
      set_decays(sm.decay, in0 ? a.g[gate] : 0.f, in1 ? a.g[gate + a.value_heads] : 0.f, in0 ? a.beta[gate] : 0.f, in1 ? a.beta[gate + a.value_heads] : 0.f);
    }
    cp_async_wait<1>();
    __syncthreads();
    const float beta0 = sm.decay.beta[i0], beta1 = sm.decay.beta[i1], grow0 = sm.decay.grow[i0], grow1 = sm.decay.grow[i1];
    float x[kN][4];
    clear(x);  // k S
    product(x, 0, 8, [&](uint32_t(&f)[4], int k) { load_a(f, K, row0, k); }, [&](uint32_t(&f)[4], int k, int n) { load_b(f, S, col0 + n, k); });
    {
      float s0 = 0, s1 = 0;
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        const int col = col0 + n * 8 + r * 2;
        uint32_t *low = reinterpret_cast<uint32_t*>(V.at(i0, col)), *high = reinterpret_cast<uint32_t*>(V.at(i1, col));
        const float2 v0 = unpack_bf16(*low), v1 = unpack_bf16(*high), d0 = unpack_bf16(*reinterpret_cast<const uint32_t*>(R.at(i0, col))), d1 = unpack_bf16(*reinterpret_cast<const uint32_t*>(R.at(i1, col)));
        const float t[4] = {v0.x - grow0 * x[n][0], v0.y - grow0 * x[n][1], v1.x - grow1 * x[n][2], v1.y - grow1 * x[n][3]};
        s0 += d0.x * t[0] + d0.y * t[1], s1 += d1.x * t[2] + d1.y * t[3];
        *low = pack_bf16(beta0 * t[0], beta0 * t[1]), *high = pack_bf16(beta1 * t[2], beta1 * t[3]);
      }
      s0 = warp_sum<4>(s0), s1 = warp_sum<4>(s1);
      if (r == 0) sm.beta[side][i0] = s0, sm.beta[side][i1] = s1;
    }
    __syncthreads();
    clear(x);  // u
    product(x, 0, (warp & 3) + 1, [&](uint32_t(&f)[4], int k) { load_a(f, T, row0, k); }, [&](uint32_t(&f)[4], int k, int n) { load_b_trans(f, V, k, col0 + n); });
    __syncthreads();
    put_rows(x, V, row0, col0);
    cp_async_wait<0>();
    __syncthreads();
    {  // warps 0 to 7: dQK; 8 to 15: dKK; even blocks, then odd ones
      const bool keys = side >= 2;
      const Tile<kD> &left = keys ? R : G, &right = keys ? K : Q;
      const Tile<kL>& out = keys ? dKK : dQK;
      float rows0 = 0, rows1 = 0, gate0 = 0, gate1 = 0;
      for (int block = side & 1; block < 4; block += 2) {
        float x[2][4] = {}, y[2][4] = {};
        if (block * 16 <= row0) {
#pragma unroll
          for (int k = 0; k < kD / 16; ++k) {
            uint32_t fa[4], fb[4];
            load_a(fa, left, row0, k * 16);
            load_b(fb, V, block * 16, k * 16);
            mma_bf16(x[0], fa, fb[0], fb[1]);
            mma_bf16(x[1], fa, fb[2], fb[3]);
            load_a(fa, right, row0, k * 16);
            load_b(fb, K, block * 16, k * 16);
            mma_bf16(y[0], fa, fb[0], fb[1]);
            mma_bf16(y[1], fa, fb[2], fb[3]);
          }
        }
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const int j = block * 16 + n * 8 + r * 2;
          float down[2] = {};
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int i = e < 2 ? i0 : i1, jj = j + (e & 1);
            const bool seen = keys ? jj < i : jj <= i;
            const float decayed = seen ? x[n][e] * exp2_fast(sm.decay.to[i] - sm.decay.to[jj]) : 0.f;
            const float d = keys ? -(e < 2 ? beta0 : beta1) * decayed : a.scale * decayed, along = d * y[n][e];
            (e < 2 ? rows0 : rows1) += along;
            (e < 2 ? gate0 : gate1) -= decayed * y[n][e];
            down[e & 1] += along;
            x[n][e] = d;
          }
#pragma unroll
          for (int o = 4; o < 32; o <<= 1) down[0] += __shfl_xor_sync(0xffffffffu, down[0], o), down[1] += __shfl_xor_sync(0xffffffffu, down[1], o);
          if (q == 0) sm.column[keys][warp & 3][j] = down[0], sm.column[keys][warp & 3][j + 1] = down[1];
          if (block * 16 <= row0) {
            *reinterpret_cast<uint32_t*>(out.at(i0, j)) = pack_bf16(x[n][0], x[n][1]);
            *reinterpret_cast<uint32_t*>(out.at(i1, j)) = pack_bf16(x[n][2], x[n][3]);
          }
        }
      }
      rows0 = warp_sum<4>(rows0), rows1 = warp_sum<4>(rows1), gate0 = warp_sum<4>(gate0), gate1 = warp_sum<4>(gate1);
      if (r == 0) {
        sm.row[side][i0] = rows0, sm.row[side][i1] = rows1;
        if (keys) sm.beta[kSides + (side & 1)][i0] = gate0, sm.beta[kSides + (side & 1)][i1] = gate1;
      }
    }
    {  // dS * S
      float s = 0;
      for (int u = threadIdx.x; u < kD * kD / 2; u += kWide) {
        const float2 x = unpack_bf16(reinterpret_cast<const uint32_t*>(sm.S)[u]), y = unpack_bf16(reinterpret_cast<const uint32_t*>(sm.dS)[u]);
        s += x.x * y.x + x.y * y.y;
      }
      s = warp_sum(s);
      if (lane == 0) sm.ends[warp] = s;
    }
    clear(x);  // dq through S
    product(x, 0, 8, [&](uint32_t(&f)[4], int k) { load_a(f, G, row0, k); }, [&](uint32_t(&f)[4], int k, int n) { load_b_trans(f, S, k, col0 + n); });
    scale_rows(x, a.scale * grow0, a.scale * grow1, Q, row0, col0, sm.through[0][side]);
#pragma unroll
    for (int n = 0; n < kN; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) dq[n][e] += x[n][e];
    clear(x);  // dk through dS
    product(x, 0, 8, [&](uint32_t(&f)[4], int k) { load_a(f, V, row0, k); }, [&](uint32_t(&f)[4], int k, int n) { load_b_trans(f, dS, k, col0 + n); });
    scale_rows(x, sm.decay.w[i0], sm.decay.w[i1], K, row0, col0, sm.through[1][side]);
#pragma unroll
    for (int n = 0; n < kN; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) dk[n][e] += x[n][e];
    clear(x);  // dk through S
    product(x, 0, 8, [&](uint32_t(&f)[4], int k) { load_a(f, R, row0, k); }, [&](uint32_t(&f)[4], int k, int n) { load_b_trans(f, S, k, col0 + n); });
    scale_rows(x, -beta0 * grow0, -beta1 * grow1, K, row0, col0, sm.through[2][side]);
#pragma unroll
    for (int n = 0; n < kN; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) dk[n][e] += x[n][e];
    __syncthreads();  // dQK, dKK and the sums
    product(dq, 0, (warp & 3) + 1, [&](uint32_t(&f)[4], int k) { load_a(f, dQK, row0, k); }, [&](uint32_t(&f)[4], int k, int n) { load_b_trans(f, K, k, col0 + n); });
    product(dk, warp & 3, 4, [&](uint32_t(&f)[4], int k) { load_a_trans(f, dQK, row0, k); }, [&](uint32_t(&f)[4], int k, int n) { load_b_trans(f, Q, k, col0 + n); });
    product(dk, 0, (warp & 3) + 1, [&](uint32_t(&f)[4], int k) { load_a(f, dKK, row0, k); }, [&](uint32_t(&f)[4], int k, int n) { load_b_trans(f, K, k, col0 + n); });
    product(dk, warp & 3, 4, [&](uint32_t(&f)[4], int k) { load_a_trans(f, dKK, row0, k); }, [&](uint32_t(&f)[4], int k, int n) { load_b_trans(f, K, k, col0 + n); });
    if (warp == 0) {  // dg: two tokens a lane
      float d[2], end = 0, later = 0;
      for (int w = 0; w < kWide / 32; ++w) end += sm.ends[w];
      end *= sm.decay.grow[kL - 1];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int i = 2 * lane + e;
        float through_dS = 0;
        d[e] = 0;
        for (int s = 0; s < kSides; ++s) through_dS += sm.through[1][s][i], d[e] += sm.row[s][i] + sm.through[0][s][i] + sm.through[2][s][i];
        d[e] -= through_dS;
        for (int w = 0; w < 4; ++w) d[e] -= sm.column[0][w][i] + sm.column[1][w][i];
        later += through_dS;
      }
      end += warp_sum(later);
      float after = d[0] + d[1];  // of this lane and those behind it
#pragma unroll
      for (int o = 1; o < 32; o <<= 1) {
        const float right = __shfl_down_sync(0xffffffffu, after, o);
        if (lane + o < 32) after += right;
      }
      const int64_t gate = (place.first + 2 * lane) * a.value_heads + head;
      if (2 * lane < place.count) a.dg[gate] = after + end;
      if (2 * lane + 1 < place.count) a.dg[gate + a.value_heads] = after - d[0] + end;
    } else if (warp == 1) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int i = 2 * lane + e;
        float s = 0;
        for (int w = 0; w < kSides + 2; ++w) s += sm.beta[w][i];
        if (i < place.count) a.d_beta[(place.first + i) * a.value_heads + head] = s;
      }
    }
    for (int u = threadIdx.x; u < kL * kD / 8; u += kWide) {  // dv
      const int row = u >> 4, col = (u & 15) * 8;
      if (row >= place.count) continue;
      const uint4 w = *reinterpret_cast<const uint4*>(R.unit(row, col));
      const float b = sm.decay.beta[row];
      const auto times = [b](uint32_t pair) {
        const float2 v = unpack_bf16(pair);
        return pack_bf16(b * v.x, b * v.y);
      };
      *reinterpret_cast<uint4*>(static_cast<bf16*>(a.dv) + value_at + row * value_row + col) = make_uint4(times(w.x), times(w.y), times(w.z), times(w.w));
    }
  }
  __syncthreads();
  put_rows(dq, Q, row0, col0);
  put_rows(dk, K, row0, col0);
  __syncthreads();
  store_tile(Q, static_cast<bf16*>(a.dq) + key_at, key_row, place.count);
  store_tile(K, static_cast<bf16*>(a.dk) + key_at, key_row, place.count);
}

}  // namespace

void bwd_chunk(const GdnBwd& a, const bf16* d_states, const bf16* d_right, cudaStream_t stream) {
  if (a.documents == 0) return;
  launch_grid(bwd_chunk_kernel, dim3(static_cast<unsigned>(gdn_state_slots(a.tokens, a.documents) * a.key_heads)), dim3(kWide), sizeof(Smem), stream, a, d_states, d_right);
}

}  // namespace weft::kernels::gdn

namespace weft::kernels {

namespace {
int64_t state_elements(const GdnBwd& a) { return gdn_state_slots(a.tokens, a.documents) * a.value_heads * gdn::kD * gdn::kD; }
}  // namespace

Support supports_gdn_bwd_sm90(const GdnBwd& a, const Device& device) {
  return gdn::supports(a, {a.d_o, a.q, a.k, a.v, a.states, a.inverses, a.dq, a.dk, a.dv}, device);
}

size_t workspace_gdn_bwd_sm90(const GdnBwd& a) { return static_cast<size_t>(state_elements(a) + a.tokens * a.value_heads * gdn::kD) * sizeof(bf16); }

void gdn_bwd_sm90(const GdnBwd& a, const Launch& l) {
  auto* d_states = static_cast<bf16*>(l.workspace);
  bf16* d_right = d_states + state_elements(a);
  gdn::bwd_state(a, d_states, d_right, l.stream);
  gdn::bwd_chunk(a, d_states, d_right, l.stream);
}

}  // namespace weft::kernels
