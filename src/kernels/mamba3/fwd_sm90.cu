// Mamba-3 forward. One block walks the chunks (64 rows of steps x ranks) of one document for kHeads heads of one group, four warps a head;
// q and k are made in shared memory from the group's B and C (bias, rotation), so they never reach device memory. With S the chunk form's
// state, k~ = scale k (nam56r.md 2.5):
//   M_ij = e^{cs_i - cs_j} scale_j (q_i . k_j) for an earlier step j, gamma_i (q_i . k_j) within a step, 0 later
//   y^T = S q^T diag(e^{cs}) + V^T M^T + D V^T      S = e^{cs_end} S + (V diag(w))^T k      o_t = sum_r mimo_o y silu(z mimo_z)
// Floor at b8 s4096 H128 P64 N128 G8 R4: 8.3e11 FLOP with the triangle of the 64 x 64 products (1.04 ms at 800 TFLOP/s, 1.8 at what
// mma.sync reaches); x, z, o, B, C 2.1 GB (0.5 ms at 4.3 TB/s).
#include "kernels/mamba3/tiles.cuh"

namespace weft::kernels {
namespace mamba3 {

const char* refusal(const Mamba3Inputs& a, const Device& device) {
  if (device.kind != Device::kCuda || device.sm / 10 != 9) return "needs a GPU of compute capability 9.x";
  if (a.dtype != DType::kBf16) return "dtype is not bf16";
  if (a.head_dim != kP || a.state_dim != kN) return "built for head_dim 64, state_dim 128";
  if (a.rank != 1 && a.rank != 2 && a.rank != 4) return "built for ranks 1, 2 and 4";
  if (a.groups < 1 || a.heads % a.groups != 0) return "heads is not a multiple of groups";
  if (a.angles < 4 || a.angles % 4 != 0 || a.angles > (a.rank == 1 ? 32 : 64)) return "angles is not a multiple of 4 in [4, 64] (at most 32 at rank 1)";
  if (a.x_stride % 8 != 0 || a.z_stride % 8 != 0 || a.B_stride % 8 != 0 || a.C_stride % 8 != 0) return "a token stride is not a multiple of 8 elements";
  if (a.rank > 1 && (a.mimo_x == nullptr || a.mimo_o == nullptr || (a.z != nullptr && a.mimo_z == nullptr))) return "rank above 1 without mimo weights";
  auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (!aligned(a.x) || !aligned(a.z) || !aligned(a.B) || !aligned(a.C) || !aligned(a.omega) || !aligned(a.B_bias) || !aligned(a.C_bias)) return "an input is not 16-byte aligned";
  return nullptr;
}

namespace {

template <int R, int kHeads>
struct FwdSmem {
  static constexpr int kSteps = kRows / R, kXStride = kP + 8;
  bf16 B[kRows * kN], C[kRows * kN];
  bf16 q[kHeads][kRows * kN], k[kHeads][kRows * kN];
  bf16 M[kHeads][kRows * kRows];  // before M is made: cos and sin of the chunk's angles
  bf16 x[2][kHeads][kSteps * kXStride], z[2][kHeads][kSteps * kXStride];
  float mimo[3][kHeads][R * kP];  // x, z, o
  Decay decay[kHeads];
  float dt[2][(kSteps + 1) * kHeads], a[2][(kSteps + 1) * kHeads], lambda[2][(kSteps + 1) * kHeads];
  alignas(16) float omega[kSteps * (R == 1 ? 32 : 64)];
};

template <int R, int kHeads>
__global__ void __launch_bounds__(128 * kHeads, 1) fwd_kernel(const Mamba3Fwd args) {
  using Smem = FwdSmem<R, kHeads>;
  constexpr int kThreads = 128 * kHeads, kSteps = Smem::kSteps;
  const Mamba3Inputs& a = args.in;
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<Smem*>(raw);
  const int blocks_per_document = a.heads / kHeads, document = static_cast<int>(blockIdx.x / blocks_per_document);
  const int head0 = static_cast<int>(blockIdx.x % blocks_per_document) * kHeads;
  const int64_t start = a.cu_seqlens[document], length = a.cu_seqlens[document + 1] - start, H = a.heads;
  const int chunks = static_cast<int>((length + kSteps - 1) / kSteps), group = head0 / (a.heads / a.groups);
  const int lane = lane_id(), warp = warp_id() & 3, mine = warp_id() >> 2, head = head0 + mine, t = static_cast<int>(threadIdx.x) & 127;
  const int q = lane >> 2, r = lane & 3, p0 = warp * 16;
  const int64_t row_of_state = document * H + head;
  const float D = a.D ? a.D[head] : 0.f;
  for (int i = t; i < R * kP; i += 128) {
    const int64_t at = static_cast<int64_t>(head) * R * kP + i;
    sm.mimo[0][mine][i] = a.mimo_x ? a.mimo_x[at] : 1.f;
    sm.mimo[1][mine][i] = a.mimo_z ? a.mimo_z[at] : 1.f;
    sm.mimo[2][mine][i] = a.mimo_o ? a.mimo_o[at] : 1.f;
  }
  __syncthreads();
  const float *mimo_x = sm.mimo[0][mine], *mimo_z = sm.mimo[1][mine], *mimo_o = sm.mimo[2][mine];
  auto weight = [](const float* w, int rank, int p) { return w[rank * kP + p]; };

  auto load = [&](int c) {
    const int64_t first = start + static_cast<int64_t>(c) * kSteps, left = length - static_cast<int64_t>(c) * kSteps;
    const int valid = static_cast<int>(left < kSteps ? left : kSteps), s = c & 1;
    const Tile<kN> B{sm.B}, C{sm.C};
    for (int u = threadIdx.x; u < kRows * 16; u += kThreads) {
      const int row = u >> 4, col = (u & 15) * 8, step = (row >> kShift<R>);
      const bool ok = step < valid;
      const int64_t inner = (static_cast<int64_t>((row & (R - 1))) * a.groups + group) * kN + col, token = ok ? first + step : start;
      cp_async16(B.unit(row, col), static_cast<const bf16*>(a.B) + token * a.B_stride + inner, ok);
      cp_async16(C.unit(row, col), static_cast<const bf16*>(a.C) + token * a.C_stride + inner, ok);
    }
    for (int u = threadIdx.x; u < kSteps * kHeads * 8; u += kThreads) {
      const int step = u / (kHeads * 8), h = u / 8 % kHeads, col = u % 8 * 8;
      const bool ok = step < valid;
      cp_async16(sm.x[s][h] + step * Smem::kXStride + col, static_cast<const bf16*>(a.x) + (ok ? first + step : start) * a.x_stride + (head0 + h) * kP + col, ok);
      if (a.z) cp_async16(sm.z[s][h] + step * Smem::kXStride + col, static_cast<const bf16*>(a.z) + (ok ? first + step : start) * a.z_stride + (head0 + h) * kP + col, ok);
    }
    for (int u = threadIdx.x; u < (kSteps + 1) * kHeads; u += kThreads) {
      const int step = u / kHeads, h = u % kHeads;
      const bool ok = step < left;
      const int64_t at = (ok ? first + step : start) * H + head0 + h;
      cp_async4(sm.dt[s] + u, a.dt + at, ok), cp_async4(sm.a[s] + u, a.a + at, ok), cp_async4(sm.lambda[s] + u, a.lambda + at, ok);
    }
    for (int u = threadIdx.x; u < kSteps * a.angles / 4; u += kThreads) {
      const bool ok = u * 4 < valid * a.angles;
      cp_async16(sm.omega + u * 4, a.omega + (ok ? first * a.angles + u * 4 : 0), ok);
    }
    cp_async_commit();
  };

  if (chunks > 0) load(0);
  float S[16][4];
  read_state(S, args.initial.h ? args.initial.h + row_of_state * (kP * kN) : nullptr, p0);
  float theta[2] = {0, 0};  // of angles lane and lane + 32, before the chunk; every warp of the head keeps a copy
#pragma unroll
  for (int e = 0; e < 2; ++e)
    if (args.initial.theta && lane + 32 * e < a.angles) theta[e] = args.initial.theta[row_of_state * a.angles + lane + 32 * e];
  if (args.initial.k && chunks > 0) {  // the half of the last step's outer product that the first step adds
    const float c = (1 - a.lambda[start * H + head]) * a.dt[start * H + head];
    for (int rank = 0; rank < R; ++rank) {
      const float* k = args.initial.k + (row_of_state * R + rank) * kN;
      const float* x = args.initial.x + row_of_state * kP;
      each_pair(p0, [&](int n, int e, int p, int col) {
        const float v = c * x[p] * weight(mimo_x, rank, p);
        S[n][e] += v * k[col], S[n][e + 1] += v * k[col + 1];
      });
    }
  }

  const Tile<kN> Q{sm.q[mine]}, K{sm.k[mine]};
  const Tile<kRows> M{sm.M[mine]};
  __half2* turn = reinterpret_cast<__half2*>(sm.M[mine]);
  Decay& d = sm.decay[mine];
  for (int c = 0; c < chunks; ++c) {
    const int s = c & 1;
    const int64_t first = start + static_cast<int64_t>(c) * kSteps, left = length - static_cast<int64_t>(c) * kSteps;
    bf16 *x = sm.x[s][mine], *z = sm.z[s][mine];
    const auto Qf = fresh(Q), Kf = fresh(K);
    const auto Mf = fresh(M);
    if (args.states && c * kSteps % kMamba3Span == 0) {
      const int64_t slot = start / kMamba3Span + document + c * kSteps / kMamba3Span;
      write_state(S, static_cast<bf16*>(args.states) + (slot * H + head) * (kP * kN), p0);
      if (warp == 0)
        for (int e = 0; e < 2; ++e)
          if (lane + 32 * e < a.angles) args.thetas[(slot * H + head) * a.angles + lane + 32 * e] = theta[e];
    }
    cp_async_wait<0>();
    __syncthreads();
    if (warp == 0) chunk_decay<R>(d, sm.a[s] + mine, sm.dt[s] + mine, sm.lambda[s] + mine, kHeads);
    for (int e = 0; e < 2; ++e) {
      const int angle = lane + 32 * e;
      if (angle >= a.angles) break;
      float sum = theta[e];
#pragma unroll 4
      for (int step = 0; step < kSteps; ++step) {
        sum += sm.omega[step * a.angles + angle] * sm.dt[s][step * kHeads + mine];
        if (step / (kSteps / 4) == warp) turn[step * a.angles + angle] = cos_sin(sum);
      }
      theta[e] = wrap_angle(sum);
    }
    uint32_t xt[4][4];  // V^T, rows P, k = row of the chunk
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int p = p0 + q + (e & 1) * 8, row = k * 16 + r * 2 + (e >> 1) * 8;
        const float v0 = __bfloat162float(x[(row >> kShift<R>) * Smem::kXStride + p]), v1 = __bfloat162float(x[((row + 1) >> kShift<R>) * Smem::kXStride + p]);
        xt[k][e] = pack_bf16(v0 * weight(mimo_x, (row & (R - 1)), p), v1 * weight(mimo_x, ((row + 1) & (R - 1)), p));
      }
    group_barrier(1 + mine, 128);
    turn_rows<R, 128>(K, Tile<kN>{sm.B}, a.B_bias + static_cast<int64_t>(head) * R * kN, turn, a.angles, t);
    turn_rows<R, 128>(Q, Tile<kN>{sm.C}, a.C_bias + static_cast<int64_t>(head) * R * kN, turn, a.angles, t);
    __syncthreads();
    if (c + 1 < chunks) load(c + 1);

    const int row0 = warp * 16;
    for (int block = 0; block <= warp; ++block) {
      float qk[2][4] = {};
#pragma unroll
      for (int k = 0; k < kN / 16; ++k) {
        uint32_t fa[4], fb[4];
        load_a(fa, Qf, row0, k * 16);
        load_b(fb, Kf, block * 16, k * 16);
        mma_bf16(qk[0], fa, fb[0], fb[1]);
        mma_bf16(qk[1], fa, fb[2], fb[3]);
      }
      const int i = row0 + q;
      const float to0 = d.cs[i], to1 = d.cs[i + 8];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int j = block * 16 + n * 8 + r * 2;
        const float2 from = *reinterpret_cast<const float2*>(&d.from[j]);
        float f[4] = {exp2_fast(to0 - from.x), exp2_fast(to0 - from.y), exp2_fast(to1 - from.x), exp2_fast(to1 - from.y)};
        if (block == warp) {  // on the diagonal: gamma within a step, 0 later
          const float g0 = d.gamma[i], g1 = d.gamma[i + 8];
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int ii = ((i + (e >> 1) * 8) >> kShift<R>), jj = ((j + (e & 1)) >> kShift<R>);
            f[e] = jj < ii ? f[e] : jj == ii ? (e >> 1 ? g1 : g0) : 0.f;
            qk[n][e] = f[e] == 0 ? 0.f : qk[n][e] * f[e];
          }
        } else {
#pragma unroll
          for (int e = 0; e < 4; ++e) qk[n][e] *= f[e];
        }
        *reinterpret_cast<uint32_t*>(M.at(i, j)) = pack_bf16(qk[n][0], qk[n][1]);
        *reinterpret_cast<uint32_t*>(M.at(i + 8, j)) = pack_bf16(qk[n][2], qk[n][3]);
      }
    }
    group_barrier(1 + mine, 128);

#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float y[4][4] = {};
#pragma unroll
      for (int k = 0; k < kN / 16; ++k) {
        const uint32_t fs[4] = {pack_bf16(S[2 * k][0], S[2 * k][1]), pack_bf16(S[2 * k][2], S[2 * k][3]),
                                pack_bf16(S[2 * k + 1][0], S[2 * k + 1][1]), pack_bf16(S[2 * k + 1][2], S[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          uint32_t b[4];
          load_b(b, Qf, half * 32 + n * 16, k * 16);
          mma_bf16(y[2 * n], fs, b[0], b[1]);
          mma_bf16(y[2 * n + 1], fs, b[2], b[3]);
        }
      }
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const int i = half * 32 + n * 8 + r * 2;
        const float g0 = d.grow[i], g1 = d.grow[i + 1];
        y[n][0] *= g0, y[n][1] *= g1, y[n][2] *= g0, y[n][3] *= g1;
      }
#pragma unroll
      for (int k = 0; k < 4; ++k)
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          if (k > half * 2 + n) continue;
          uint32_t b[4];
          load_b(b, Mf, half * 32 + n * 16, k * 16);
          mma_bf16(y[2 * n], xt[k], b[0], b[1]);
          mma_bf16(y[2 * n + 1], xt[k], b[2], b[3]);
        }
      // Skip, gate, sum over ranks; o takes the place of x, whose columns p0.. only this warp uses.
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int high = 0; high < 2; ++high) {
          const int p = p0 + q + high * 8, row = half * 32 + n * 8 + r * 2;
          float o[2];
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int step = ((row + e) >> kShift<R>), rank = ((row + e) & (R - 1));
            const float xv = __bfloat162float(x[step * Smem::kXStride + p]);
            float v = y[n][high * 2 + e] + D * xv * weight(mimo_x, rank, p);
            if (a.z) {
              const float u = __bfloat162float(z[step * Smem::kXStride + p]) * weight(mimo_z, rank, p);
              v *= u * sigmoid(u);
            }
            o[e] = v * weight(mimo_o, rank, p);
          }
          if constexpr (R == 4) o[0] += o[1], o[0] += __shfl_xor_sync(0xffffffffu, o[0], 1);
          if constexpr (R == 2) o[0] += o[1];
          __syncwarp();
          x[(row >> kShift<R>) * Smem::kXStride + p] = __float2bfloat16(o[0]);
          if constexpr (R == 1) x[(row + 1) * Smem::kXStride + p] = __float2bfloat16(o[1]);
        }
    }
    add_outer(S, xt, d.w, Kf, d.grow[kRows - 1]);
    if (c + 1 == chunks && args.last.h) {
      const int step = static_cast<int>(left) - 1;
      for (int i = t; i < R * kN; i += 128) args.last.k[row_of_state * R * kN + i] = __bfloat162float(*K.at(step * R + i / kN, i % kN));
    }
    __syncwarp();
    bf16* o = static_cast<bf16*>(args.o) + (first * H + head) * kP + p0;
#pragma unroll
    for (int i = 0; i < (kSteps + 15) / 16; ++i) {
      const int step = i * 16 + (lane >> 1), u = (lane & 1) * 8;
      if (step < kSteps && step < left) *reinterpret_cast<uint4*>(o + step * H * kP + u) = *reinterpret_cast<const uint4*>(x + step * Smem::kXStride + p0 + u);
    }
  }
  if (args.last.h) {
    write_state(S, args.last.h + row_of_state * (kP * kN), p0);
    if (warp == 0) {
      for (int e = 0; e < 2; ++e)
        if (lane + 32 * e < a.angles) args.last.theta[row_of_state * a.angles + lane + 32 * e] = theta[e];
      for (int p = lane; p < kP; p += 32)
        args.last.x[row_of_state * kP + p] = length > 0 ? __bfloat162float(static_cast<const bf16*>(a.x)[(start + length - 1) * a.x_stride + head * kP + p])
                                             : args.initial.x ? args.initial.x[row_of_state * kP + p] : 0.f;
    }
    if (length == 0)
      for (int i = t; i < R * kN; i += 128) args.last.k[row_of_state * R * kN + i] = args.initial.k ? args.initial.k[row_of_state * R * kN + i] : 0.f;
  }
}

template <int R, int kHeads>
void launch(const Mamba3Fwd& a, const Launch& l) {
  launch_grid(fwd_kernel<R, kHeads>, dim3(static_cast<unsigned>(a.in.heads / kHeads * a.in.documents)), dim3(128 * kHeads), sizeof(FwdSmem<R, kHeads>), l.stream, a);
}

}  // namespace
}  // namespace mamba3

Support supports_mamba3_fwd_sm90(const Mamba3Fwd& a, const Device& device) { return {mamba3::refusal(a.in, device)}; }

void mamba3_fwd_sm90(const Mamba3Fwd& a, const Launch& l) {
  const int per_group = a.in.heads / a.in.groups;
  if (a.in.rank == 4) return per_group % 2 == 0 ? mamba3::launch<4, 2>(a, l) : mamba3::launch<4, 1>(a, l);
  if (a.in.rank == 2) return per_group % 2 == 0 ? mamba3::launch<2, 2>(a, l) : mamba3::launch<2, 1>(a, l);
  per_group % 2 == 0 ? mamba3::launch<1, 2>(a, l) : mamba3::launch<1, 1>(a, l);
}

}  // namespace weft::kernels
