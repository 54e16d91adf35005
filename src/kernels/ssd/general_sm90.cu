// SSD forward and decode step for any head dim to 128 and state dim to 256, f32 and bf16: the recurrence, token by token.
// Bound: latency, some 400 cycles a token; blocks are documents x heads.
#include "kernels/ssd/general.cuh"

namespace weft::kernels {
namespace {

using namespace ssd_general;

template <class T, int kR, int kC>
__global__ void __launch_bounds__(kThreads) scan(SsdFwd a) {
  constexpr int kP = kR * kWarps, kN = kC * 32;
  __shared__ float x[kStep * kP], B[kStep * kN], C[kStep * kN], y[kStep * kP], dt[kStep];
  const int P = a.head_dim, N = a.state_dim, H = a.heads, h = static_cast<int>(blockIdx.x) % H, g = h / (H / a.groups);
  const int64_t d = blockIdx.x / H, first = a.cu_seqlens[d], last = a.cu_seqlens[d + 1], state = (d * H + h) * P * N;
  const float A = a.A[h], D = a.D == nullptr ? 0.0f : a.D[h];
  State<kR, kC> S;
  S.load(a.initial_state == nullptr ? nullptr : a.initial_state + state, P, N);
  for (int64_t t0 = first; t0 < last; t0 += kStep) {
    const int rows = last - t0 < kStep ? static_cast<int>(last - t0) : kStep;
    __syncthreads();
    load_steps<T>(x, static_cast<const T*>(a.x) + t0 * a.x_stride + static_cast<int64_t>(h) * P, a.x_stride, rows, P, kP);
    load_steps<T>(B, static_cast<const T*>(a.B) + t0 * a.B_stride + static_cast<int64_t>(g) * N, a.B_stride, rows, N, kN);
    load_steps<T>(C, static_cast<const T*>(a.C) + t0 * a.C_stride + static_cast<int64_t>(g) * N, a.C_stride, rows, N, kN);
    if (threadIdx.x < kStep) dt[threadIdx.x] = static_cast<int>(threadIdx.x) < rows ? a.dt[(t0 + threadIdx.x) * H + h] : 0.0f;
    __syncthreads();
    for (int t = 0; t < rows; ++t) {
      const float decay = expf(A * dt[t]);
#pragma unroll
      for (int i = 0; i < kR; ++i) {
        const int p = warp_id() + kWarps * i;
        const float u = dt[t] * x[t * kP + p];
        float sum = 0;
#pragma unroll
        for (int j = 0; j < kC; ++j) {
          const int n = lane_id() + 32 * j;
          S.v[i][j] = decay * S.v[i][j] + u * B[t * kN + n];
          sum += S.v[i][j] * C[t * kN + n];
        }
        sum = warp_sum(sum);
        if (lane_id() == 0) y[t * kP + p] = sum + D * x[t * kP + p];
      }
    }
    __syncthreads();
    for (int t = warp_id(); t < rows; t += kWarps)
      for (int p = lane_id(); p < P; p += 32) static_cast<T*>(a.y)[((t0 + t) * H + h) * P + p] = dev::from_f32<T>(y[t * kP + p]);
  }
  if (a.final_state != nullptr) S.store(a.final_state + state, P, N);
}

template <class T>
__global__ void __launch_bounds__(kThreads) step(SsdStep a) {  // a block a (row, head), a warp a line of P
  const int P = a.head_dim, N = a.state_dim, H = a.heads, h = static_cast<int>(blockIdx.x) % H, g = h / (H / a.groups);
  const int64_t row = blockIdx.x / H, slot = a.slots == nullptr ? row : a.slots[row];
  if (slot < 0) return;
  const float dt = a.dt[row * H + h], decay = expf(a.A[h] * dt), D = a.D == nullptr ? 0.0f : a.D[h];
  for (int p = warp_id(); p < P; p += kWarps) {
    const float x = dev::to_f32(static_cast<const T*>(a.x)[row * a.x_stride + static_cast<int64_t>(h) * P + p]);
    float* line = a.state + ((slot * H + h) * P + p) * N;
    float sum = 0;
    for (int n = lane_id(); n < N; n += 32) {
      const float s = decay * line[n] + dt * x * dev::to_f32(static_cast<const T*>(a.B)[row * a.B_stride + static_cast<int64_t>(g) * N + n]);
      line[n] = s, sum += s * dev::to_f32(static_cast<const T*>(a.C)[row * a.C_stride + static_cast<int64_t>(g) * N + n]);
    }
    sum = warp_sum(sum);
    if (lane_id() == 0) static_cast<T*>(a.y)[(row * H + h) * P + p] = dev::from_f32<T>(sum + D * x);
  }
}

}  // namespace

Support supports_ssd_fwd_general_sm90(const SsdFwd& a, const Device& d) { return {refusal(a.head_dim, a.state_dim, a.dtype, d)}; }
Support supports_ssd_step_general_sm90(const SsdStep& a, const Device& d) { return on_sm90(d, a.dtype); }

void ssd_fwd_general_sm90(const SsdFwd& a, const Launch& launch) {
  with_float_type(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    with_size(a.head_dim, a.state_dim, [&]<int kR, int kC>() {
      launch_grid(scan<T, kR, kC>, dim3(static_cast<unsigned>(a.documents * a.heads)), dim3(kThreads), 0, launch.stream, a);
    });
  });
}

void ssd_step_general_sm90(const SsdStep& a, const Launch& launch) {
  with_float_type(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    launch_grid(step<T>, dim3(static_cast<unsigned>(a.rows * a.heads)), dim3(kThreads), 0, launch.stream, a);
  });
}

}  // namespace weft::kernels
