// Mamba-3 backward: its order, its workspace, the first pass (turns) and the two last.
// Angles: phi_t = sum of d_theta over the steps from t to the document's end; d_omega_t = sum_heads phi_t dt_t; the look-ahead of scale:
//   d_dt_t = d_gamma_t lambda_t + d_scale_{t-1} (1 - lambda_t) + sum_i phi_{t,i} omega_{t,i}      d_lambda_t = (d_gamma_t - d_scale_{t-1}) dt_t
#include "kernels/mamba3/bwd.cuh"

namespace weft::kernels {
namespace mamba3 {

BwdWorkspace cut(const Mamba3Bwd& a, void* base) {
  const Mamba3Inputs& in = a.in;
  const int64_t slots = chunk_slots(in), H = in.heads, R = in.rank;
  BwdWorkspace w{};
  auto take = [&](int64_t bytes) {
    void* p = static_cast<uint8_t*>(base) + w.bytes;
    w.bytes += static_cast<size_t>((bytes + 255) / 256 * 256);
    return p;
  };
  auto floats = [&](int64_t n) { return static_cast<float*>(take(n * 4)); };
  const int64_t tiles = slots * piece_groups(in) * (H / in.groups);
  auto wide = [&] { return static_cast<bf16*>(take(tiles * kRows * kN * 2)); };
  auto thin = [&] { return static_cast<bf16*>(take(tiles * kRows * kP * 2)); };
  if (!fused(in)) w.q = wide(), w.k = wide(), w.v = thin(), w.dY = thin(), w.y = thin(), w.dv = thin();
  if (R > 1) w.S = wide();
  w.dS = wide();
  w.d_theta = floats(in.tokens * H * in.angles);
  w.turns = reinterpret_cast<__half2*>(w.d_theta);
  w.d_theta_sums = floats(slots * H * in.angles);
  w.d_gamma = floats(in.tokens * H), w.d_scale = floats(in.tokens * H);
  w.bias_parts = floats(parts(in) * 2 * H * R * kN);
  w.mimo_parts = floats(parts(in) * 3 * H * R * kP);
  w.D_parts = floats(parts(in) * H);
  return w;
}

namespace {

// One warp a (span of kMamba3Span tokens, head), a lane angles `lane` and `lane + 32`.
__global__ void __launch_bounds__(128) turns_kernel(const Mamba3Inputs a, const float* thetas, __half2* turns, int64_t rows) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * 4 + warp_id(), H = a.heads;
  if (row >= rows) return;
  const ChunkPlace at = place_of_slot(a.cu_seqlens, a.documents, row / H, kMamba3Span);
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    const int angle = lane_id() + 32 * e;
    if (angle >= a.angles || at.count == 0) continue;
    float theta = thetas[row * a.angles + angle];
    const float *omega = a.omega + at.first * a.angles + angle, *dt = a.dt + at.first * H + row % H;
    __half2* to = turns + (at.first * H + row % H) * a.angles + angle;
#pragma unroll 8
    for (int s = 0; s < at.count; ++s) {
      theta += omega[static_cast<int64_t>(s) * a.angles] * dt[s * H];
      to[s * H * a.angles] = cos_sin(theta);
    }
  }
}

// sums[chunk] = sum over the document's later chunks; a thread a (head, angle).
__global__ void __launch_bounds__(128) suffix_kernel(const int32_t* cu, float* sums, int steps, int64_t row) {
  const int64_t i = static_cast<int64_t>(blockIdx.y) * 128 + threadIdx.x, start = cu[blockIdx.x], length = cu[blockIdx.x + 1] - start;
  if (i >= row) return;
  float* p = sums + first_slot(start, blockIdx.x, steps) * row + i;
  constexpr int kAhead = 16;  // loads in flight
  float later = 0;
  for (int64_t c = (length + steps - 1) / steps - 1; c >= 0; c -= kAhead) {
    float v[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) v[k] = c >= k ? p[(c - k) * row] : 0.f;
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (c >= k) p[(c - k) * row] = later;
      later += v[k];
    }
  }
}

// One block a chunk, 16 steps at a time from its end; a warp takes every eighth head, a lane angles `lane` and, of two halves, `lane + 32`.
template <int kHalves>
__global__ void __launch_bounds__(256) angles_kernel(const Mamba3Bwd args, const BwdWorkspace w, int steps) {
  __shared__ float sum[8][16][32 * kHalves];
  const Mamba3Inputs& a = args.in;
  const int64_t slot = blockIdx.x, H = a.heads;
  const ChunkPlace at = place_of_slot(a.cu_seqlens, a.documents, slot, steps);
  if (at.count == 0) return;
  const int64_t start = a.cu_seqlens[at.document];
  const int lane = lane_id(), warp = warp_id();
  for (int block = (at.count - 1) / 16; block >= 0; --block) {
    const int64_t first = at.first + block * 16;
    const int count = at.count - block * 16 < 16 ? at.count - block * 16 : 16;
    float d_omega[16][kHalves] = {}, omega[16][kHalves];
#pragma unroll
    for (int s = 0; s < 16; ++s)
#pragma unroll
      for (int e = 0; e < kHalves; ++e) omega[s][e] = s < count && lane + 32 * e < a.angles ? __ldg(a.omega + (first + s) * a.angles + lane + 32 * e) : 0.f;
    for (int head = warp; head < a.heads; head += 8) {
      float* carry = w.d_theta_sums + (slot * H + head) * a.angles;
      float phi[kHalves];
#pragma unroll
      for (int e = 0; e < kHalves; ++e) phi[e] = lane + 32 * e < a.angles ? carry[lane + 32 * e] : 0.f;
      const bool mine = lane < count;  // a lane finishes the step of its number
      const int64_t i = (first + (mine ? lane : 0)) * H + head;
      const float dt = a.dt[i], lambda = a.lambda[i], d_gamma = w.d_gamma[i], before = first + lane > start && mine ? w.d_scale[i - H] : 0.f;
      float d_theta[16][kHalves];
#pragma unroll
      for (int s = 0; s < 16; ++s)
#pragma unroll
        for (int e = 0; e < kHalves; ++e)
          d_theta[s][e] = s < count && lane + 32 * e < a.angles ? w.d_theta[((first + s) * H + head) * a.angles + lane + 32 * e] : 0.f;
      float along = 0;
#pragma unroll
      for (int s = 15; s >= 0; --s) {
        const float step_dt = __shfl_sync(0xffffffffu, dt, s);
        float sum = 0;
#pragma unroll
        for (int e = 0; e < kHalves; ++e) {
          phi[e] += d_theta[s][e];
          if (s < count) d_omega[s][e] += phi[e] * step_dt;
          sum += phi[e] * omega[s][e];
        }
        sum = warp_sum(sum);
        if (lane == s) along = sum;
      }
      if (mine) {
        args.d_dt[i] = d_gamma * lambda + before * (1 - lambda) + along;
        args.d_lambda[i] = (d_gamma - before) * dt;
      }
#pragma unroll
      for (int e = 0; e < kHalves; ++e)
        if (lane + 32 * e < a.angles) carry[lane + 32 * e] = phi[e];
    }
#pragma unroll
    for (int s = 0; s < 16; ++s)
#pragma unroll
      for (int e = 0; e < kHalves; ++e) sum[warp][s][lane + 32 * e] = d_omega[s][e];
    __syncthreads();
    for (int i = threadIdx.x; i < count * a.angles; i += 256) {
      const int s = i / a.angles, angle = i % a.angles;
      float v = 0;
#pragma unroll
      for (int k = 0; k < 8; ++k) v += sum[k][s][angle];
      args.d_omega[(first + s) * a.angles + angle] = v;
    }
    __syncthreads();
  }
}

__global__ void __launch_bounds__(256) add_parts_kernel(const float* parts_of, int64_t parts, int64_t stride, int64_t size, float* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= size) return;
  float sum = 0;
#pragma unroll 8
  for (int64_t p = 0; p < parts; ++p) sum += parts_of[p * stride + i];
  out[i] += sum;
}

}  // namespace

void bwd_turns(const Mamba3Bwd& a, const BwdWorkspace& w, cudaStream_t stream) {
  const int64_t rows = mamba3_state_slots(a.in.tokens, a.in.documents) * a.in.heads;
  launch_grid(turns_kernel, dim3(static_cast<unsigned>((rows + 3) / 4)), dim3(128), 0, stream, a.in, a.thetas, w.turns, rows);
}

void bwd_angles(const Mamba3Bwd& a, const BwdWorkspace& w, cudaStream_t stream) {
  const int64_t row = static_cast<int64_t>(a.in.heads) * a.in.angles;
  launch_grid(suffix_kernel, dim3(static_cast<unsigned>(a.in.documents), static_cast<unsigned>((row + 127) / 128)), dim3(128), 0, stream, a.in.cu_seqlens, w.d_theta_sums, steps_of(a.in), row);
  const dim3 chunks(static_cast<unsigned>(chunk_slots(a.in)));
  if (a.in.angles > 32)
    launch_grid(angles_kernel<2>, chunks, dim3(256), 0, stream, a, w, steps_of(a.in));
  else
    launch_grid(angles_kernel<1>, chunks, dim3(256), 0, stream, a, w, steps_of(a.in));
}

void bwd_parameters(const Mamba3Bwd& a, const BwdWorkspace& w, cudaStream_t stream) {
  const int64_t n = parts(a.in), H = a.in.heads, bias = H * a.in.rank * kN, mimo = H * a.in.rank * kP;
  auto add = [&](const float* from, int64_t stride, int64_t size, float* out) {
    if (out != nullptr) launch_grid(add_parts_kernel, dim3(static_cast<unsigned>((size + 255) / 256)), dim3(256), 0, stream, from, n, stride, size, out);
  };
  add(w.bias_parts, 2 * bias, bias, a.dB_bias);
  add(w.bias_parts + bias, 2 * bias, bias, a.dC_bias);
  add(w.mimo_parts, 3 * mimo, mimo, a.d_mimo_x);
  add(w.mimo_parts + mimo, 3 * mimo, mimo, a.d_mimo_z);
  add(w.mimo_parts + 2 * mimo, 3 * mimo, mimo, a.d_mimo_o);
  add(w.D_parts, H, H, a.dD);
}

}  // namespace mamba3

Support supports_mamba3_bwd_sm90(const Mamba3Bwd& a, const Device& device) {
  if (a.states == nullptr || a.thetas == nullptr) return {"the forward's states were not saved"};
  if (reinterpret_cast<uintptr_t>(a.d_o) % 16 != 0 || reinterpret_cast<uintptr_t>(a.states) % 16 != 0) return {"d_o or states is not 16-byte aligned"};
  return {mamba3::refusal(a.in, device)};
}

size_t workspace_mamba3_bwd_sm90(const Mamba3Bwd& a) { return mamba3::cut(a, nullptr).bytes; }

void mamba3_bwd_sm90(const Mamba3Bwd& a, const Launch& l) {
  if (a.in.tokens == 0) return;
  const mamba3::BwdWorkspace w = mamba3::cut(a, l.workspace);
  mamba3::bwd_turns(a, w, l.stream);
  const int group_heads = a.in.heads / a.in.groups, step = mamba3::piece_groups(a.in);
  for (int g = 0; g < a.in.groups; g += step) {
    const mamba3::Piece piece{g * group_heads, (g + step < a.in.groups ? step : a.in.groups - g) * group_heads, group_heads, g};
    mamba3::bwd_walk(a, w, piece, l.stream);
    if (mamba3::fused(a.in)) {
      mamba3::bwd_fused(a, w, piece, l.stream);
      continue;
    }
    mamba3::bwd_chunks(a, w, piece, l.stream);
    mamba3::bwd_gates(a, w, piece, l.stream);
  }
  mamba3::bwd_angles(a, w, l.stream);
  mamba3::bwd_parameters(a, w, l.stream);
}

}  // namespace weft::kernels
