// Mamba-3 backward, chunk by chunk: one block takes kChunksPerBlock chunks of one group and, in each, goes through the group's heads, so
// that dB and dC are summed over heads in registers. Rows i, j = (step, rank); S before the chunk, dS after it; L_ij = e^{cs_i - cs_j};
// f_ij = L_ij scale_j for an earlier step j, gamma_i within a step, 0 later (nam56r.md 2.6):
//   G_ij = dY_i . v_j    M = f (q k^T)    W = f G
//   y = M v + e^{cs} q S^T + D v               dv = M^T dY + w k dS^T + D dY
//   dq = W k + e^{cs} dY S                     dk = W^T q + w v dS                         w_j = scale_j e^{cs_end - cs_j}
// then the gate's backward from y, the turn back of dq and dk with d theta, and sums in fp32 of L G (q k^T) for scale, gamma and a.
// Floor at b8 s4096 H128 R4: S, dS 8.6 GB (2.0 ms at 4.3 TB/s); 1.9e12 FLOP with triangles (2.4 ms at 800 TFLOP/s).
#include "kernels/mamba3/bwd.cuh"

namespace weft::kernels::mamba3 {
namespace {

constexpr int kThreads = 512;

template <int R>
struct Smem {
  static constexpr int kSteps = kRows / R, kStride = kP + 8, kAngles = R == 1 ? 32 : 64;
  bf16 B[kRows * kN], C[kRows * kN];
  bf16 q[kRows * kN], k[kRows * kN];
  bf16 S[2][kP * kN], dS[2][kP * kN];
  bf16 v[kRows * kP], dY[kRows * kP];
  bf16 M[kRows * kRows], W[kRows * kRows];
  bf16 x[kSteps * kStride], z[kSteps * kStride], d_o[kSteps * kStride];
  __half2 turn[kSteps * kAngles];
  alignas(16) float omega[kSteps * kAngles];
  float theta[2][64];
  float weights[2][3][R * kP];  // mimo x, z, o
  float dt[2][kSteps + 1], a[2][kSteps + 1], lambda[2][kSteps + 1];
  Decay decay;
  float row_w[4][kRows], col_t[4][kRows], dot_q[4][kRows], dot_k[4][kRows];  // by column quarter; col_t by row block
  float gamma[kRows], trace[kRows], part_end[16];
  float bias[2][4][R][kN];   // by row block: dB, dC
  float mimo[3][4][R][kP];   // x, z, o
  float theta_sum[4][64];
};

template <int R>
__global__ void __launch_bounds__(kThreads, 1) chunk_kernel(const Mamba3Bwd args, const BwdWorkspace w, const int64_t slots) {
  using Sm = Smem<R>;
  constexpr int kSteps = Sm::kSteps, kPairs = kSteps * 32 / kThreads > 0 ? kSteps * 32 / kThreads : 1;
  const Mamba3Inputs& a = args.in;
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<Sm*>(raw);
  const int heads = a.heads / a.groups, group = static_cast<int>(blockIdx.x % a.groups);
  const int64_t part = blockIdx.x / a.groups, H = a.heads;
  const int t = threadIdx.x, warp = warp_id(), lane = lane_id(), qd = lane >> 2, r = lane & 3;
  const int row0 = (warp & 3) * 16, block = warp & 3, quarter = warp >> 2, low = quarter * 16;
  const Tile<kN> B{sm.B}, C{sm.C}, Q{sm.q}, K{sm.k};
  const Tile<kP> V{sm.v}, DY{sm.dY};
  const Tile<kRows> M{sm.M}, W{sm.W};

  // The parts of the parameter gradients start at zero; later each is added to by the thread that owns it.
  float* bias_part = w.bias_parts + part * 2 * H * R * kN;
  float* mimo_part = w.mimo_parts + part * 3 * H * R * kP;
  for (int i = t; i < heads * R * kN; i += kThreads)
    bias_part[static_cast<int64_t>(group) * heads * R * kN + i] = 0, bias_part[(H + static_cast<int64_t>(group) * heads) * R * kN + i] = 0;
  for (int i = t; i < heads * R * kP; i += kThreads)
    for (int m = 0; m < 3; ++m) mimo_part[(m * H + static_cast<int64_t>(group) * heads) * R * kP + i] = 0;
  for (int i = t; i < heads; i += kThreads) w.D_parts[part * H + group * heads + i] = 0;

  for (int64_t slot = part * kChunksPerBlock; slot < slots && slot < (part + 1) * kChunksPerBlock; ++slot) {
    const ChunkPlace at = place_of_slot(a.cu_seqlens, a.documents, slot, kSteps);
    __syncthreads();  // the parts' zeros; the last chunk's reads
    if (at.count == 0) continue;
    const int64_t end_of_document = a.cu_seqlens[at.document + 1];
    load_rows<R>(B, a.B, a.B_stride, a.groups, group, at.first, at.count, t, kThreads);
    load_rows<R>(C, a.C, a.C_stride, a.groups, group, at.first, at.count, t, kThreads);
    for (int u = t; u < kSteps * a.angles / 4; u += kThreads) {
      const bool ok = u * 4 < at.count * a.angles;
      cp_async16(sm.omega + u * 4, a.omega + (ok ? at.first * a.angles + u * 4 : 0), ok);
    }
    auto load = [&](int h) {
      const int head = group * heads + h, s = h & 1;
      const int64_t row = slot * H + head, state = row * (kP * kN);
      load_tile_async<kP, kN, kThreads>(Tile<kN>{sm.S[s]}, w.S + state, kN, kP);
      load_tile_async<kP, kN, kThreads>(Tile<kN>{sm.dS[s]}, w.dS + state, kN, kP);
      if (t <= kSteps) {
        const bool ok = at.first + t < end_of_document;
        const int64_t i = (ok ? at.first + t : at.first) * H + head;
        cp_async4(sm.dt[s] + t, a.dt + i, ok), cp_async4(sm.a[s] + t, a.a + i, ok), cp_async4(sm.lambda[s] + t, a.lambda + i, ok);
      }
      for (int i = t; i < R * kP; i += kThreads) {
        const int64_t m = static_cast<int64_t>(head) * R * kP + i;
        if (a.mimo_x) cp_async4(sm.weights[s][0] + i, a.mimo_x + m, true); else sm.weights[s][0][i] = 1;
        if (a.mimo_z) cp_async4(sm.weights[s][1] + i, a.mimo_z + m, true); else sm.weights[s][1][i] = 1;
        if (a.mimo_o) cp_async4(sm.weights[s][2] + i, a.mimo_o + m, true); else sm.weights[s][2][i] = 1;
      }
      if (t >= 128 && t < 128 + a.angles) cp_async4(sm.theta[s] + t - 128, w.thetas + row * a.angles + t - 128, true);
      cp_async_commit();
    };
    uint32_t next_x[kPairs], next_z[kPairs], next_o[kPairs];  // of the head to come: pairs (step, p), (step, p + 1)
    auto fetch = [&](int h) {
      const int head = group * heads + h;
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        const int u = t + i * kThreads, step = u >> 5, p = (u & 31) * 2;
        const bool ok = step < at.count;
        const int64_t token = at.first + step;
        next_x[i] = ok ? *reinterpret_cast<const uint32_t*>(static_cast<const bf16*>(a.x) + token * a.x_stride + head * kP + p) : 0;
        next_z[i] = ok && a.z ? *reinterpret_cast<const uint32_t*>(static_cast<const bf16*>(a.z) + token * a.z_stride + head * kP + p) : 0;
        next_o[i] = ok ? *reinterpret_cast<const uint32_t*>(static_cast<const bf16*>(args.d_o) + (token * H + head) * kP + p) : 0;
      }
    };
    load(0);
    fetch(0);
    float dB[4][4] = {}, dC[4][4] = {};  // columns 16 quarter.. (two tiles) and 64 on from there: the two halves of a turned pair in one lane

    for (int h = 0; h < heads; ++h) {
      const int head = group * heads + h, s = h & 1;
      const float D = a.D ? a.D[head] : 0.f;
      const float *mimo_x = sm.weights[s][0], *mimo_z = sm.weights[s][1], *mimo_o = sm.weights[s][2];
      auto weight = [](const float* m, int rank, int p) { return m[rank * kP + p]; };
      Decay& d = sm.decay;
      cp_async_wait<0>();
      __syncthreads();
      if (h + 1 < heads) load(h + 1);
      const auto S = fresh(Tile<kN>{sm.S[s]}), dS = fresh(Tile<kN>{sm.dS[s]}), Qf = fresh(Q), Kf = fresh(K);
      const auto Vf = fresh(V), DYf = fresh(DY);
      const auto Mf = fresh(M), Wf = fresh(W);
      if (warp < 4) {
        const float theta[2] = {lane < a.angles ? sm.theta[s][lane] : 0.f, lane + 32 < a.angles ? sm.theta[s][lane + 32] : 0.f};
        make_turn<R>(sm.turn, theta, sm.omega, sm.dt[s], 1, a.angles, warp);
      } else if (warp == 4) {
        chunk_decay<R>(d, sm.a[s], sm.dt[s], sm.lambda[s], 1);
      }
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        const int u = t + i * kThreads, step = u >> 5, p = (u & 31) * 2;
        *reinterpret_cast<uint32_t*>(sm.x + step * Sm::kStride + p) = next_x[i];
        *reinterpret_cast<uint32_t*>(sm.z + step * Sm::kStride + p) = next_z[i];
        *reinterpret_cast<uint32_t*>(sm.d_o + step * Sm::kStride + p) = next_o[i];
        const float2 x = unpack_bf16(next_x[i]), z = unpack_bf16(next_z[i]), o = unpack_bf16(next_o[i]);
#pragma unroll
        for (int rank = 0; rank < R; ++rank) {
          float g0 = o.x * weight(mimo_o, rank, p), g1 = o.y * weight(mimo_o, rank, p + 1);
          if (a.z) {
            const float z0 = z.x * weight(mimo_z, rank, p), z1 = z.y * weight(mimo_z, rank, p + 1);
            g0 *= z0 * sigmoid(z0), g1 *= z1 * sigmoid(z1);
          }
          *reinterpret_cast<uint32_t*>(V.at(step * R + rank, p)) = pack_bf16(x.x * weight(mimo_x, rank, p), x.y * weight(mimo_x, rank, p + 1));
          *reinterpret_cast<uint32_t*>(DY.at(step * R + rank, p)) = pack_bf16(g0, g1);
        }
      }
      if (h + 1 < heads) fetch(h + 1);
      __syncthreads();
      turn_rows<R, kThreads>(K, B, a.B_bias + static_cast<int64_t>(head) * R * kN, sm.turn, a.angles, t);
      turn_rows<R, kThreads>(Q, C, a.C_bias + static_cast<int64_t>(head) * R * kN, sm.turn, a.angles, t);
      __syncthreads();

      float row_lo = 0, row_hi = 0;
      if (quarter <= block) {
        float qk[2][4] = {}, g[2][4] = {}, col[2][2] = {};
#pragma unroll
        for (int k = 0; k < kN / 16; ++k) {
          uint32_t fa[4], fb[4];
          load_a(fa, Qf, row0, k * 16);
          load_b(fb, Kf, quarter * 16, k * 16);
          mma_bf16(qk[0], fa, fb[0], fb[1]);
          mma_bf16(qk[1], fa, fb[2], fb[3]);
        }
#pragma unroll
        for (int k = 0; k < kP / 16; ++k) {
          uint32_t fa[4], fb[4];
          load_a(fa, DYf, row0, k * 16);
          load_b(fb, Vf, quarter * 16, k * 16);
          mma_bf16(g[0], fa, fb[0], fb[1]);
          mma_bf16(g[1], fa, fb[2], fb[3]);
        }
        float gam_lo = 0, gam_hi = 0;
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int e = 0; e < 4; e += 2) {
            const int i = row0 + qd + e * 4, j = quarter * 16 + n * 8 + r * 2;
            float m[2], ww[2];
#pragma unroll
            for (int b = 0; b < 2; ++b) {
              const int jj = j + b;
              float f = 0;
              if ((jj >> kShift<R>) < (i >> kShift<R>)) {
                const float decay = exp2_fast(d.cs[i] - d.cs[jj]), both = decay * g[n][e + b] * qk[n][e + b];
                f = decay * d.scale[jj];
                (e ? row_hi : row_lo) += d.scale[jj] * both;
                col[n][b] += both;
              } else if ((jj >> kShift<R>) == (i >> kShift<R>)) {
                f = d.gamma[i];
                (e ? gam_hi : gam_lo) += g[n][e + b] * qk[n][e + b];
              }
              if (jj == i) sm.trace[i] = g[n][e + b];
              m[b] = f == 0 ? 0.f : f * qk[n][e + b], ww[b] = f == 0 ? 0.f : f * g[n][e + b];
            }
            *reinterpret_cast<uint32_t*>(M.at(i, j)) = pack_bf16(m[0], m[1]);
            *reinterpret_cast<uint32_t*>(W.at(i, j)) = pack_bf16(ww[0], ww[1]);
          }
        row_lo = warp_sum<4>(row_lo), row_hi = warp_sum<4>(row_hi), gam_lo = warp_sum<4>(gam_lo), gam_hi = warp_sum<4>(gam_hi);
        if (quarter == block && r == 0) sm.gamma[row0 + qd] = gam_lo, sm.gamma[row0 + qd + 8] = gam_hi;
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int b = 0; b < 2; ++b) {
            float c = col[n][b];
            c += __shfl_xor_sync(0xffffffffu, c, 4), c += __shfl_xor_sync(0xffffffffu, c, 8), c += __shfl_xor_sync(0xffffffffu, c, 16);
            if (qd == 0) sm.col_t[block][quarter * 16 + n * 8 + r * 2 + b] = c;
          }
      } else if (lane < 16) {
        sm.col_t[block][quarter * 16 + lane] = 0;
      }
      if (r == 0) sm.row_w[quarter][row0 + qd] = row_lo, sm.row_w[quarter][row0 + qd + 8] = row_hi;
      {
        float end = 0;
#pragma unroll
        for (int i = 0; i < kP * kN / 2 / kThreads; ++i) {
          const int u = (i * kThreads + t) * 2;
          const float2 v = unpack_bf16(*reinterpret_cast<const uint32_t*>(sm.S[s] + u)), g = unpack_bf16(*reinterpret_cast<const uint32_t*>(sm.dS[s] + u));
          end += v.x * g.x + v.y * g.y;
        }
        end = warp_sum(end);
        if (lane == 0) sm.part_end[warp] = end;
      }
      __syncthreads();

      {  // y and dv: 16 rows x 16 columns of P a warp
        float y[2][4] = {}, dv[2][4] = {};
#pragma unroll
        for (int k = 0; k < kN / 16; ++k) {
          uint32_t fa[4], fb[4];
          load_a(fa, Qf, row0, k * 16);
          load_b(fb, S, quarter * 16, k * 16);
          mma_bf16(y[0], fa, fb[0], fb[1]);
          mma_bf16(y[1], fa, fb[2], fb[3]);
          load_a(fa, Kf, row0, k * 16);
          load_b(fb, dS, quarter * 16, k * 16);
          mma_bf16(dv[0], fa, fb[0], fb[1]);
          mma_bf16(dv[1], fa, fb[2], fb[3]);
        }
        const float gl = d.grow[row0 + qd], gh = d.grow[row0 + qd + 8], wl = d.w[row0 + qd], wh = d.w[row0 + qd + 8];
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          y[n][0] *= gl, y[n][1] *= gl, y[n][2] *= gh, y[n][3] *= gh;
          dv[n][0] *= wl, dv[n][1] *= wl, dv[n][2] *= wh, dv[n][3] *= wh;
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          uint32_t fa[4], fb[4];
          if (k <= block) {
            load_a(fa, Mf, row0, k * 16);
            load_b_trans(fb, Vf, k * 16, quarter * 16);
            mma_bf16(y[0], fa, fb[0], fb[1]);
            mma_bf16(y[1], fa, fb[2], fb[3]);
          }
          if (k >= block) {
            load_a_trans(fa, Mf, row0, k * 16);
            load_b_trans(fb, DYf, k * 16, quarter * 16);
            mma_bf16(dv[0], fa, fb[0], fb[1]);
            mma_bf16(dv[1], fa, fb[2], fb[3]);
          }
        }
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const int p = quarter * 16 + n * 8 + r * 2;
          float dx[4], dz[4], sums[3][2] = {};  // sums over rows of one rank: x, z, o; columns p, p + 1
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int row = row0 + qd + (e >> 1) * 8, step = (row >> kShift<R>), rank = (row & (R - 1)), pc = p + (e & 1), at_p = step * Sm::kStride + pc;
            const float x = __bfloat162float(sm.x[at_p]), o = __bfloat162float(sm.d_o[at_p]), mx = weight(mimo_x, rank, pc), mo = weight(mimo_o, rank, pc);
            const float dy = __bfloat162float(*DY.at(row, pc)), yv = y[n][e] + D * x * mx, g = dv[n][e] + D * dy;
            dx[e] = g * mx, sums[0][e & 1] += g * x;
            float gate = 1;
            dz[e] = 0;
            if (a.z) {
              const float z = __bfloat162float(sm.z[at_p]), mz = weight(mimo_z, rank, pc), u = z * mz, sg = sigmoid(u), du = o * mo * yv * sg * (1 + u * (1 - sg));
              gate = u * sg, dz[e] = du * mz, sums[1][e & 1] += du * z;
            }
            sums[2][e & 1] += o * yv * gate;
          }
#pragma unroll
          for (int o = 4; o < 4 * R; o <<= 1)  // over the ranks of a step
#pragma unroll
            for (int e = 0; e < 4; ++e) dx[e] += __shfl_xor_sync(0xffffffffu, dx[e], o), dz[e] += __shfl_xor_sync(0xffffffffu, dz[e], o);
#pragma unroll
          for (int o = 4 * R; o < 32; o <<= 1)  // over the steps
#pragma unroll
            for (int m = 0; m < 3; ++m)
#pragma unroll
              for (int b = 0; b < 2; ++b) sums[m][b] += __shfl_xor_sync(0xffffffffu, sums[m][b], o);
          if ((qd & (R - 1)) == 0) {
#pragma unroll
            for (int e = 0; e < 4; e += 2) {
              const int step = ((row0 + qd + e * 4) >> kShift<R>);
              if (step >= at.count) continue;
              const int64_t out = ((at.first + step) * H + head) * kP + p;
              *reinterpret_cast<uint32_t*>(static_cast<bf16*>(args.dx) + out) = pack_bf16(dx[e], dx[e + 1]);
              if (args.dz) *reinterpret_cast<uint32_t*>(static_cast<bf16*>(args.dz) + out) = pack_bf16(dz[e], dz[e + 1]);
            }
          }
          if (qd < R)
#pragma unroll
            for (int m = 0; m < 3; ++m) sm.mimo[m][block][qd][p] = sums[m][0], sm.mimo[m][block][qd][p + 1] = sums[m][1];
        }
      }
      float d_theta[2][4] = {};  // tile, element; at R = 1 a pair is two neighbours, its angle in the even element
      // acc = rows of X . state (16 rows x 32 columns), scaled; then its dot with `tile`; then acc += weights . other.
      auto finish = [&](float (&acc)[4][4], const Tile<kN>& tile, float (&sum)[4][4], float (*bias)[R][kN]) {
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int row = row0 + qd + half * 8, col = low + n * 8 + r * 2, e = half * 2;
            const float2 u = unpack_bf16(*reinterpret_cast<const uint32_t*>(tile.at(row, col)));
            if constexpr (R > 1) {
              const float2 v = unpack_bf16(*reinterpret_cast<const uint32_t*>(tile.at(row, 64 + col)));
#pragma unroll
              for (int b = 0; b < 2; ++b) {
                if (col + b >= a.angles) continue;
                const float2 cs = __half22float2(sm.turn[(row >> kShift<R>) * a.angles + col + b]);
                const float du = acc[n][e + b], dw = acc[n + 2][e + b];
                d_theta[n][e + b] += (b ? u.y : u.x) * dw - (b ? v.y : v.x) * du;
                acc[n][e + b] = du * cs.x + dw * cs.y, acc[n + 2][e + b] = dw * cs.x - du * cs.y;
              }
            } else if (col / 2 < a.angles) {
              const float2 cs = __half22float2(sm.turn[row * a.angles + col / 2]);
              const float du = acc[n][e], dw = acc[n][e + 1];
              d_theta[n][e] += u.x * dw - u.y * du;
              acc[n][e] = du * cs.x + dw * cs.y, acc[n][e + 1] = dw * cs.x - du * cs.y;
            }
          }
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          float both[2];
#pragma unroll
          for (int b = 0; b < 2; ++b) {
            both[b] = acc[n][b] + acc[n][2 + b];
#pragma unroll
            for (int o = 4 * R; o < 32; o <<= 1) both[b] += __shfl_xor_sync(0xffffffffu, both[b], o);
          }
          const int col = (n >> 1) * 64 + low + (n & 1) * 8 + r * 2;
          if (qd < R) bias[block][qd][col] = both[0], bias[block][qd][col + 1] = both[1];
#pragma unroll
          for (int e = 0; e < 4; ++e) sum[n][e] += acc[n][e];
        }
      };
      auto outer = [&](float (&acc)[4][4], const FreshTile<kP>& rows, const FreshTile<kN>& state) {
#pragma unroll
        for (int k = 0; k < kP / 16; ++k) {
          uint32_t fa[4], fb[4];
          load_a(fa, rows, row0, k * 16);
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            load_b_trans(fb, state, k * 16, n * 64 + low);
            mma_bf16(acc[2 * n], fa, fb[0], fb[1]);
            mma_bf16(acc[2 * n + 1], fa, fb[2], fb[3]);
          }
        }
      };
      auto scale_rows = [&](float (&acc)[4][4], float lo, float hi) {
#pragma unroll
        for (int n = 0; n < 4; ++n) acc[n][0] *= lo, acc[n][1] *= lo, acc[n][2] *= hi, acc[n][3] *= hi;
      };
      auto row_dots = [&](const float (&acc)[4][4], const Tile<kN>& tile, float (*out)[kRows]) {
        float lo = 0, hi = 0;
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          const int col = (n >> 1) * 64 + low + (n & 1) * 8 + r * 2;
          const float2 tl = unpack_bf16(*reinterpret_cast<const uint32_t*>(tile.at(row0 + qd, col))), th = unpack_bf16(*reinterpret_cast<const uint32_t*>(tile.at(row0 + qd + 8, col)));
          lo += acc[n][0] * tl.x + acc[n][1] * tl.y, hi += acc[n][2] * th.x + acc[n][3] * th.y;
        }
        lo = warp_sum<4>(lo), hi = warp_sum<4>(hi);
        if (r == 0) out[quarter][row0 + qd] = lo, out[quarter][row0 + qd + 8] = hi;
      };
      {  // dq
        float acc[4][4] = {};
        outer(acc, DYf, S);
        scale_rows(acc, d.grow[row0 + qd], d.grow[row0 + qd + 8]);
        row_dots(acc, Q, sm.dot_q);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          if (k > block) continue;
          uint32_t fa[4], fb[4];
          load_a(fa, Wf, row0, k * 16);
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            load_b_trans(fb, Kf, k * 16, n * 64 + low);
            mma_bf16(acc[2 * n], fa, fb[0], fb[1]);
            mma_bf16(acc[2 * n + 1], fa, fb[2], fb[3]);
          }
        }
        finish(acc, Q, dC, sm.bias[1]);
      }
      {  // dk
        float acc[4][4] = {};
        outer(acc, Vf, dS);
        const float end = d.cs[kRows - 1];
        scale_rows(acc, exp2_fast(end - d.cs[row0 + qd]), exp2_fast(end - d.cs[row0 + qd + 8]));
        row_dots(acc, K, sm.dot_k);
        scale_rows(acc, d.scale[row0 + qd], d.scale[row0 + qd + 8]);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          if (k < block) continue;
          uint32_t fa[4], fb[4];
          load_a_trans(fa, Wf, row0, k * 16);
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            load_b_trans(fb, Qf, k * 16, n * 64 + low);
            mma_bf16(acc[2 * n], fa, fb[0], fb[1]);
            mma_bf16(acc[2 * n + 1], fa, fb[2], fb[3]);
          }
        }
        finish(acc, K, dB, sm.bias[0]);
      }
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (R == 1 && (e & 1)) continue;
          float v = d_theta[n][e];
#pragma unroll
          for (int o = 4; o < 4 * R; o <<= 1) v += __shfl_xor_sync(0xffffffffu, v, o);  // over ranks
          const int step = ((row0 + qd + (e >> 1) * 8) >> kShift<R>), col = low + n * 8 + r * 2 + (e & 1), angle = R == 1 ? col / 2 : col;
          if ((qd & (R - 1)) == 0 && angle < a.angles && step < at.count) w.d_theta[((at.first + step) * H + head) * a.angles + angle] = v;
          d_theta[n][e] = v;
        }
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int b = 0; b < 2; ++b) {  // the chunk's sum; rows past its end hold zeros
          if (R == 1 && b) continue;
          float v = d_theta[n][b] + d_theta[n][2 + b];
#pragma unroll
          for (int o = 4 * R; o < 32; o <<= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
          const int col = low + n * 8 + r * 2 + b, angle = R == 1 ? col / 2 : col;
          if (qd == 0 && angle < a.angles) sm.theta_sum[block][angle] = v;
        }
      __syncthreads();

      for (int i = t; i < 2 * R * kN; i += kThreads) {
        const int which = i / (R * kN), in = i % (R * kN);
        const float* b = &sm.bias[which][0][0][0] + in;
        add_alone(bias_part + (which * H + head) * R * kN + in, (b[0] + b[R * kN]) + (b[2 * R * kN] + b[3 * R * kN]));
      }
      for (int i = t; i < 3 * R * kP; i += kThreads) {
        const int which = i / (R * kP), in = i % (R * kP);
        const float* m = &sm.mimo[which][0][0][0] + in;
        add_alone(mimo_part + (which * H + head) * R * kP + in, (m[0] + m[R * kP]) + (m[2 * R * kP] + m[3 * R * kP]));
      }
      if (t < a.angles)
        w.d_theta_sums[(slot * H + head) * a.angles + t] = (sm.theta_sum[0][t] + sm.theta_sum[1][t]) + (sm.theta_sum[2][t] + sm.theta_sum[3][t]);
      if (warp == 15) {
        float trace = warp_sum(sm.trace[lane] + sm.trace[lane + 32]);
        if (lane == 0) add_alone(w.D_parts + part * H + head, trace);
      }
      if (warp == 14) {
        constexpr int kPer = kSteps > 32 ? 2 : 1;
        float dcs[kPer], inter = 0, sum = 0;
#pragma unroll
        for (int e = 0; e < kPer; ++e) {
          const int step = lane * kPer + e;
          dcs[e] = 0;
          if (step >= kSteps) continue;
          float d_scale = 0, d_gamma = 0;
#pragma unroll
          for (int rank = 0; rank < R; ++rank) {
            const int row = step * R + rank;
            const float u = (sm.dot_k[0][row] + sm.dot_k[1][row]) + (sm.dot_k[2][row] + sm.dot_k[3][row]);
            d_scale += (sm.col_t[0][row] + sm.col_t[1][row]) + (sm.col_t[2][row] + sm.col_t[3][row]) + u;
            d_gamma += sm.gamma[row];
            inter += d.scale[row] * u;
            dcs[e] += (sm.row_w[0][row] + sm.row_w[1][row]) + (sm.row_w[2][row] + sm.row_w[3][row]) + (sm.dot_q[0][row] + sm.dot_q[1][row]) + (sm.dot_q[2][row] + sm.dot_q[3][row]);
          }
          dcs[e] -= d.scale[step * R] * d_scale;
          sum += dcs[e];
          if (step < at.count) {
            const int64_t i = (at.first + step) * H + head;
            w.d_scale[i] = d_scale, w.d_gamma[i] = d_gamma + d_scale;
          }
        }
        const float end = d.grow[kRows - 1] * warp_sum(lane < 16 ? sm.part_end[lane & 15] : 0.f) + warp_sum(inter);
        const float upto = warp_scan(sum);
        float later = __shfl_sync(0xffffffffu, upto, 31) - upto + end;
#pragma unroll
        for (int e = kPer - 1; e >= 0; --e) {
          const int step = lane * kPer + e;
          later += dcs[e];
          if (step < at.count) args.d_a[(at.first + step) * H + head] = later;
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row0 + qd + half * 8, step = (row >> kShift<R>);
      if (step >= at.count) continue;
      const int64_t out = (((at.first + step) * R + (row & (R - 1))) * a.groups + group) * kN + low + r * 2;
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const int64_t i = out + (n >> 1) * 64 + (n & 1) * 8;
        *reinterpret_cast<uint32_t*>(static_cast<bf16*>(args.dB) + i) = pack_bf16(dB[n][half * 2], dB[n][half * 2 + 1]);
        *reinterpret_cast<uint32_t*>(static_cast<bf16*>(args.dC) + i) = pack_bf16(dC[n][half * 2], dC[n][half * 2 + 1]);
      }
    }
  }
}

template <int R>
void launch(const Mamba3Bwd& a, const BwdWorkspace& w, cudaStream_t stream) {
  launch_grid(chunk_kernel<R>, dim3(static_cast<unsigned>(parts(a.in) * a.in.groups)), dim3(kThreads), sizeof(Smem<R>), stream, a, w, chunk_slots(a.in));
}

}  // namespace

void bwd_chunks(const Mamba3Bwd& a, const BwdWorkspace& w, cudaStream_t stream) {
  if (a.in.rank == 4) return launch<4>(a, w, stream);
  if (a.in.rank == 2) return launch<2>(a, w, stream);
  launch<1>(a, w, stream);
}

}  // namespace weft::kernels::mamba3
