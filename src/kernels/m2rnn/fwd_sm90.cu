// M2RNN forward. Sequential in t: one block a (document, head), about 100 instructions a warp and step. Bound by issue and tanh:
// 408 chains (b8, 51 heads) on 132 multiprocessors, 4096 steps of about 300 clocks: 0.7 ms. Deterministic.
#include "kernels/m2rnn/tiles.cuh"

namespace weft::kernels {
namespace m2rnn {
namespace {

struct Smem {
  Rows rows[2];
  float part[kChunk][4][kV];
};

__global__ void __launch_bounds__(kThreads, 4) fwd_kernel(const M2rnnFwd a) {
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<Smem*>(raw);
  const int head = static_cast<int>(blockIdx.x % a.heads), warp = warp_id(), lane = lane_id(), row = warp * 16 + (lane >> 2);
  const int64_t document = blockIdx.x / a.heads, start = a.cu_seqlens[document], length = a.cu_seqlens[document + 1] - start, state = (document * a.heads + head) * (kK * kV);
  const int chunks = static_cast<int>((length + kChunk - 1) / kChunk);
  const SplitB W(a.W + head * kV * kV, false);
  float h[2][4];
  read_state(h, a.initial_state ? a.initial_state + state : nullptr);
  auto count = [&](int c) { return static_cast<int>(length - static_cast<int64_t>(c) * kChunk < kChunk ? length - static_cast<int64_t>(c) * kChunk : kChunk); };
  if (chunks > 0) load_rows(sm.rows[0], a, nullptr, start, count(0), head);
  for (int c = 0; c < chunks; ++c) {
    const int64_t first = start + static_cast<int64_t>(c) * kChunk;
    const int n = count(c);
    if (a.states) write_state(h, a.states + ((start / kChunk + document + c) * a.heads + head) * (kK * kV));
    cp_async_wait<0>();
    __syncthreads();
    if (c + 1 < chunks) load_rows(sm.rows[(c + 1) & 1], a, nullptr, first + kChunk, count(c + 1), head);
    const Rows& rows = sm.rows[c & 1];
    for (int t = 0; t < n; ++t) {
      float v[2][2], cc[2][4];
      four(v, rows.v + t * kV);
      step(h, cc, W, __bfloat162float(rows.k[t * kK + row]), __bfloat162float(rows.k[t * kK + row + 8]), v, rows.f[t]);
      const float q0 = __bfloat162float(rows.q[t * kK + row]), q1 = __bfloat162float(rows.q[t * kK + row + 8]);
      const float y = column_sums(q0 * h[0][0] + q1 * h[0][2], q0 * h[0][1] + q1 * h[0][3], q0 * h[1][0] + q1 * h[1][2], q0 * h[1][1] + q1 * h[1][3]);
      if (lane < 16) sm.part[t][warp][column_of_lane()] = y;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n * kV; i += kThreads) {
      const int t = i / kV, j = i % kV;
      float y = (sm.part[t][0][j] + sm.part[t][1][j]) + (sm.part[t][2][j] + sm.part[t][3][j]);
      if (a.D) y += a.D[head * kV + j] * __bfloat162float(rows.v[t * kV + j]);
      static_cast<bf16*>(a.y)[((first + t) * a.heads + head) * kV + j] = __float2bfloat16(y);
    }
  }
  if (a.final_state) write_state(h, a.final_state + state);
}

}  // namespace
}  // namespace m2rnn

Support supports_m2rnn_fwd_sm90(const M2rnnFwd& a, const Device& device) { return {m2rnn::refusal(a, device)}; }

void m2rnn_fwd_sm90(const M2rnnFwd& a, const Launch& l) {
  launch_grid(m2rnn::fwd_kernel, dim3(static_cast<unsigned>(a.documents * a.heads)), dim3(m2rnn::kThreads), sizeof(m2rnn::Smem), l.stream, a);
}

}  // namespace weft::kernels
