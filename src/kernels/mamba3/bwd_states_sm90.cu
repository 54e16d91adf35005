// Mamba-3 backward, the two passes that make states. bwd_states: from the state and angles saved at each span of 64 tokens, those before
// every chunk of 64 / R steps; a block a (span, head). bwd_reverse: the state's gradient after every chunk, walking a document backwards:
//   dS_before = e^{cs_end} dS_after + sum_i e^{cs_i} q_i dY_i^T      dY_{t,r} = do_t * mimo_o_r * silu(z_t * mimo_z_r)
// Floor at b8 s4096 H128 R4: S and dS of 2048 chunks, 4.3 GB each, 1.0 ms each at 4.3 TB/s.
#include "kernels/mamba3/bwd.cuh"

namespace weft::kernels::mamba3 {
namespace {

template <int R>
struct StatesSmem {
  static constexpr int kSteps = kRows / R;
  bf16 k[kRows * kN];
  __half2 turn[kSteps * (R == 1 ? 32 : 64)];
  alignas(16) float omega[kSteps * (R == 1 ? 32 : 64)];
  Decay decay;
  float dt[kSteps + 1], a[kSteps + 1], lambda[kSteps + 1];
};

template <int R>
__global__ void __launch_bounds__(128) states_kernel(const Mamba3Inputs a, const bf16* saved, const float* saved_thetas, bf16* S_out, float* thetas_out) {
  constexpr int kSteps = kRows / R;
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<StatesSmem<R>*>(raw);
  const int head = static_cast<int>(blockIdx.x % a.heads), group = head / (a.heads / a.groups), t = threadIdx.x, lane = lane_id(), warp = warp_id(), p0 = warp * 16;
  const int64_t span = blockIdx.x / a.heads, H = a.heads;
  const ChunkPlace at = place_of_slot(a.cu_seqlens, a.documents, span, kMamba3Span);
  if (at.count == 0) return;
  const int64_t start = a.cu_seqlens[at.document], end = a.cu_seqlens[at.document + 1];
  const int64_t slot0 = first_slot(start, at.document, kSteps) + at.index * R;
  float S[16][4], theta[2] = {0, 0};
  each_pair(p0, [&](int n, int e, int row, int col) {
    const float2 v = unpack_bf16(*reinterpret_cast<const uint32_t*>(saved + (span * H + head) * (kP * kN) + row * kN + col));
    S[n][e] = v.x, S[n][e + 1] = v.y;
  });
  for (int e = 0; e < 2; ++e)
    if (lane + 32 * e < a.angles) theta[e] = saved_thetas[(span * H + head) * a.angles + lane + 32 * e];
  const Tile<kN> K{sm.k};
  for (int c = 0; c < R && c * kSteps < at.count; ++c) {
    const int64_t first = at.first + c * kSteps, row = (slot0 + c) * H + head;
    write_state(S, S_out + row * (kP * kN), p0);
    if (warp == 0)
      for (int e = 0; e < 2; ++e)
        if (lane + 32 * e < a.angles) thetas_out[row * a.angles + lane + 32 * e] = theta[e];
    if (c + 1 == R || (c + 1) * kSteps >= at.count) break;
    const int64_t left = end - first;
    const int valid = static_cast<int>(left < kSteps ? left : kSteps);
    __syncthreads();  // the last chunk's reads are over
    load_rows<R>(K, a.B, a.B_stride, a.groups, group, first, valid, t, 128);
    for (int u = t; u < kSteps * a.angles / 4; u += 128) cp_async16(sm.omega + u * 4, a.omega + (u * 4 < valid * a.angles ? first * a.angles + u * 4 : 0), u * 4 < valid * a.angles);
    for (int u = t; u <= kSteps; u += 128) {
      const bool ok = u < left;
      const int64_t i = (ok ? first + u : first) * H + head;
      cp_async4(sm.dt + u, a.dt + i, ok), cp_async4(sm.a + u, a.a + i, ok), cp_async4(sm.lambda + u, a.lambda + i, ok);
    }
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    if (warp == 0) chunk_decay<R>(sm.decay, sm.a, sm.dt, sm.lambda, 1);
    make_turn<R>(sm.turn, theta, sm.omega, sm.dt, 1, a.angles, warp);
    for (int e = 0; e < 2; ++e)
      if (lane + 32 * e < a.angles) {
        for (int s = 0; s < kSteps; ++s) theta[e] += sm.omega[s * a.angles + lane + 32 * e] * sm.dt[s];
        theta[e] = wrap_angle(theta[e]);
      }
    uint32_t xt[4][4];
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int p = p0 + (lane >> 2) + (e & 1) * 8, r0 = k * 16 + (lane & 3) * 2 + (e >> 1) * 8;
        auto value = [&](int r) {
          if ((r >> kShift<R>) >= valid) return 0.f;
          const float x = __bfloat162float(static_cast<const bf16*>(a.x)[(first + (r >> kShift<R>)) * a.x_stride + head * kP + p]);
          return a.mimo_x ? x * __ldg(a.mimo_x + (static_cast<int64_t>(head) * R + (r & (R - 1))) * kP + p) : x;
        };
        xt[k][e] = pack_bf16(value(r0), value(r0 + 1));
      }
    __syncthreads();
    turn_rows<R, 128>(K, K, a.B_bias + static_cast<int64_t>(head) * R * kN, sm.turn, a.angles, t);
    __syncthreads();
    add_outer(S, xt, sm.decay.w, K, sm.decay.grow[kRows - 1]);
  }
}

template <int R>
struct ReverseSmem {
  static constexpr int kSteps = kRows / R, kStride = kP + 8;
  bf16 q[2][kRows * kN];
  bf16 d_o[2][kSteps * kStride], z[2][kSteps * kStride];
  __half2 turn[kSteps * (R == 1 ? 32 : 64)];
  alignas(16) float omega[2][kSteps * (R == 1 ? 32 : 64)];
  Decay decay;
  float dt[2][kSteps + 1], a[2][kSteps + 1], lambda[2][kSteps + 1], theta[2][64];
};

template <int R>
__global__ void __launch_bounds__(128, R == 4 ? 4 : 2) reverse_kernel(const Mamba3Inputs a, const void* d_o, const float* thetas, bf16* dS_out) {
  using Smem = ReverseSmem<R>;
  constexpr int kSteps = Smem::kSteps;
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<Smem*>(raw);
  const int head = static_cast<int>(blockIdx.x % a.heads), document = static_cast<int>(blockIdx.x / a.heads), group = head / (a.heads / a.groups);
  const int t = threadIdx.x, lane = lane_id(), warp = warp_id(), p0 = warp * 16;
  const int64_t start = a.cu_seqlens[document], length = a.cu_seqlens[document + 1] - start, slot0 = first_slot(start, document, kSteps), H = a.heads;
  const int chunks = static_cast<int>((length + kSteps - 1) / kSteps);
  auto load = [&](int c) {
    const int64_t first = start + static_cast<int64_t>(c) * kSteps, left = length - static_cast<int64_t>(c) * kSteps;
    const int valid = static_cast<int>(left < kSteps ? left : kSteps), s = c & 1;
    load_rows<R>(Tile<kN>{sm.q[s]}, a.C, a.C_stride, a.groups, group, first, valid, t, 128);
    for (int u = t; u < kSteps * 8; u += 128) {
      const int step = u / 8, col = u % 8 * 8;
      const bool ok = step < valid;
      cp_async16(sm.d_o[s] + step * Smem::kStride + col, static_cast<const bf16*>(d_o) + (ok ? ((first + step) * H + head) * kP + col : 0), ok);
      if (a.z) cp_async16(sm.z[s] + step * Smem::kStride + col, static_cast<const bf16*>(a.z) + (ok ? (first + step) * a.z_stride + head * kP + col : 0), ok);
    }
    for (int u = t; u < kSteps * a.angles / 4; u += 128) cp_async16(sm.omega[s] + u * 4, a.omega + (u * 4 < valid * a.angles ? first * a.angles + u * 4 : 0), u * 4 < valid * a.angles);
    for (int u = t; u <= kSteps; u += 128) {
      const bool ok = u < left;
      const int64_t i = (ok ? first + u : first) * H + head;
      cp_async4(sm.dt[s] + u, a.dt + i, ok), cp_async4(sm.a[s] + u, a.a + i, ok), cp_async4(sm.lambda[s] + u, a.lambda + i, ok);
    }
    for (int u = t; u < a.angles; u += 128) cp_async4(sm.theta[s] + u, thetas + ((slot0 + c) * H + head) * a.angles + u, true);
    cp_async_commit();
  };
  if (chunks > 0) load(chunks - 1);
  float dS[16][4] = {};
  for (int c = chunks - 1; c >= 0; --c) {
    const int s = c & 1;
    write_state(dS, dS_out + ((slot0 + c) * H + head) * (kP * kN), p0);
    cp_async_wait<0>();
    __syncthreads();
    if (c > 0) load(c - 1);
    if (warp == 0) chunk_decay<R>(sm.decay, sm.a[s], sm.dt[s], sm.lambda[s], 1);
    const float theta[2] = {lane < a.angles ? sm.theta[s][lane] : 0.f, lane + 32 < a.angles ? sm.theta[s][lane + 32] : 0.f};
    make_turn<R>(sm.turn, theta, sm.omega[s], sm.dt[s], 1, a.angles, warp);
    uint32_t dyt[4][4];
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int p = p0 + (lane >> 2) + (e & 1) * 8, r0 = k * 16 + (lane & 3) * 2 + (e >> 1) * 8;
        auto value = [&](int r) {
          const int64_t m = (static_cast<int64_t>(head) * R + (r & (R - 1))) * kP + p;
          float v = __bfloat162float(sm.d_o[s][(r >> kShift<R>) * Smem::kStride + p]);
          if (a.mimo_o) v *= __ldg(a.mimo_o + m);
          if (a.z) {
            const float z = __bfloat162float(sm.z[s][(r >> kShift<R>) * Smem::kStride + p]) * (a.mimo_z ? __ldg(a.mimo_z + m) : 1.f);
            v *= z * sigmoid(z);
          }
          return v;
        };
        dyt[k][e] = pack_bf16(value(r0), value(r0 + 1));
      }
    __syncthreads();
    const Tile<kN> Q{sm.q[s]};
    turn_rows<R, 128>(Q, Q, a.C_bias + static_cast<int64_t>(head) * R * kN, sm.turn, a.angles, t);
    __syncthreads();
    add_outer(dS, dyt, sm.decay.grow, Q, sm.decay.grow[kRows - 1]);
  }
}

template <int R>
void launch_states(const Mamba3Bwd& a, const BwdWorkspace& w, cudaStream_t stream) {
  const int64_t spans = mamba3_state_slots(a.in.tokens, a.in.documents);
  launch_grid(states_kernel<R>, dim3(static_cast<unsigned>(spans * a.in.heads)), dim3(128), sizeof(StatesSmem<R>), stream, a.in, static_cast<const bf16*>(a.states), a.thetas,
              const_cast<bf16*>(w.S), const_cast<float*>(w.thetas));
}
template <int R>
void launch_reverse(const Mamba3Bwd& a, const BwdWorkspace& w, cudaStream_t stream) {
  launch_grid(reverse_kernel<R>, dim3(static_cast<unsigned>(a.in.documents * a.in.heads)), dim3(128), sizeof(ReverseSmem<R>), stream, a.in, a.d_o, w.thetas, w.dS);
}

}  // namespace

void bwd_states(const Mamba3Bwd& a, const BwdWorkspace& w, cudaStream_t stream) {
  if (a.in.rank == 4) launch_states<4>(a, w, stream);
  if (a.in.rank == 2) launch_states<2>(a, w, stream);
}
void bwd_reverse(const Mamba3Bwd& a, const BwdWorkspace& w, cudaStream_t stream) {
  if (a.in.rank == 4) return launch_reverse<4>(a, w, stream);
  if (a.in.rank == 2) return launch_reverse<2>(a, w, stream);
  launch_reverse<1>(a, w, stream);
}

}  // namespace weft::kernels::mamba3
