// SSD decode: one token a row. Bound by the state's bytes: [P, N] fp32 read and written once. Deterministic.
#include "kernels/ssd/tiles.cuh"

namespace weft::kernels {
namespace ssd {
namespace {

// One block a (row, head); a warp takes every eighth line of P, lane l the four values of N from 4 l on.
__global__ void __launch_bounds__(256) step_kernel(const SsdStep a) {
  const int head = static_cast<int>(blockIdx.x % a.heads), group = head / (a.heads / a.groups), lane = lane_id();
  const int64_t row = blockIdx.x / a.heads, slot = a.slots ? a.slots[row] : row;
  if (slot < 0) return;
  const float dt = a.dt[row * a.heads + head], decay = __expf(a.A[head] * dt), D = a.D ? a.D[head] : 0.f;
  auto four = [](const void* p, int64_t at) {
    const uint2 v = *reinterpret_cast<const uint2*>(static_cast<const bf16*>(p) + at);
    const float2 lo = unpack_bf16(v.x), hi = unpack_bf16(v.y);
    return float4{lo.x, lo.y, hi.x, hi.y};
  };
  const float4 B = four(a.B, row * a.B_stride + group * kN + lane * 4), C = four(a.C, row * a.C_stride + group * kN + lane * 4);
  const bf16* x = static_cast<const bf16*>(a.x) + row * a.x_stride + head * kP;
  bf16* y = static_cast<bf16*>(a.y) + (row * a.heads + head) * kP;
  float* state = a.state + (slot * a.heads + head) * (kP * kN) + lane * 4;
#pragma unroll
  for (int i = 0; i < kP / 8; ++i) {
    const int p = i * 8 + warp_id();
    const float v = __bfloat162float(x[p]), u = v * dt;
    float4 s = *reinterpret_cast<const float4*>(state + p * kN);
    s = {s.x * decay + u * B.x, s.y * decay + u * B.y, s.z * decay + u * B.z, s.w * decay + u * B.w};
    *reinterpret_cast<float4*>(state + p * kN) = s;
    const float sum = warp_sum(s.x * C.x + s.y * C.y + s.z * C.z + s.w * C.w);
    if (lane == 0) y[p] = __float2bfloat16(sum + D * v);
  }
}

}  // namespace
}  // namespace ssd

Support supports_ssd_step_sm90(const SsdStep& a, const Device& device) { return {ssd::refusal(a, device)}; }

void ssd_step_sm90(const SsdStep& a, const Launch& launch) {
  launch_grid(ssd::step_kernel, dim3(static_cast<unsigned>(a.rows * a.heads)), dim3(256), 0, launch.stream, a);
}

}  // namespace weft::kernels
