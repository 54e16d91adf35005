// SSD forward. One block walks the chunks of one document for kHeads heads of one group; the state [64, 128] of a head lives in the
// registers of four warps, 16 rows of P each. Per chunk of 64 tokens, all products transposed so that S is an A operand in place:
//   M_ij = (C_i . B_j) e^{cs_i - cs_j} dt_j (j <= i)    y^T = S C^T diag(e^{cs}) + X^T M^T + D X^T    S = e^{cs_63} S + (X diag(w))^T B
// Floor for b8 s4096 H128 P64 N128 G8: x, y, B, C 1.21 GB (0.28 ms at 4.3 TB/s), saved states 1.07 GB more; 2.0e11 FLOP with the
// causal halves of the 64 x 64 products (0.25 ms at 800 TFLOP/s; 0.45 at what mma.sync reaches).
#include "kernels/ssd/tiles.cuh"

namespace weft::kernels {
namespace ssd {
namespace {

template <int kHeads>
struct FwdSmem {
  bf16 B[2][kL * kN], C[2][kL * kN];
  bf16 x[2][kHeads][kL * kP];
  bf16 M[kHeads][kL * kL];
  struct Decay {
    float to[kL], from[kL], grow[kL], w[kL];  // log2(e) cs, that less log2(dt): M_ij's factor is 2^{to_i - from_j}; e^{cs}; dt e^{cs_63 - cs}
  } decay[2][kHeads];
};

template <int kHeads>
__global__ void __launch_bounds__(128 * kHeads, kHeads == 2 ? 2 : 3) fwd_kernel(const SsdFwd a) {
  constexpr int kThreads = 128 * kHeads;
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<FwdSmem<kHeads>*>(raw);
  const int blocks_per_document = a.heads / kHeads;
  const int head0 = static_cast<int>(blockIdx.x % blocks_per_document) * kHeads, document = static_cast<int>(blockIdx.x / blocks_per_document);
  const int64_t start = a.cu_seqlens[document], length = a.cu_seqlens[document + 1] - start;
  const int chunks = static_cast<int>((length + kL - 1) / kL);
  const int64_t H = a.heads, group = head0 / (H / a.groups);
  const int lane = lane_id(), warp = warp_id(), mine = warp >> 2, p0 = (warp & 3) * 16, head = head0 + mine;
  const int64_t state_row = (document * H + head) * (kP * kN);

  float S[16][4];
  read_state(S, a.initial_state ? a.initial_state + state_row : nullptr, p0);
  const float A = a.A[head], D = a.D ? a.D[head] : 0.f;

  auto load = [&](int c) {
    const int64_t first = start + static_cast<int64_t>(c) * kL;
    const int left = static_cast<int>(length - static_cast<int64_t>(c) * kL), valid = left < kL ? left : kL, s = c & 1;
    load_tile_async<kL, kN, kThreads>(Tile<kN>{sm.B[s]}, static_cast<const bf16*>(a.B) + first * a.B_stride + group * kN, a.B_stride, valid);
    load_tile_async<kL, kN, kThreads>(Tile<kN>{sm.C[s]}, static_cast<const bf16*>(a.C) + first * a.C_stride + group * kN, a.C_stride, valid);
#pragma unroll
    for (int h = 0; h < kHeads; ++h)
      load_tile_async<kL, kP, kThreads>(Tile<kP>{sm.x[s][h]}, static_cast<const bf16*>(a.x) + first * a.x_stride + (head0 + h) * kP, a.x_stride, valid);
    cp_async_commit();
  };
  float dt0 = 0, dt1 = 0;  // of the chunk to come, in the first warp of each head
  auto fetch_dt = [&](int c) {
    const int64_t i = static_cast<int64_t>(c) * kL + 2 * lane;
    dt0 = i < length ? a.dt[(start + i) * H + head] : 0.f;
    dt1 = i + 1 < length ? a.dt[(start + i + 1) * H + head] : 0.f;
  };

  if (chunks > 0) {
    load(0);
    if ((warp & 3) == 0) fetch_dt(0);
  }
  for (int c = 0; c < chunks; ++c) {
    const int s = c & 1;
    const int64_t first = start + static_cast<int64_t>(c) * kL;
    if ((warp & 3) == 0) {
      auto& d = sm.decay[s][mine];
      const float a0 = dt0 * A, a1 = dt1 * A, cs1 = warp_scan(a0 + a1) * kLog2E, cs0 = cs1 - a1 * kLog2E, end = __shfl_sync(0xffffffffu, cs1, 31);
      const int i = 2 * lane;
      *reinterpret_cast<float2*>(&d.to[i]) = {cs0, cs1};
      *reinterpret_cast<float2*>(&d.from[i]) = {cs0 - __log2f(dt0), cs1 - __log2f(dt1)};
      *reinterpret_cast<float2*>(&d.grow[i]) = {exp2_fast(cs0), exp2_fast(cs1)};
      *reinterpret_cast<float2*>(&d.w[i]) = {dt0 * exp2_fast(end - cs0), dt1 * exp2_fast(end - cs1)};
      if (c + 1 < chunks) fetch_dt(c + 1);
    }
    if (a.states) write_state(S, static_cast<bf16*>(a.states) + ((start / kL + document + c) * H + head) * (kP * kN), p0);
    cp_async_wait<0>();
    __syncthreads();
    if (c + 1 < chunks) load(c + 1);

    const auto B = fresh(Tile<kN>{sm.B[s]}), C = fresh(Tile<kN>{sm.C[s]});
    const Tile<kP> x{sm.x[s][mine]};
    const auto xf = fresh(x);
    const int row0 = (warp & 3) * 16;  // of M: the warps of one number share the 16 rows and take turns at its 16-column blocks
#pragma unroll
    for (int t = 0; t < 4 / kHeads; ++t) {
      const int block = t * kHeads + mine;
      if (block * 16 > row0) break;
      float cb[2][4] = {};
#pragma unroll
      for (int k = 0; k < kN / 16; ++k) {
        uint32_t fa[4], fb[4];
        load_a(fa, C, row0, k * 16);
        load_b(fb, B, block * 16, k * 16);
        mma_bf16(cb[0], fa, fb[0], fb[1]);
        mma_bf16(cb[1], fa, fb[2], fb[3]);
      }
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        const auto& d = sm.decay[s][h];
        const Tile<kL> M{sm.M[h]};
        const int i0 = row0 + (lane >> 2);
        const float to0 = d.to[i0], to1 = d.to[i0 + 8];
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const int j = block * 16 + n * 8 + (lane & 3) * 2;
          const float2 from = *reinterpret_cast<const float2*>(&d.from[j]);
          float f[4] = {exp2_fast(to0 - from.x), exp2_fast(to0 - from.y), exp2_fast(to1 - from.x), exp2_fast(to1 - from.y)};
          if (block * 16 == row0) {  // on the diagonal
            if (j > i0) f[0] = 0;
            if (j + 1 > i0) f[1] = 0;
            if (j > i0 + 8) f[2] = 0;
            if (j + 1 > i0 + 8) f[3] = 0;
            *reinterpret_cast<uint32_t*>(M.at(i0, j)) = pack_bf16(f[0] == 0 ? 0.f : cb[n][0] * f[0], f[1] == 0 ? 0.f : cb[n][1] * f[1]);
            *reinterpret_cast<uint32_t*>(M.at(i0 + 8, j)) = pack_bf16(f[2] == 0 ? 0.f : cb[n][2] * f[2], f[3] == 0 ? 0.f : cb[n][3] * f[3]);
          } else {
            *reinterpret_cast<uint32_t*>(M.at(i0, j)) = pack_bf16(cb[n][0] * f[0], cb[n][1] * f[1]);
            *reinterpret_cast<uint32_t*>(M.at(i0 + 8, j)) = pack_bf16(cb[n][2] * f[2], cb[n][3] * f[3]);
          }
        }
      }
    }
    __syncthreads();

    const auto M = fresh(Tile<kL>{sm.M[mine]});
    uint32_t xt[4][4];
#pragma unroll
    for (int k = 0; k < 4; ++k) load_a_trans(xt[k], xf, p0, k * 16);
#pragma unroll
    for (int half = 0; half < 2; ++half) {  // 32 tokens of y^T at a time: fewer registers
      float y[4][4] = {};
#pragma unroll
      for (int k = 0; k < kN / 16; ++k) {
        const uint32_t fs[4] = {pack_bf16(S[2 * k][0], S[2 * k][1]), pack_bf16(S[2 * k][2], S[2 * k][3]),
                                pack_bf16(S[2 * k + 1][0], S[2 * k + 1][1]), pack_bf16(S[2 * k + 1][2], S[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          uint32_t b[4];
          load_b(b, C, half * 32 + n * 16, k * 16);
          mma_bf16(y[2 * n], fs, b[0], b[1]);
          mma_bf16(y[2 * n + 1], fs, b[2], b[3]);
        }
      }
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const int i = half * 32 + n * 8 + (lane & 3) * 2;
        const float g0 = sm.decay[s][mine].grow[i], g1 = sm.decay[s][mine].grow[i + 1];
        const float2 lo = unpack_bf16(xt[half * 2 + n / 2][n % 2 * 2]), hi = unpack_bf16(xt[half * 2 + n / 2][n % 2 * 2 + 1]);  // x where y is
        y[n][0] = y[n][0] * g0 + D * lo.x, y[n][1] = y[n][1] * g1 + D * lo.y;
        y[n][2] = y[n][2] * g0 + D * hi.x, y[n][3] = y[n][3] * g1 + D * hi.y;
      }
#pragma unroll
      for (int k = 0; k < 4; ++k)
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          if (k > half * 2 + n) continue;
          uint32_t b[4];
          load_b(b, M, half * 32 + n * 16, k * 16);
          mma_bf16(y[2 * n], xt[k], b[0], b[1]);
          mma_bf16(y[2 * n + 1], xt[k], b[2], b[3]);
        }
      __syncwarp();  // columns p0.. of x are this warp's alone: y takes their place
#pragma unroll
      for (int n = 0; n < 2; ++n)
        stmatrix_x4_trans(x.unit(half * 32 + n * 16 + (lane & 7) + (lane >> 4) * 8, p0 + ((lane >> 3) & 1) * 8), pack_bf16(y[2 * n][0], y[2 * n][1]),
                          pack_bf16(y[2 * n][2], y[2 * n][3]), pack_bf16(y[2 * n + 1][0], y[2 * n + 1][1]), pack_bf16(y[2 * n + 1][2], y[2 * n + 1][3]));
    }
    add_outer(S, xt, sm.decay[s][mine].w, B, sm.decay[s][mine].grow[kL - 1]);
    __syncwarp();
    bf16* y = static_cast<bf16*>(a.y) + (first * H + head) * kP + p0;
    const int64_t left = length - static_cast<int64_t>(c) * kL;
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const int i = t * 16 + (lane >> 1), u = (lane & 1) * 8;
      if (i < left) *reinterpret_cast<uint4*>(y + i * H * kP + u) = *reinterpret_cast<const uint4*>(x.unit(i, p0 + u));
    }
  }
  if (a.final_state) write_state(S, a.final_state + state_row, p0);
}

}  // namespace
}  // namespace ssd

Support supports_ssd_fwd_sm90(const SsdFwd& a, const Device& device) { return {ssd::refusal(a, device)}; }

void ssd_fwd_sm90(const SsdFwd& a, const Launch& launch) {
  if (a.heads / a.groups % 2 == 0 && a.heads * a.documents > 264)
    launch_grid(ssd::fwd_kernel<2>, dim3(static_cast<unsigned>(a.heads / 2 * a.documents)), dim3(256), sizeof(ssd::FwdSmem<2>), launch.stream, a);
  else
    launch_grid(ssd::fwd_kernel<1>, dim3(static_cast<unsigned>(a.heads * a.documents)), dim3(128), sizeof(ssd::FwdSmem<1>), launch.stream, a);
}

}  // namespace weft::kernels
