// SSD backward, second pass: one block takes one chunk of one group and goes through the group's heads, so that dB and dC are summed
// over heads in registers. With L_ij = e^{cs_i - cs_j} (j <= i), S the state before the chunk and dS the gradient of the state after it:
//   G_ij = dy_i . x_j    M = (C B^T) L diag(dt)    Q = G L                       [64, 64]
//   dx = M^T dy + diag(w) B dS^T + D dy              w_j = dt_j e^{cs_63 - cs_j}
//   dC = Q diag(dt) B + diag(e^{cs}) dy S            u = Q^T C + diag(e^{cs_63 - cs}) x dS      dB = diag(dt) u
//   dcs_i = dC_i . C_i - dt_i u_i . B_i, and the chunk's end gets <dS, S_after> = e^{cs_63} <dS, S> + sum_j (inter part of dB_j) . B_j
// The diagonal of Q would cancel in dcs: it is kept apart in fp32 and added to dC and u after the dots.
//   da = reverse cumsum of dcs in the chunk    d_dt = u . B + A da    dA = sum da dt    dD = <dy, x>
// Floor at b8 s4096 H128: S, dS, x, dy, dx 3.75 GB (0.88 ms at 4.3 TB/s); 3.4e11 FLOP (0.45 ms at 800 TFLOP/s).
#include "kernels/ssd/bwd.cuh"

namespace weft::kernels {
namespace ssd {
namespace {

constexpr int kThreads = 512;

struct Smem {
  bf16 B[kL * kN], C[kL * kN];
  bf16 x[2][kL * kP], dy[2][kL * kP], S[2][kP * kN], dS[2][kP * kN];
  bf16 M[kL * kL], Q[kL * kL], Qdt[kL * kL];
  struct Decay {
    float cs[kL], dt[kL], grow[kL], fade[kL];  // e^{cs}, e^{cs_63 - cs}
  } decay[2];
  float dot_c[4][kL], dot_b[4][kL], dot_inter[4][kL];  // by column quarter
  float diag_g[kL], diag_cb[kL];                       // G_ii, C_i . B_i
  float part_end[16], part_d[16];
};

__global__ void __launch_bounds__(kThreads, 1) bwd_chunk_kernel(const SsdBwd a, const BwdWorkspace w) {
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<Smem*>(raw);
  const int H = a.heads, heads = H / a.groups, group = static_cast<int>(blockIdx.x % a.groups);
  const int64_t slot = blockIdx.x / a.groups;
  const ChunkPlace at = place_of_slot(a.cu_seqlens, a.documents, slot, kL);
  const int warp = warp_id(), lane = lane_id(), q = lane >> 2, r = lane & 3;
  if (at.count == 0) {
    for (int h = threadIdx.x; h < heads; h += kThreads) w.dA[slot * H + group * heads + h] = 0.f, w.dD[slot * H + group * heads + h] = 0.f;
    return;
  }
  const Tile<kN> B{sm.B}, C{sm.C};
  const Tile<kL> M{sm.M}, Q{sm.Q}, Qdt{sm.Qdt};
  load_tile_async<kL, kN, kThreads>(B, static_cast<const bf16*>(a.B) + at.first * a.B_stride + group * kN, a.B_stride, at.count);
  load_tile_async<kL, kN, kThreads>(C, static_cast<const bf16*>(a.C) + at.first * a.C_stride + group * kN, a.C_stride, at.count);
  auto load = [&](int h) {
    const int head = group * heads + h, s = h & 1;
    const int64_t state = (slot * H + head) * (kP * kN);
    load_tile_async<kL, kP, kThreads>(Tile<kP>{sm.x[s]}, static_cast<const bf16*>(a.x) + at.first * a.x_stride + head * kP, a.x_stride, at.count);
    load_tile_async<kL, kP, kThreads>(Tile<kP>{sm.dy[s]}, static_cast<const bf16*>(a.dy) + (at.first * H + head) * kP, static_cast<int64_t>(H) * kP, at.count);
    load_tile_async<kP, kN, kThreads>(Tile<kN>{sm.S[s]}, static_cast<const bf16*>(a.states) + state, kN, kP);
    load_tile_async<kP, kN, kThreads>(Tile<kN>{sm.dS[s]}, static_cast<const bf16*>(w.d_states) + state, kN, kP);
    cp_async_commit();
  };
  load(0);
  float dt0 = 0, dt1 = 0;
  auto fetch_dt = [&](int h) {
    const float* dt = a.dt + at.first * H + group * heads + h;
    dt0 = 2 * lane < at.count ? dt[static_cast<int64_t>(2 * lane) * H] : 0.f;
    dt1 = 2 * lane + 1 < at.count ? dt[static_cast<int64_t>(2 * lane + 1) * H] : 0.f;
  };
  if (warp == 0) fetch_dt(0);

  // Rows of each product are cut in 4 blocks of 16, columns in quarters: 16 of the 64-wide ones, 32 of the 128-wide ones.
  const int row0 = (warp & 3) * 16, quarter = warp >> 2;
  float cb[2][4] = {}, dB[4][4] = {}, dC[4][4] = {};

  for (int h = 0; h < heads; ++h) {
    const int head = group * heads + h, s = h & 1;
    auto& d = sm.decay[s];
    const float A = a.A[head], D = a.D ? a.D[head] : 0.f;
    if (warp == 0) {
      chunk_decay(dt0, dt1, A, d.cs);
      d.dt[2 * lane] = dt0, d.dt[2 * lane + 1] = dt1;
      __syncwarp();
      for (int i = 2 * lane; i < 2 * lane + 2; ++i) d.grow[i] = __expf(d.cs[i]), d.fade[i] = __expf(d.cs[kL - 1] - d.cs[i]);
      if (h + 1 < heads) fetch_dt(h + 1);
    }
    cp_async_wait<0>();
    __syncthreads();
    if (h + 1 < heads) load(h + 1);
    const Tile<kP> dy{sm.dy[s]};
    const auto xf = fresh(Tile<kP>{sm.x[s]}), dyf = fresh(dy);
    const auto S = fresh(Tile<kN>{sm.S[s]}), dS = fresh(Tile<kN>{sm.dS[s]}), Bf = fresh(B), Cf = fresh(C);
    const auto Mf = fresh(M), Qf = fresh(Q), Qdtf = fresh(Qdt);

    if (h == 0 && quarter * 16 <= row0) {
#pragma unroll
      for (int k = 0; k < kN / 16; ++k) {
        uint32_t fa[4], fb[4];
        load_a(fa, Cf, row0, k * 16);
        load_b(fb, Bf, quarter * 16, k * 16);
        mma_bf16(cb[0], fa, fb[0], fb[1]);
        mma_bf16(cb[1], fa, fb[2], fb[3]);
      }
    }
    if (quarter * 16 <= row0) {
      float g[2][4] = {};
#pragma unroll
      for (int k = 0; k < kP / 16; ++k) {
        uint32_t fa[4], fb[4];
        load_a(fa, dyf, row0, k * 16);
        load_b(fb, xf, quarter * 16, k * 16);
        mma_bf16(g[0], fa, fb[0], fb[1]);
        mma_bf16(g[1], fa, fb[2], fb[3]);
      }
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 4; e += 2) {
          const int i = row0 + q + e * 4, j = quarter * 16 + n * 8 + r * 2;
          const float l0 = j <= i ? __expf(d.cs[i] - d.cs[j]) : 0.f, l1 = j + 1 <= i ? __expf(d.cs[i] - d.cs[j + 1]) : 0.f;
          const float q0 = j < i ? g[n][e] * l0 : 0.f, q1 = j + 1 < i ? g[n][e + 1] * l1 : 0.f;
          if (j == i) sm.diag_g[i] = g[n][e], sm.diag_cb[i] = cb[n][e];
          if (j + 1 == i) sm.diag_g[i] = g[n][e + 1], sm.diag_cb[i] = cb[n][e + 1];
          const float t0 = d.dt[j], t1 = d.dt[j + 1];
          *reinterpret_cast<uint32_t*>(M.at(i, j)) = pack_bf16(j <= i ? cb[n][e] * l0 * t0 : 0.f, j + 1 <= i ? cb[n][e + 1] * l1 * t1 : 0.f);
          *reinterpret_cast<uint32_t*>(Q.at(i, j)) = pack_bf16(q0, q1);
          *reinterpret_cast<uint32_t*>(Qdt.at(i, j)) = pack_bf16(q0 * t0, q1 * t1);
        }
    }
    {  // <dS, S> and <dy, x>, elementwise
      float end = 0, dd = 0;
#pragma unroll
      for (int i = 0; i < kP * kN / 2 / kThreads; ++i) {
        const int u = (i * kThreads + static_cast<int>(threadIdx.x)) * 2;
        const float2 v = unpack_bf16(*reinterpret_cast<const uint32_t*>(sm.S[s] + u)), g = unpack_bf16(*reinterpret_cast<const uint32_t*>(sm.dS[s] + u));
        end += v.x * g.x + v.y * g.y;
      }
#pragma unroll
      for (int i = 0; i < kL * kP / 2 / kThreads; ++i) {
        const int u = (i * kThreads + static_cast<int>(threadIdx.x)) * 2;
        const float2 v = unpack_bf16(*reinterpret_cast<const uint32_t*>(sm.x[s] + u)), g = unpack_bf16(*reinterpret_cast<const uint32_t*>(sm.dy[s] + u));
        dd += v.x * g.x + v.y * g.y;
      }
      end = warp_sum(end), dd = warp_sum(dd);
      if (lane == 0) sm.part_end[warp] = end, sm.part_d[warp] = dd;
    }
    __syncthreads();

    {  // dx: rows are tokens j, columns 16 of P
      float acc[2][4] = {};
#pragma unroll
      for (int k = 0; k < kN / 16; ++k) {
        uint32_t fa[4], fb[4];
        load_a(fa, Bf, row0, k * 16);
        load_b(fb, dS, quarter * 16, k * 16);
        mma_bf16(acc[0], fa, fb[0], fb[1]);
        mma_bf16(acc[1], fa, fb[2], fb[3]);
      }
      const float w0 = d.dt[row0 + q] * d.fade[row0 + q], w1 = d.dt[row0 + q + 8] * d.fade[row0 + q + 8];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int p = quarter * 16 + n * 8 + r * 2;
        const float2 lo = unpack_bf16(*reinterpret_cast<const uint32_t*>(dy.at(row0 + q, p))), hi = unpack_bf16(*reinterpret_cast<const uint32_t*>(dy.at(row0 + q + 8, p)));
        acc[n][0] = acc[n][0] * w0 + D * lo.x, acc[n][1] = acc[n][1] * w0 + D * lo.y;
        acc[n][2] = acc[n][2] * w1 + D * hi.x, acc[n][3] = acc[n][3] * w1 + D * hi.y;
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (k * 16 < row0) continue;
        uint32_t fa[4], fb[4];
        load_a_trans(fa, Mf, row0, k * 16);
        load_b_trans(fb, dyf, k * 16, quarter * 16);
        mma_bf16(acc[0], fa, fb[0], fb[1]);
        mma_bf16(acc[1], fa, fb[2], fb[3]);
      }
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        bf16* dx = static_cast<bf16*>(a.dx) + ((at.first + row0 + q) * H + head) * kP + quarter * 16 + n * 8 + r * 2;
        if (row0 + q < at.count) *reinterpret_cast<uint32_t*>(dx) = pack_bf16(acc[n][0], acc[n][1]);
        if (row0 + q + 8 < at.count) *reinterpret_cast<uint32_t*>(dx + static_cast<int64_t>(8) * H * kP) = pack_bf16(acc[n][2], acc[n][3]);
      }
    }
    const int n0 = quarter * 32;
    auto row_dots = [&](const float (&v)[4][4], const Tile<kN>& tile, float (*out)[kL]) {  // rows of v times rows of the tile
      float lo = 0, hi = 0;
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const float2 tl = unpack_bf16(*reinterpret_cast<const uint32_t*>(tile.at(row0 + q, n0 + n * 8 + r * 2)));
        const float2 th = unpack_bf16(*reinterpret_cast<const uint32_t*>(tile.at(row0 + q + 8, n0 + n * 8 + r * 2)));
        lo += v[n][0] * tl.x + v[n][1] * tl.y, hi += v[n][2] * th.x + v[n][3] * th.y;
      }
      lo = warp_sum<4>(lo), hi = warp_sum<4>(hi);
      if (r == 0) out[quarter][row0 + q] = lo, out[quarter][row0 + q + 8] = hi;
    };
    auto add_diagonal = [&](float (&v)[4][4], const Tile<kN>& tile, float lo, float hi) {
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const float2 tl = unpack_bf16(*reinterpret_cast<const uint32_t*>(tile.at(row0 + q, n0 + n * 8 + r * 2)));
        const float2 th = unpack_bf16(*reinterpret_cast<const uint32_t*>(tile.at(row0 + q + 8, n0 + n * 8 + r * 2)));
        v[n][0] += lo * tl.x, v[n][1] += lo * tl.y, v[n][2] += hi * th.x, v[n][3] += hi * th.y;
      }
    };
    auto scale_rows = [&](float (&v)[4][4], float lo, float hi) {
#pragma unroll
      for (int n = 0; n < 4; ++n) v[n][0] *= lo, v[n][1] *= lo, v[n][2] *= hi, v[n][3] *= hi;
    };
    {  // dC of this head
      float acc[4][4] = {};
#pragma unroll
      for (int k = 0; k < kP / 16; ++k) {
        uint32_t fa[4], fb[4];
        load_a(fa, dyf, row0, k * 16);
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          load_b_trans(fb, S, k * 16, n0 + n * 16);
          mma_bf16(acc[2 * n], fa, fb[0], fb[1]);
          mma_bf16(acc[2 * n + 1], fa, fb[2], fb[3]);
        }
      }
      scale_rows(acc, d.grow[row0 + q], d.grow[row0 + q + 8]);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (k * 16 > row0) continue;
        uint32_t fa[4], fb[4];
        load_a(fa, Qdtf, row0, k * 16);
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          load_b_trans(fb, Bf, k * 16, n0 + n * 16);
          mma_bf16(acc[2 * n], fa, fb[0], fb[1]);
          mma_bf16(acc[2 * n + 1], fa, fb[2], fb[3]);
        }
      }
      row_dots(acc, C, sm.dot_c);
      add_diagonal(acc, B, d.dt[row0 + q] * sm.diag_g[row0 + q], d.dt[row0 + q + 8] * sm.diag_g[row0 + q + 8]);
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) dC[n][e] += acc[n][e];
    }
    {  // u of this head, dB = dt u
      float acc[4][4] = {};
#pragma unroll
      for (int k = 0; k < kP / 16; ++k) {
        uint32_t fa[4], fb[4];
        load_a(fa, xf, row0, k * 16);
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          load_b_trans(fb, dS, k * 16, n0 + n * 16);
          mma_bf16(acc[2 * n], fa, fb[0], fb[1]);
          mma_bf16(acc[2 * n + 1], fa, fb[2], fb[3]);
        }
      }
      scale_rows(acc, d.fade[row0 + q], d.fade[row0 + q + 8]);
      row_dots(acc, B, sm.dot_inter);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (k * 16 < row0) continue;
        uint32_t fa[4], fb[4];
        load_a_trans(fa, Qf, row0, k * 16);
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          load_b_trans(fb, Cf, k * 16, n0 + n * 16);
          mma_bf16(acc[2 * n], fa, fb[0], fb[1]);
          mma_bf16(acc[2 * n + 1], fa, fb[2], fb[3]);
        }
      }
      row_dots(acc, B, sm.dot_b);
      add_diagonal(acc, C, sm.diag_g[row0 + q], sm.diag_g[row0 + q + 8]);
      const float t0 = d.dt[row0 + q], t1 = d.dt[row0 + q + 8];
#pragma unroll
      for (int n = 0; n < 4; ++n) dB[n][0] += t0 * acc[n][0], dB[n][1] += t0 * acc[n][1], dB[n][2] += t1 * acc[n][2], dB[n][3] += t1 * acc[n][3];
    }
    __syncthreads();
    if (warp == 0) {
      float u[2], dcs[2], inter = 0;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int i = 2 * lane + e;
        u[e] = (sm.dot_b[0][i] + sm.dot_b[1][i]) + (sm.dot_b[2][i] + sm.dot_b[3][i]);
        dcs[e] = (sm.dot_c[0][i] + sm.dot_c[1][i]) + (sm.dot_c[2][i] + sm.dot_c[3][i]) - d.dt[i] * u[e];
        inter += d.dt[i] * ((sm.dot_inter[0][i] + sm.dot_inter[1][i]) + (sm.dot_inter[2][i] + sm.dot_inter[3][i]));
      }
      const float end = d.grow[kL - 1] * warp_sum(lane < 16 ? sm.part_end[lane & 15] : 0.f) + warp_sum(inter);
      const float before = warp_scan(dcs[0] + dcs[1]), all = __shfl_sync(0xffffffffu, before, 31) + end;
      const float da1 = all - before + dcs[1], da0 = da1 + dcs[0];
      float* d_dt = a.d_dt + (at.first + 2 * lane) * H + head;
      if (2 * lane < at.count) d_dt[0] = u[0] + sm.diag_g[2 * lane] * sm.diag_cb[2 * lane] + A * da0;
      if (2 * lane + 1 < at.count) d_dt[H] = u[1] + sm.diag_g[2 * lane + 1] * sm.diag_cb[2 * lane + 1] + A * da1;
      const float dA = warp_sum(da0 * d.dt[2 * lane] + da1 * d.dt[2 * lane + 1]);
      const float dd = warp_sum(lane < 16 ? sm.part_d[lane & 15] : 0.f);
      if (lane == 0) w.dA[slot * H + head] = dA, w.dD[slot * H + head] = dd;
    }
  }
  const int64_t gn = static_cast<int64_t>(a.groups) * kN, out = (at.first + row0 + q) * gn + group * kN + quarter * 32 + r * 2;
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    if (row0 + q < at.count) {
      *reinterpret_cast<uint32_t*>(static_cast<bf16*>(a.dB) + out + n * 8) = pack_bf16(dB[n][0], dB[n][1]);
      *reinterpret_cast<uint32_t*>(static_cast<bf16*>(a.dC) + out + n * 8) = pack_bf16(dC[n][0], dC[n][1]);
    }
    if (row0 + q + 8 < at.count) {
      *reinterpret_cast<uint32_t*>(static_cast<bf16*>(a.dB) + out + 8 * gn + n * 8) = pack_bf16(dB[n][2], dB[n][3]);
      *reinterpret_cast<uint32_t*>(static_cast<bf16*>(a.dC) + out + 8 * gn + n * 8) = pack_bf16(dC[n][2], dC[n][3]);
    }
  }
}

// One block a head: sums its parts over the slots in a fixed order.
__global__ void __launch_bounds__(256) sum_parts_kernel(const float* dA_parts, const float* dD_parts, int64_t slots, int H, float* dA, float* dD) {
  __shared__ float part[2][8];
  float sa = 0, sd = 0;
  for (int64_t i = threadIdx.x; i < slots; i += 256) sa += dA_parts[i * H + blockIdx.x], sd += dD_parts[i * H + blockIdx.x];
  sa = warp_sum(sa), sd = warp_sum(sd);
  if (lane_id() == 0) part[0][warp_id()] = sa, part[1][warp_id()] = sd;
  __syncthreads();
  if (threadIdx.x != 0) return;
  sa = sd = 0;
  for (int i = 0; i < 8; ++i) sa += part[0][i], sd += part[1][i];
  dA[blockIdx.x] += sa;
  if (dD) dD[blockIdx.x] += sd;
}

}  // namespace
}  // namespace ssd

Support supports_ssd_bwd_sm90(const SsdBwd& a, const Device& device) {
  if (a.states == nullptr) return {"the forward's states were not saved"};
  if (reinterpret_cast<uintptr_t>(a.dy) % 16 != 0 || reinterpret_cast<uintptr_t>(a.states) % 16 != 0) return {"dy or states is not 16-byte aligned"};
  return {ssd::refusal(a, device)};
}

size_t workspace_ssd_bwd_sm90(const SsdBwd& a) {
  const size_t slots = static_cast<size_t>(ssd_state_slots(a.tokens, a.documents)) * a.heads;
  return slots * (ssd::kP * ssd::kN * 2 + 2 * sizeof(float));
}

void ssd_bwd_sm90(const SsdBwd& a, const Launch& launch) {
  const int64_t slots = ssd_state_slots(a.tokens, a.documents), rows = slots * a.heads;
  if (a.documents == 0) return;
  auto* base = static_cast<uint8_t*>(launch.workspace);
  float* parts = reinterpret_cast<float*>(base + rows * (ssd::kP * ssd::kN * 2));
  const ssd::BwdWorkspace w{base, parts, parts + rows};
  ssd::bwd_state(a, w.d_states, launch.stream);
  launch_grid(ssd::bwd_chunk_kernel, dim3(static_cast<unsigned>(slots * a.groups)), dim3(ssd::kThreads), sizeof(ssd::Smem), launch.stream, a, w);
  launch_grid(ssd::sum_parts_kernel, dim3(a.heads), dim3(256), 0, launch.stream, static_cast<const float*>(w.dA), static_cast<const float*>(w.dD), slots, a.heads, a.dA, a.dD);
}

}  // namespace weft::kernels
