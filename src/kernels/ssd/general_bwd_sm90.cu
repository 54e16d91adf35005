// SSD backward for the shapes of general_sm90.cu, in two walks over the tokens of a document and head. With u_t = dt_t x_t:
//   forward:  S_t = a_t S_{t-1} + u_t B_t^T again; dC_t = S_t^T dy_t; r_t = dy_t . S_t C_t; S before each chunk is kept in fp32
//   backward: dS_t = dy_t C_t^T + a_{t+1} dS_{t+1}; du_t = dS_t B_t; dB_t = dS_t^T u_t; dx_t = dt_t du_t + D dy_t
// The gradient of log a_t, <dS_t, a_t S_{t-1}>, follows from its successor, dl_t = dl_{t+1} + r_t - du_t . u_t, and is taken anew from
// the kept state at the start of each chunk, so rounding gathers over a chunk only. Heads of a group leave fp32 parts of dB and dC that
// are added in order.
#include "kernels/ssd/general.cuh"

namespace weft::kernels {
namespace {

using namespace ssd_general;

struct Parts {
  float *dB, *dC;      // [T, H, N]
  float *r;            // [T, H]
  float *states;       // [ssd_state_slots, H, P, N]
  float *end;          // [documents, H]: <d_final_state, S at the end>
  float *dA, *dD;      // [documents, H]
};

__device__ __forceinline__ int64_t slot_of(int64_t first, int64_t d, int64_t t) { return first / kSsdChunk + d + (t - first) / kSsdChunk; }

// Sum over all threads; every thread of warp 0 gets it.
__device__ __forceinline__ float sum_all(float v, float* scratch) {
  v = warp_sum(v);
  __syncthreads();
  if (lane_id() == 0) scratch[warp_id()] = v;
  __syncthreads();
  float s = 0;
  for (int w = 0; w < kWarps; ++w) s += scratch[w];
  return s;
}

template <class T, int kR, int kC>
__global__ void __launch_bounds__(kThreads) forward_walk(SsdBwd a, Parts parts) {
  constexpr int kP = kR * kWarps, kN = kC * 32;
  WEFT_DYNAMIC_SMEM(raw);
  float *x = reinterpret_cast<float*>(raw), *dy = x + kStep * kP, *B = dy + kStep * kP, *C = B + kStep * kN, *dC = C + kStep * kN;
  float *r = dC + kWarps * kStep * kN, *dt = r + kWarps * kStep;  // dC, r: [warp][token]
  const int P = a.head_dim, N = a.state_dim, H = a.heads, h = static_cast<int>(blockIdx.x) % H, g = h / (H / a.groups);
  const int64_t d = blockIdx.x / H, first = a.cu_seqlens[d], last = a.cu_seqlens[d + 1], state = (d * H + h) * P * N;
  const float A = a.A[h];
  State<kR, kC> S;
  S.load(a.initial_state == nullptr ? nullptr : a.initial_state + state, P, N);
  for (int64_t t0 = first; t0 < last; t0 += kStep) {
    const int rows = last - t0 < kStep ? static_cast<int>(last - t0) : kStep;
    if ((t0 - first) % kSsdChunk == 0) S.store(parts.states + (slot_of(first, d, t0) * H + h) * P * N, P, N);
    __syncthreads();
    load_steps<T>(x, static_cast<const T*>(a.x) + t0 * a.x_stride + static_cast<int64_t>(h) * P, a.x_stride, rows, P, kP);
    load_steps<T>(dy, static_cast<const T*>(a.dy) + (t0 * H + h) * P, static_cast<int64_t>(H) * P, rows, P, kP);
    load_steps<T>(B, static_cast<const T*>(a.B) + t0 * a.B_stride + static_cast<int64_t>(g) * N, a.B_stride, rows, N, kN);
    load_steps<T>(C, static_cast<const T*>(a.C) + t0 * a.C_stride + static_cast<int64_t>(g) * N, a.C_stride, rows, N, kN);
    if (threadIdx.x < kStep) dt[threadIdx.x] = static_cast<int>(threadIdx.x) < rows ? a.dt[(t0 + threadIdx.x) * H + h] : 0.0f;
    __syncthreads();
    for (int t = 0; t < rows; ++t) {
      const float decay = expf(A * dt[t]);
      float sum = 0;
#pragma unroll
      for (int j = 0; j < kC; ++j) {
        const int n = lane_id() + 32 * j;
        float column = 0;
#pragma unroll
        for (int i = 0; i < kR; ++i) {
          const int p = warp_id() + kWarps * i;
          S.v[i][j] = decay * S.v[i][j] + dt[t] * x[t * kP + p] * B[t * kN + n];
          column += S.v[i][j] * dy[t * kP + p];
        }
        dC[(warp_id() * kStep + t) * kN + n] = column, sum += column * C[t * kN + n];
      }
      sum = warp_sum(sum);
      if (lane_id() == 0) r[warp_id() * kStep + t] = sum;
    }
    __syncthreads();
    for (int t = warp_id(); t < rows; t += kWarps) {
      for (int n = lane_id(); n < N; n += 32) {
        float sum = 0;
        for (int w = 0; w < kWarps; ++w) sum += dC[(w * kStep + t) * kN + n];
        parts.dC[((t0 + t) * H + h) * N + n] = sum;
      }
      if (lane_id() != 0) continue;
      float sum = 0;
      for (int w = 0; w < kWarps; ++w) sum += r[w * kStep + t];
      parts.r[(t0 + t) * H + h] = sum;
    }
  }
  float sum = 0;
  if (a.d_final_state != nullptr) S.each(P, N, [&](float& s, int p, int n) { sum += s * a.d_final_state[state + p * N + n]; });
  sum = sum_all(sum, r);
  if (threadIdx.x == 0) parts.end[d * H + h] = sum;
}

template <class T, int kR, int kC>
__global__ void __launch_bounds__(kThreads) backward_walk(SsdBwd a, Parts parts) {
  constexpr int kP = kR * kWarps, kN = kC * 32;
  WEFT_DYNAMIC_SMEM(raw);
  float *x = reinterpret_cast<float*>(raw), *dy = x + kStep * kP, *B = dy + kStep * kP, *C = B + kStep * kN, *dB = C + kStep * kN;
  float *du = dB + kWarps * kStep * kN, *dt = du + kStep * kP, *scratch = dt + kStep;  // dB: [warp][token]; du: [token][P]
  const int P = a.head_dim, N = a.state_dim, H = a.heads, h = static_cast<int>(blockIdx.x) % H, g = h / (H / a.groups);
  const int64_t d = blockIdx.x / H, first = a.cu_seqlens[d], last = a.cu_seqlens[d + 1], state = (d * H + h) * P * N;
  const float A = a.A[h], D = a.D == nullptr ? 0.0f : a.D[h];
  State<kR, kC> dS;
  dS.load(a.d_final_state == nullptr ? nullptr : a.d_final_state + state, P, N);
  float dl = parts.end[d * H + h], dA = 0, dD = 0;  // of the token after; the same in every lane of warp 0
  for (int64_t t0 = last > first ? first + (last - first - 1) / kStep * kStep : first - 1; t0 >= first; t0 -= kStep) {
    const int rows = last - t0 < kStep ? static_cast<int>(last - t0) : kStep;
    __syncthreads();
    load_steps<T>(x, static_cast<const T*>(a.x) + t0 * a.x_stride + static_cast<int64_t>(h) * P, a.x_stride, rows, P, kP);
    load_steps<T>(dy, static_cast<const T*>(a.dy) + (t0 * H + h) * P, static_cast<int64_t>(H) * P, rows, P, kP);
    load_steps<T>(B, static_cast<const T*>(a.B) + t0 * a.B_stride + static_cast<int64_t>(g) * N, a.B_stride, rows, N, kN);
    load_steps<T>(C, static_cast<const T*>(a.C) + t0 * a.C_stride + static_cast<int64_t>(g) * N, a.C_stride, rows, N, kN);
    if (threadIdx.x < kStep) dt[threadIdx.x] = static_cast<int>(threadIdx.x) < rows ? a.dt[(t0 + threadIdx.x) * H + h] : 0.0f;
    __syncthreads();
    for (int t = rows - 1; t >= 0; --t) {
      const float decay = expf(A * dt[t]);
      float row[kR] = {};
#pragma unroll
      for (int j = 0; j < kC; ++j) {
        const int n = lane_id() + 32 * j;
        const float b = B[t * kN + n], c = C[t * kN + n];
        float column = 0;
#pragma unroll
        for (int i = 0; i < kR; ++i) {
          const int p = warp_id() + kWarps * i;
          dS.v[i][j] += dy[t * kP + p] * c;
          row[i] += dS.v[i][j] * b, column += dS.v[i][j] * x[t * kP + p];
          dS.v[i][j] *= decay;
        }
        dB[(warp_id() * kStep + t) * kN + n] = dt[t] * column;
      }
#pragma unroll
      for (int i = 0; i < kR; ++i) {
        const float sum = warp_sum(row[i]);
        if (lane_id() == 0) du[t * kP + warp_id() + kWarps * i] = sum;
      }
    }
    __syncthreads();
    for (int t = warp_id(); t < rows; t += kWarps) {
      const int64_t at = (t0 + t) * H + h;
      for (int n = lane_id(); n < N; n += 32) {
        float sum = 0;
        for (int w = 0; w < kWarps; ++w) sum += dB[(w * kStep + t) * kN + n];
        parts.dB[at * N + n] = sum;
      }
      for (int p = lane_id(); p < P; p += 32) static_cast<T*>(a.dx)[at * P + p] = dev::from_f32<T>(dt[t] * du[t * kP + p] + D * dy[t * kP + p]);
    }
    const bool chunk_begins = (t0 - first) % kSsdChunk == 0;
    float kept = 0;  // <a_t dS_t, S_{t-1}> at the first token of a chunk
    if (chunk_begins) {
      const float* saved = parts.states + (slot_of(first, d, t0) * H + h) * P * N;
      dS.each(P, N, [&](float& s, int p, int n) { kept += s * saved[p * N + n]; });
      kept = sum_all(kept, scratch);
    }
    if (warp_id() != 0) continue;
    for (int t = rows - 1; t >= 0; --t) {
      float from_u = 0, skip = 0;
      for (int p = lane_id(); p < P; p += 32) from_u += du[t * kP + p] * x[t * kP + p], skip += dy[t * kP + p] * x[t * kP + p];
      from_u = warp_sum(from_u), skip = warp_sum(skip);
      dl = chunk_begins && t == 0 ? kept : dl + parts.r[(t0 + t) * H + h] - dt[t] * from_u;
      dA += dt[t] * dl, dD += skip;
      if (lane_id() == 0) a.d_dt[(t0 + t) * H + h] = A * dl + from_u;
    }
  }
  if (a.d_initial_state != nullptr) dS.store(a.d_initial_state + state, P, N);
  if (threadIdx.x == 0) parts.dA[d * H + h] = dA, parts.dD[d * H + h] = dD;
}

// out[t, g, n] = sum over the heads of group g.
template <class T>
__global__ void __launch_bounds__(kThreads) sum_heads(const float* parts, T* out, int64_t count, int heads, int groups, int N) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const int64_t row = i / N, t = row / groups, g = row % groups, per_group = heads / groups;
  float sum = 0;
  for (int64_t k = 0; k < per_group; ++k) sum += parts[(t * heads + g * per_group + k) * N + i % N];
  out[i] = dev::from_f32<T>(sum);
}
__global__ void __launch_bounds__(kThreads) sum_documents(Parts parts, float* dA, float* dD, int64_t documents, int heads) {
  const int h = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (h >= heads) return;
  float sum_A = 0, sum_D = 0;
  for (int64_t d = 0; d < documents; ++d) sum_A += parts.dA[d * heads + h], sum_D += parts.dD[d * heads + h];
  dA[h] += sum_A;
  if (dD != nullptr) dD[h] += sum_D;
}

struct Sizes {  // of the workspace's parts, in floats
  int64_t rows, per_head, states, documents;
  explicit Sizes(const SsdBwd& a)
      : rows(a.tokens * a.heads * a.state_dim), per_head(a.tokens * a.heads), states(ssd_state_slots(a.tokens, a.documents) * a.heads * a.head_dim * a.state_dim),
        documents(a.documents * a.heads) {}
  int64_t total() const { return 2 * rows + per_head + states + 3 * documents; }
};

}  // namespace

Support supports_ssd_bwd_general_sm90(const SsdBwd& a, const Device& d) { return {refusal(a.head_dim, a.state_dim, a.dtype, d)}; }
size_t workspace_ssd_bwd_general_sm90(const SsdBwd& a) { return static_cast<size_t>(Sizes(a).total()) * sizeof(float); }

void ssd_bwd_general_sm90(const SsdBwd& a, const Launch& launch) {
  const Sizes size(a);
  float* w = static_cast<float*>(launch.workspace);
  const auto take = [&](int64_t n) { return w += n, w - n; };
  Parts parts{};
  parts.dB = take(size.rows), parts.dC = take(size.rows), parts.r = take(size.per_head), parts.states = take(size.states);
  parts.end = take(size.documents), parts.dA = take(size.documents), parts.dD = take(size.documents);
  with_float_type(a.dtype, [&](auto type) {
    using T = typename decltype(type)::type;
    with_size(a.head_dim, a.state_dim, [&]<int kR, int kC>() {
      constexpr size_t kP = kR * kWarps, kN = kC * 32;
      constexpr size_t smem = (3 * kStep * kP + 2 * kStep * kN + kWarps * kStep * kN + kWarps * kStep + kStep + kWarps) * sizeof(float);
      const dim3 grid(static_cast<unsigned>(a.documents * a.heads));
      launch_grid(forward_walk<T, kR, kC>, grid, dim3(kThreads), smem, launch.stream, a, parts);
      launch_grid(backward_walk<T, kR, kC>, grid, dim3(kThreads), smem, launch.stream, a, parts);
    });
    const int64_t count = a.tokens * a.groups * a.state_dim;
    const dim3 grid(static_cast<unsigned>(ceil_div(count, kThreads)));
    launch_grid(sum_heads<T>, grid, dim3(kThreads), 0, launch.stream, static_cast<const float*>(parts.dB), static_cast<T*>(a.dB), count, a.heads, a.groups, a.state_dim);
    launch_grid(sum_heads<T>, grid, dim3(kThreads), 0, launch.stream, static_cast<const float*>(parts.dC), static_cast<T*>(a.dC), count, a.heads, a.groups, a.state_dim);
  });
  launch_grid(sum_documents, dim3(static_cast<unsigned>(ceil_div(a.heads, kThreads))), dim3(kThreads), 0, launch.stream, parts, a.dA, a.dD, a.documents, a.heads);
}

}  // namespace weft::kernels
