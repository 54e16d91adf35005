// Delta rules token by token: a block walks a document of one head, a thread a column of the state in registers, so that sums over rows
// need no exchange; the token's numbers come from shared memory, the next token's are on their way. Bound: latency of one token after
// the other; a decode step reads and writes the state once.
#include "kernels/delta/scan.cuh"

namespace weft::kernels {
namespace delta {
namespace {

struct Token {
  float2 before[128], after[128];  // by row: e^g, b k; k, q
};

template <class T, int kRows, bool kChannels>
__global__ void __launch_bounds__(128) fwd_kernel(const DeltaFwd a) {
  __shared__ Token tokens[2];
  const DeltaInputs& in = a.in;
  const int tid = threadIdx.x, K = in.key_dim, V = in.value_dim;
  const int64_t document = blockIdx.x / in.value_heads, state = static_cast<int64_t>(K) * V, at_state = static_cast<int64_t>(blockIdx.x) * state + tid;
  const int head = static_cast<int>(blockIdx.x % in.value_heads), key_head = head / (in.value_heads / in.key_heads);
  const int64_t start = in.cu_seqlens[document], end = in.cu_seqlens[document + 1], slot = start / kDeltaChunk + document;
  const bool column = tid < V;
  float S[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) S[i] = a.initial_state && column && i < K ? a.initial_state[at_state + i * V] : 0.f;
  // Up to four rows a thread where a block has but one warp.
  constexpr int kShare = (kRows + 31) / 32;
  float k[kShare] = {}, q[kShare] = {}, g[kShare] = {}, b[kShare] = {}, v = 0, w = 0;
  auto fetch = [&](int64_t t) {
    const int64_t key = (t * in.key_heads + key_head) * K, gate = t * in.value_heads + head;
#pragma unroll
    for (int e = 0; e < kShare; ++e) {
      const int i = e * blockDim.x + tid;
      if (i >= kRows) break;
      const bool row = i < K;
      k[e] = row ? dev::to_f32(static_cast<const T*>(in.k)[key + i]) : 0.f, q[e] = row ? dev::to_f32(static_cast<const T*>(in.q)[key + i]) : 0.f;
      g[e] = kChannels ? (row ? in.g[gate * K + i] : 0.f) : in.g[gate], b[e] = kChannels ? (row ? in.b[gate * K + i] : 0.f) : in.b[gate];
    }
    v = column ? dev::to_f32(static_cast<const T*>(in.v)[gate * V + tid]) : 0.f;
    w = kChannels ? (column ? in.w[gate * V + tid] : 0.f) : in.b[gate];
  };
  auto put = [&](Token& token) {
#pragma unroll
    for (int e = 0; e < kShare; ++e) {
      const int i = e * blockDim.x + tid;
      if (i < kRows) token.before[i] = make_float2(expf(g[e]), b[e] * k[e]), token.after[i] = make_float2(k[e], q[e]);
    }
  };
  if (start < end) fetch(start), put(tokens[start & 1]);
  for (int64_t t = start; t < end; ++t) {
    __syncthreads();
    const Token& token = tokens[t & 1];
    const float written = w * v;
    if (t + 1 < end) fetch(t + 1);
    if (a.states && column && (t - start) % kDeltaChunk == 0) {
      float* to = a.states + ((slot + (t - start) / kDeltaChunk) * in.value_heads + head) * state + tid;
#pragma unroll
      for (int i = 0; i < kRows; ++i)
        if (i < K) to[i * V] = S[i];
    }
    float dot[4] = {}, o[4] = {};
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const float2 x = token.before[i];
      S[i] *= x.x, dot[i & 3] += S[i] * x.y;
    }
    const float r = written - ((dot[0] + dot[1]) + (dot[2] + dot[3]));
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const float2 x = token.after[i];
      S[i] += x.x * r, o[i & 3] += S[i] * x.y;
    }
    if (column) static_cast<T*>(a.o)[(t * in.value_heads + head) * V + tid] = dev::from_f32<T>(in.scale * ((o[0] + o[1]) + (o[2] + o[3])));
    if (t + 1 < end) put(tokens[(t + 1) & 1]);
  }
  if (a.final_state && column) {
#pragma unroll
    for (int i = 0; i < kRows; ++i)
      if (i < K) a.final_state[at_state + i * V] = S[i];
  }
}

}  // namespace
}  // namespace delta

Support supports_delta_fwd_sm90(const DeltaFwd& a, const Device& device) { return delta::supports(a.in, device); }

void delta_fwd_sm90(const DeltaFwd& a, const Launch& l) {
  delta::with_kind(a.in, [&](auto type, auto rows, auto channels) {
    launch_grid(delta::fwd_kernel<typename decltype(type)::type, decltype(rows)::value * 32, decltype(channels)::value>, dim3(static_cast<unsigned>(a.in.documents * a.in.value_heads)),
                dim3(static_cast<unsigned>(ceil_div(a.in.value_dim, 32) * 32)), 0, l.stream, a);
  });
}

}  // namespace weft::kernels
