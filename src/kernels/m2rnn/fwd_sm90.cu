// M2RNN forward. Sequential in t: one block a (document, head). The inputs come a chunk ahead; k v^T and h^T q are products of tensor
// cores, of which a step takes one slot of eight. Deterministic.
// Floor at b8 s4096 H51: 408 chains are 1,632 warps on 528 schedulers, at most four on one; a step takes eight tanh a lane (64 clocks of the
// special function unit) and about 50 instructions a warp: 4,096 steps of 256 clocks, 0.6 ms.
#include "kernels/m2rnn/tiles.cuh"

namespace weft::kernels {
namespace m2rnn {
namespace {

constexpr int kRun = kChunk, kPartPitch = 4 * kV + 4;  // stores of a warp meet no bank twice

struct Smem {
  Rows<kRun, true> rows[2];
  float part[kRun * kPartPitch];  // y by warp
};

__global__ void __launch_bounds__(kThreads, 4) fwd_kernel(const M2rnnFwd a) {
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<Smem*>(raw);
  const int head = static_cast<int>(blockIdx.x % a.heads), warp = warp_id(), lane = lane_id(), q = lane >> 2, r = lane & 3;
  const int64_t document = blockIdx.x / a.heads, start = a.cu_seqlens[document], length = a.cu_seqlens[document + 1] - start, state = (document * a.heads + head) * (kK * kV);
  const int runs = static_cast<int>((length + kRun - 1) / kRun);
  const RoundedB W(a.W + head * kV * kV, false);
  const int column = static_cast<int>(threadIdx.x) % kV;
  const float D = a.D ? a.D[head * kV + column] : 0.f;
  float h[2][4];
  read_state(h, a.initial_state ? a.initial_state + state : nullptr);
  auto count = [&](int c) { return static_cast<int>(length - static_cast<int64_t>(c) * kRun < kRun ? length - static_cast<int64_t>(c) * kRun : kRun); };
  if (runs > 0) load_rows(sm.rows[0], a, start, count(0), head);
  for (int c = 0; c < runs; ++c) {
    const int64_t first = start + static_cast<int64_t>(c) * kRun;
    const int n = count(c);
    if (a.states) write_state(h, a.states + ((start / kChunk + document + c) * a.heads + head) * (kK * kV));
    cp_async_wait<0>();
    __syncthreads();
    if (c + 1 < runs) load_rows(sm.rows[(c + 1) & 1], a, first + kRun, count(c + 1), head);
    const auto& rows = sm.rows[c & 1];
    SmemAddress at_kv = slot_address(rows.eight[0].k, rows.eight[0].v, warp), at_q = slot_address(rows.eight[0].q, rows.eight[0].v, warp);
    for (int t0 = 0; t0 < n; t0 += 8, at_kv += rows.kStride, at_q += rows.kStride) {
      uint32_t kv[4], qs[4];
      load_slots(kv, at_kv), load_columns(qs, at_q);
      float y[4] = {};  // of slots 2 r and 2 r + 1, columns q and q + 8
#pragma unroll
      for (int s = 0; s < 8; ++s) {
        const Pair pair(s / 2);
        float cc[2][4], all[4] = {};
        step(h, cc, W, kv, pair, s & 1, rows.f[t0 + s]);
        uint32_t words[4];
        pack(words, h);
        const uint32_t transposed[4] = {transpose_8x8(words[0]), transpose_8x8(words[2]), transpose_8x8(words[1]), transpose_8x8(words[3])};
        mma_bf16(all, transposed, qs[0], qs[1]);
        pair.keep(y, all, s & 1);
      }
      float* to = sm.part + (t0 + 2 * r) * kPartPitch + warp * kV + q;
      to[0] = y[0], to[kPartPitch] = y[1], to[8] = y[2], to[kPartPitch + 8] = y[3];
    }
    __syncthreads();
#pragma unroll 4
    for (int t = static_cast<int>(threadIdx.x) / kV; t < n; t += kThreads / kV) {
      const float* part = sm.part + t * kPartPitch + column;
      float y = (part[0] + part[kV]) + (part[2 * kV] + part[3 * kV]);
      if (a.D) y += D * __bfloat162float(rows.eight[t >> 3].v[place<kV>(t & 7, column)]);
      static_cast<bf16*>(a.y)[((first + t) * a.heads + head) * kV + column] = __float2bfloat16(y);
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
