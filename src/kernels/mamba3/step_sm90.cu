// Mamba-3 decode: one token a row, one block a (row, head). Bound by the state's bytes: [P, N] fp32 read and written once. Deterministic.
#include "kernels/mamba3/tiles.cuh"

namespace weft::kernels {
namespace mamba3 {
namespace {

constexpr int kStepThreads = 256;

template <int R>
__global__ void __launch_bounds__(kStepThreads) step_kernel(const Mamba3Step s) {
  __shared__ __align__(16) float k[R][kN], q[R][kN], before[R][kN];
  __shared__ float angle_cos[64], angle_sin[64];
  const Mamba3Inputs& a = s.in;
  const int head = static_cast<int>(blockIdx.x % a.heads), group = head / (a.heads / a.groups), t = threadIdx.x, lane = lane_id();
  const int64_t row = blockIdx.x / a.heads, slot = s.slots ? s.slots[row] : row;
  if (slot < 0) return;
  const int64_t at = slot * a.heads + head, th = row * a.heads + head;
  const float dt = a.dt[th], lambda = a.lambda[th], alpha = __expf(a.a[th]), beta = (1 - lambda) * dt * alpha, gamma = lambda * dt, D = a.D ? a.D[head] : 0.f;
  if (t < a.angles) {
    float* theta = s.state.theta + at * a.angles + t;
    const float v = wrap_angle(*theta + a.omega[row * a.angles + t] * dt);
    *theta = v;
    __sincosf(v - kTwoPi / 2, &angle_sin[t], &angle_cos[t]);
  }
  __syncthreads();
  float* kept = s.state.k + at * R * kN;
  for (int i = t; i < R * kN / 2; i += kStepThreads) {  // pairs: turned together where they have an angle
    const int rank = i / (kN / 2), pair = i % (kN / 2), lo = R > 1 ? pair : 2 * pair, hi = R > 1 ? pair + kN / 2 : 2 * pair + 1;
    const int64_t inner = (static_cast<int64_t>(rank) * a.groups + group) * kN, bias = (static_cast<int64_t>(head) * R + rank) * kN;
    const bf16 *B = static_cast<const bf16*>(a.B) + row * a.B_stride + inner, *C = static_cast<const bf16*>(a.C) + row * a.C_stride + inner;
    float k0 = __bfloat162float(B[lo]) + a.B_bias[bias + lo], k1 = __bfloat162float(B[hi]) + a.B_bias[bias + hi];
    float q0 = __bfloat162float(C[lo]) + a.C_bias[bias + lo], q1 = __bfloat162float(C[hi]) + a.C_bias[bias + hi];
    if (pair < a.angles) {
      const float c = -angle_cos[pair], n = -angle_sin[pair], k2 = k0 * n + k1 * c, q2 = q0 * n + q1 * c;
      k0 = k0 * c - k1 * n, q0 = q0 * c - q1 * n, k1 = k2, q1 = q2;
    }
    before[rank][lo] = kept[rank * kN + lo], before[rank][hi] = kept[rank * kN + hi];
    k[rank][lo] = k0, k[rank][hi] = k1, q[rank][lo] = q0, q[rank][hi] = q1;
    kept[rank * kN + lo] = k0, kept[rank * kN + hi] = k1;
  }
  __syncthreads();
  const bf16* x = static_cast<const bf16*>(a.x) + row * a.x_stride + head * kP;
  float *last_x = s.state.x + at * kP, *h = s.state.h + at * (kP * kN) + lane * 4;
  for (int i = 0; i < kP / 8; ++i) {
    const int p = i * 8 + warp_id();
    const float xp = __bfloat162float(x[p]), old = last_x[p], z = a.z ? __bfloat162float(static_cast<const bf16*>(a.z)[row * a.z_stride + head * kP + p]) : 0.f;
    float4 v = *reinterpret_cast<const float4*>(h + p * kN);
    v = {v.x * alpha, v.y * alpha, v.z * alpha, v.w * alpha};
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const float mx = a.mimo_x ? a.mimo_x[(static_cast<int64_t>(head) * R + r) * kP + p] : 1.f, now = gamma * xp * mx, then = beta * old * mx;
      const float4 kn = *reinterpret_cast<const float4*>(&k[r][lane * 4]), kb = *reinterpret_cast<const float4*>(&before[r][lane * 4]);
      v.x += now * kn.x + then * kb.x, v.y += now * kn.y + then * kb.y, v.z += now * kn.z + then * kb.z, v.w += now * kn.w + then * kb.w;
    }
    *reinterpret_cast<float4*>(h + p * kN) = v;
    float o = 0;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int64_t m = (static_cast<int64_t>(head) * R + r) * kP + p;
      const float4 qn = *reinterpret_cast<const float4*>(&q[r][lane * 4]);
      float y = warp_sum(v.x * qn.x + v.y * qn.y + v.z * qn.z + v.w * qn.w) + D * xp * (a.mimo_x ? a.mimo_x[m] : 1.f);
      if (a.z) {
        const float u = z * (a.mimo_z ? a.mimo_z[m] : 1.f);
        y *= u * sigmoid(u);
      }
      o += y * (a.mimo_o ? a.mimo_o[m] : 1.f);
    }
    if (lane == 0) static_cast<bf16*>(s.o)[th * kP + p] = __float2bfloat16(o), last_x[p] = xp;
  }
}

}  // namespace
}  // namespace mamba3

Support supports_mamba3_step_sm90(const Mamba3Step& a, const Device& device) {
  if (!a.state.h || !a.state.theta || !a.state.k || !a.state.x) return {"a part of the state is missing"};
  return {mamba3::refusal(a.in, device)};
}

void mamba3_step_sm90(const Mamba3Step& a, const Launch& l) {
  const dim3 grid(static_cast<unsigned>(a.in.tokens * a.in.heads)), block(mamba3::kStepThreads);
  if (a.in.rank == 4) launch_grid(mamba3::step_kernel<4>, grid, block, 0, l.stream, a);
  if (a.in.rank == 2) launch_grid(mamba3::step_kernel<2>, grid, block, 0, l.stream, a);
  if (a.in.rank == 1) launch_grid(mamba3::step_kernel<1>, grid, block, 0, l.stream, a);
}

}  // namespace weft::kernels
