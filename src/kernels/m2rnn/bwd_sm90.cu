// M2RNN backward: per chunk of 64 steps, forward once from the saved state to the starts of its pieces of eight, then piece by piece from the
// last: forward again keeping h_{t-1} and c_t (bf16), and back, Z_t = (1 - f_t) G_t (1 - c_t^2):
//   G_t = q_t dy_t^T + f_{t+1} G_{t+1} + Z_{t+1} W^T    dW += h_{t-1}^T Z_t    dk = Z v    dv = Z^T k + D dy    df = <G, h_{t-1} - c>
//   dq = h_t dy    dD = sum dy v
// Products with a step's q, k, v, dy take one slot of eight. dq and dk of each head go to bf16 parts [T, H, 64] and are summed over heads by a
// second kernel, dW and dD over documents by a third. Deterministic.
// Floor at b8 s4096 H51: 1,632 warps on 528 schedulers, at most four on one, so all are resident (a block has 56 KB); a step takes 15 tanh a
// lane (120 clocks of the special function unit) and about 180 instructions a warp: 4,096 steps of 720 clocks, 1.7 ms.
#include "kernels/m2rnn/tiles.cuh"

namespace weft::kernels {
namespace m2rnn {
namespace {

constexpr int kPiece = 8, kStarts = kChunk / kPiece - 1;

constexpr int kWPitch = kV + 4;  // fewer of a warp's loads meet in a bank

struct Results {  // of a warp and piece: its 16 rows of dq and dk, its part of dv and df
  bf16 d[2][kPiece][16];
  float dv[kPiece][kV], df[kPiece];
};
struct Smem {
  Rows<kChunk, true> rows;
  bf16 h[kPiece + 1][4][16 * 16];  // before each step, by warp: the 8 x 8 tiles of the first operand's words, each transposed
  uint4 c[4][kPiece][32];          // of the step, by warp; then the warp's Results
  float W[kV * kWPitch];
};
static_assert(sizeof(Results) <= sizeof(uint4) * kPiece * 32);

struct Parts {
  bf16 *dq, *dk;   // [T, H, 64]
  float *dW, *dD;  // [documents, H, 16, 16], [documents, H, 16]
  float4* starts;  // [documents, H, kStarts, kThreads, 2]: h before the pieces but the first, of the chunk at hand
};

__device__ __forceinline__ void unpack(float (&v)[2][4], const uint32_t (&w)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 f = unpack_bf16(w[i]);
    v[i >> 1][(i & 1) * 2] = f.x, v[i >> 1][(i & 1) * 2 + 1] = f.y;
  }
}
// Eight values a lane summed over the warp: value 4 (lane / 16) + 2 (lane / 8 % 2) + lane / 4 % 2 to each lane.
__device__ __forceinline__ float sum_eight(float (&v)[8]) {
  const int lane = lane_id();
#pragma unroll
  for (int half = 4; half > 0; half >>= 1) {
    const bool high = lane & (half * 4);
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float mine = high ? v[i + half] : v[i], other = high ? v[i] : v[i + half];
      v[i] = mine + __shfl_xor_sync(0xffffffffu, other, half * 4);
    }
  }
  return warp_sum<4>(v[0]);
}

// Starts to fetch what is read later.
__device__ __forceinline__ void prefetch_l1(const void* p) {
#if !defined(WEFT_EMULATE)
  asm volatile("prefetch.global.L1 [%0];\n" ::"l"(p));
#endif
}
__device__ __forceinline__ void prefetch_l2(const void* p) {
#if !defined(WEFT_EMULATE)
  asm volatile("prefetch.global.L2 [%0];\n" ::"l"(p));
#endif
}

struct Walk {
  const M2rnnBwd& a;
  Smem& sm;
  const int warp = warp_id(), lane = lane_id(), q = lane >> 2, r = lane & 3;
  const SmemAddress at_kv = slot_address(sm.rows.k, sm.rows.v, warp), at_qdy = slot_address(sm.rows.q, sm.rows.dy, warp);
  float h[2][4], G[2][4], dW[2][4] = {};  // G: of the state after the step at hand, from later steps

  __device__ __forceinline__ Walk(const M2rnnBwd& args, Smem& smem) : a(args), sm(smem) {}

  // Eight steps from t0; with kKeep, h before each and after the last, and c, stay in shared memory.
  template <bool kKeep>
  __device__ __forceinline__ void forward(int t0) {
    const RoundedB W(sm.W, false, kWPitch);
    uint32_t kv[4], words[4];
    load_slots(kv, at_kv + t0 / kPiece * slot_stride());
#pragma unroll
    for (int s = 0; s < kPiece; ++s) {
      float c[2][4];
      if constexpr (kKeep) pack(words, h), stmatrix_x4_trans(sm.h[s][warp] + lane * 8, words[0], words[1], words[2], words[3]);
      step(h, c, W, kv, s, sm.rows.f[t0 + s]);
      if constexpr (kKeep) pack(words, c), sm.c[warp][s][lane] = {words[0], words[1], words[2], words[3]};
    }
    if constexpr (kKeep) {
      pack(words, h), stmatrix_x4_trans(sm.h[kPiece][warp] + lane * 8, words[0], words[1], words[2], words[3]);
      __syncwarp();
    }
  }

  __device__ __forceinline__ void backward(int t0) {
    const RoundedB WT(sm.W, true, kWPitch);
    const int on = t0 / kPiece * slot_stride();
    uint32_t qdy[4], kv[4], qdy_columns[4], after[4];
    load_slots(qdy, at_qdy + on), load_columns(kv, at_kv + on), load_columns(qdy_columns, at_qdy + on);
    ldmatrix_x4_trans(after, smem_address(sm.h[kPiece][warp] + lane * 8));
    float dq[4] = {}, dk[4] = {}, dv[4] = {}, df[kPiece];
#pragma unroll
    for (int s = kPiece - 1; s >= 0; --s) {
      const uint32_t only = slot_mask(s);
      uint32_t before[4], transposed[4], zw[4];
      const bf16* at = sm.h[s][warp];
      ldmatrix_x4_trans(before, smem_address(at + lane * 8));
      ldmatrix_x4(transposed, smem_address(at + ((lane & 7) + (lane >> 4) * 8 + (lane >> 3 & 1) * 16) * 8));  // tiles 0, 2, 1, 3
      const uint4 cw = sm.c[warp][s][lane];
      const uint32_t cws[4] = {cw.x, cw.y, cw.z, cw.w};
      float b[2][4], c[2][4], Z[2][4], all[4];
      unpack(b, before), unpack(c, cws);
      const float f = sm.rows.f[t0 + s], rest = 1 - f;
#pragma unroll
      for (int n = 0; n < 2; ++n) mma_bf16_k8(G[n], qdy[0] & only, qdy[1] & only, qdy[2 + n]);
      float sum = 0;
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          sum += G[n][e] * (b[n][e] - c[n][e]);
          Z[n][e] = rest * G[n][e] * (1 - c[n][e] * c[n][e]);
          G[n][e] *= f;
        }
      df[s] = sum;
      add_product(G, Z, WT);
      pack(zw, Z);
      const uint32_t zt[4] = {transpose_8x8(zw[0]), transpose_8x8(zw[2]), transpose_8x8(zw[1]), transpose_8x8(zw[3])};
      mma_bf16(dW[0], transposed, zt[0], zt[2]);
      mma_bf16(dW[1], transposed, zt[1], zt[3]);
#pragma unroll
      for (int e = 0; e < 4; ++e) all[e] = 0;
      mma_bf16(all, after, qdy_columns[2], qdy_columns[3]);
      keep_slot(dq, all, s);
#pragma unroll
      for (int e = 0; e < 4; ++e) all[e] = 0;
      mma_bf16(all, zw, kv[2], kv[3]);
      keep_slot(dk, all, s);
#pragma unroll
      for (int e = 0; e < 4; ++e) all[e] = 0;
      mma_bf16(all, zt, kv[0], kv[1]);
      keep_slot(dv, all, s);
#pragma unroll
      for (int i = 0; i < 4; ++i) after[i] = before[i];
    }
    const float whole = sum_eight(df);
    __syncwarp();  // c has been read
    Results& out = results(warp);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int t = 2 * r + (e & 1), at = q + (e >> 1) * 8;
      out.d[0][t][at] = __float2bfloat16(dq[e]), out.d[1][t][at] = __float2bfloat16(dk[e]), out.dv[t][at] = dv[e];
    }
    if (r == 0) out.df[(lane >> 4) * 4 + (lane >> 3 & 1) * 2 + (lane >> 2 & 1)] = whole;
  }
  __device__ __forceinline__ Results& results(int w) const { return *reinterpret_cast<Results*>(sm.c[w]); }
};

__global__ void __launch_bounds__(kThreads, 4) bwd_kernel(const M2rnnBwd a, const Parts parts) {
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<Smem*>(raw);
  const int head = static_cast<int>(blockIdx.x % a.heads), thread = static_cast<int>(threadIdx.x), column = thread % kV;
  const int64_t document = blockIdx.x / a.heads, start = a.cu_seqlens[document], length = a.cu_seqlens[document + 1] - start, row = document * a.heads + head, state = row * (kK * kV);
  const int chunks = static_cast<int>((length + kChunk - 1) / kChunk);
  float4* starts = parts.starts + row * (kStarts * kThreads * 2) + thread * 2;
  const float D = a.D ? a.D[head * kV + column] : 0.f;
  float dD = 0;
  for (int i = thread; i < kV * kV; i += kThreads) sm.W[i / kV * kWPitch + i % kV] = a.W[head * kV * kV + i];
  Walk w(a, sm);
  read_state(w.G, a.d_final_state ? a.d_final_state + state : nullptr);
  for (int c = chunks - 1; c >= 0; --c) {
    const int64_t first = start + static_cast<int64_t>(c) * kChunk;
    const int n = static_cast<int>(length - static_cast<int64_t>(c) * kChunk < kChunk ? length - static_cast<int64_t>(c) * kChunk : kChunk), pieces = (n + kPiece - 1) / kPiece;
    __syncthreads();
    load_rows(sm.rows, a, a.dy, first, n, head);
    const float* saved = a.states + ((start / kChunk + document + c) * a.heads + head) * (kK * kV);
    read_state(w.h, saved);
    if (c > 0) {  // the chunk before: rows of v, then of dy, and the state
      const int64_t token = first - kChunk + (thread & 63);
      prefetch_l2(thread < 64 ? static_cast<const bf16*>(a.v) + token * a.v_stride + head * kV : static_cast<const bf16*>(a.dy) + (token * a.heads + head) * kV);
      if (thread < 32) prefetch_l2(saved - a.heads * (kK * kV) + thread * 32);
    }
    cp_async_wait<0>();
    __syncthreads();
    for (int p = 0; p + 1 < pieces; ++p) {
      w.forward<false>(p * kPiece);
      starts[p * kThreads * 2] = {w.h[0][0], w.h[0][1], w.h[0][2], w.h[0][3]}, starts[p * kThreads * 2 + 1] = {w.h[1][0], w.h[1][1], w.h[1][2], w.h[1][3]};
    }
    for (int p = pieces - 1; p >= 0; --p) {
      const int t0 = p * kPiece, count = n - t0;
      if (p + 1 < pieces) {  // else h is there
        if (p == 0) {
          read_state(w.h, saved);
        } else {
          const float4 x = starts[(p - 1) * kThreads * 2], y = starts[(p - 1) * kThreads * 2 + 1];
          w.h[0][0] = x.x, w.h[0][1] = x.y, w.h[0][2] = x.z, w.h[0][3] = x.w, w.h[1][0] = y.x, w.h[1][1] = y.y, w.h[1][2] = y.z, w.h[1][3] = y.w;
        }
      }
      w.forward<true>(t0);
      if (p > 1) prefetch_l1(starts + (p - 2) * kThreads * 2);
      w.backward(t0);
      __syncthreads();
      {
        const int t = thread / kV;
        const float dy = __bfloat162float(sm.rows.dy[place<kV>(t0 + t, column)]), v = __bfloat162float(sm.rows.v[place<kV>(t0 + t, column)]);
        const float dv = (w.results(0).dv[t][column] + w.results(1).dv[t][column]) + (w.results(2).dv[t][column] + w.results(3).dv[t][column]);
        if (t < count) static_cast<bf16*>(a.dv)[((first + t0 + t) * a.heads + head) * kV + column] = __float2bfloat16(dv + D * dy);
        dD += dy * v;  // zeros past the end
      }
      if (thread < kPiece && thread < count) a.df[(first + t0 + thread) * a.heads + head] = (w.results(0).df[thread] + w.results(1).df[thread]) + (w.results(2).df[thread] + w.results(3).df[thread]);
      if (const int t = thread >> 3 & 7, unit = thread & 7; t < count) {  // 16 bytes a thread: of dq, then of dk
        bf16* to = (thread < 64 ? parts.dq : parts.dk) + ((first + t0 + t) * a.heads + head) * kK + unit * 8;
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(&w.results(unit >> 1).d[thread >> 6][t][(unit & 1) * 8]);
      }
      __syncthreads();
    }
  }
  if (a.d_initial_state) write_state(w.G, a.d_initial_state + state);
  // dW: rows are columns of h; the four warps' sums in order. dD: eight threads a column.
  __syncthreads();
  float* sums = reinterpret_cast<float*>(sm.h);
  {
    const int m = w.lane >> 2;
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[w.warp * 256 + (m + (e >> 1) * 8) * kV + n * 8 + w.r * 2 + (e & 1)] = w.dW[n][e];
  }
  float* columns = reinterpret_cast<float*>(sm.c);
  columns[thread] = dD;
  __syncthreads();
  for (int i = thread; i < 256; i += kThreads) parts.dW[row * 256 + i] = (sums[i] + sums[256 + i]) + (sums[512 + i] + sums[768 + i]);
  if (thread < kV) {
    float s = 0;
    for (int i = 0; i < kThreads / kV; ++i) s += columns[i * kV + thread];
    parts.dD[row * kV + thread] = s;
  }
}

__global__ void __launch_bounds__(256) sum_heads_kernel(const bf16* dq, const bf16* dk, bf16* out_q, bf16* out_k, int64_t count, int heads) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;  // a pair of columns
  if (i >= count) return;
  const int64_t t = i / (kK / 2), col = i % (kK / 2) * 2;
  float2 q = {0, 0}, k = {0, 0};
#pragma unroll 4
  for (int h = 0; h < heads; ++h) {
    const int64_t at = (t * heads + h) * kK + col;
    const float2 x = unpack_bf16(*reinterpret_cast<const uint32_t*>(dq + at)), y = unpack_bf16(*reinterpret_cast<const uint32_t*>(dk + at));
    q.x += x.x, q.y += x.y, k.x += y.x, k.y += y.y;
  }
  *reinterpret_cast<uint32_t*>(out_q + t * kK + col) = pack_bf16(q.x, q.y);
  *reinterpret_cast<uint32_t*>(out_k + t * kK + col) = pack_bf16(k.x, k.y);
}
__global__ void __launch_bounds__(256) sum_documents_kernel(const float* parts, float* out, int64_t size, int64_t documents) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= size) return;
  float s = 0;
  for (int64_t d = 0; d < documents; ++d) s += parts[d * size + i];
  out[i] += s;
}

Parts cut(const M2rnnBwd& a, void* base) {
  bf16* p = static_cast<bf16*>(base);
  const int64_t n = a.tokens * a.heads * kK;
  float* f = reinterpret_cast<float*>(p + 2 * n);
  return {p, p + n, f, f + a.documents * a.heads * 256, reinterpret_cast<float4*>(f + a.documents * a.heads * (256 + kV))};
}

}  // namespace
}  // namespace m2rnn

Support supports_m2rnn_bwd_sm90(const M2rnnBwd& a, const Device& device) {
  if (a.states == nullptr) return {"the forward's states were not saved"};
  if (reinterpret_cast<uintptr_t>(a.dy) % 16 != 0) return {"dy is not 16-byte aligned"};
  return {m2rnn::refusal(a, device)};
}

size_t workspace_m2rnn_bwd_sm90(const M2rnnBwd& a) {
  return static_cast<size_t>(a.tokens) * a.heads * m2rnn::kK * 4 + static_cast<size_t>(a.documents) * a.heads * (256 + m2rnn::kV + m2rnn::kStarts * m2rnn::kK * m2rnn::kV) * 4;
}

void m2rnn_bwd_sm90(const M2rnnBwd& a, const Launch& l) {
  if (a.documents == 0) return;
  const m2rnn::Parts p = m2rnn::cut(a, l.workspace);
  launch_grid(m2rnn::bwd_kernel, dim3(static_cast<unsigned>(a.documents * a.heads)), dim3(m2rnn::kThreads), sizeof(m2rnn::Smem), l.stream, a, p);
  const int64_t pairs = a.tokens * (m2rnn::kK / 2), w = a.heads * 256, d = a.heads * m2rnn::kV;
  launch_grid(m2rnn::sum_heads_kernel, dim3(static_cast<unsigned>((pairs + 255) / 256)), dim3(256), 0, l.stream, static_cast<const bf16*>(p.dq), static_cast<const bf16*>(p.dk), static_cast<bf16*>(a.dq),
              static_cast<bf16*>(a.dk), pairs, a.heads);
  launch_grid(m2rnn::sum_documents_kernel, dim3(static_cast<unsigned>((w + 255) / 256)), dim3(256), 0, l.stream, static_cast<const float*>(p.dW), a.dW, w, a.documents);
  if (a.dD) launch_grid(m2rnn::sum_documents_kernel, dim3(static_cast<unsigned>((d + 255) / 256)), dim3(256), 0, l.stream, static_cast<const float*>(p.dD), a.dD, d, a.documents);
}

}  // namespace weft::kernels
