// M2RNN backward: per chunk of 64 steps, forward once from the saved state to the starts of its pieces of eight, then piece by piece from the
// last: forward again keeping h_{t-1} and c_t (bf16), and back (piece.cuh). A block takes its share of all documents' walks and writes what
// does not go over heads; dq and dk of each head go to bf16 parts [T, H, 2, 64] and are summed over heads by a second kernel, dW and dD over
// documents by a third. Deterministic.
// Floor at b8 s4096 H51: 408 walks are 66 chunks for each of 396 blocks of four warps, three on a processor (168 registers, 69 KB), so three
// warps a scheduler; a step takes 15 tanh a lane (120 clocks of the special function unit) and about 205 instructions a warp: 4,224 steps of
// 615 clocks, 1.4 ms.
#include "kernels/common/device.cuh"
#include "kernels/m2rnn/piece.cuh"

namespace weft::kernels {
namespace m2rnn {
namespace {

// Back through tokens [w.from, w.end) of a document, whole chunks from its start but for the last.
__device__ __forceinline__ void walk_back(Walk& w, int start, int document) {
  const M2rnnBwd& a = w.a;
  Smem& sm = w.sm;
  const int thread = static_cast<int>(threadIdx.x), last = (w.end - start - 1) / kChunk, earliest = (w.from - start) / kChunk;
  const auto tokens_of = [&](int c) { return w.end - (start + c * kChunk) < kChunk ? w.end - (start + c * kChunk) : kChunk; };
  const int pieces_of_last = (tokens_of(last) + kPiece - 1) / kPiece, flip = pieces_of_last - 1 + w.turn;  // makes the turn of the first piece w.turn
  load_rows(sm.rows[last & 1], a, start + last * kChunk, tokens_of(last), w.head);
  w.load_inputs(start + last * kChunk + (pieces_of_last - 1) * kPiece, tokens_of(last) - (pieces_of_last - 1) * kPiece, w.turn), cp_async_commit();
  for (int c = last; c >= earliest; --c) {
    const int first = start + c * kChunk, pieces = (tokens_of(c) + kPiece - 1) / kPiece;
    const float* saved = a.states + (static_cast<int64_t>(start / kChunk + document + c) * a.heads + w.head) * (kK * kV);
    read_state(w.h, saved);
    cp_async_wait<0>();
    __syncthreads();  // the rows are there, those of the chunk before have been read
    w.rows = c & 1;
    if (c > earliest) {
      load_rows(sm.rows[w.rows ^ 1], a, first - kChunk, kChunk, w.head);
      if (thread < 32) prefetch_l2(saved - a.heads * (kK * kV) + thread * 32);
    }
    for (int p = 0; p + 1 < pieces; ++p) {
      float4* to = w.start(p);
      to[0] = {w.h[0][0], w.h[0][1], w.h[0][2], w.h[0][3]}, to[1] = {w.h[1][0], w.h[1][1], w.h[1][2], w.h[1][3]};
      w.template forward<false>(p * kPiece);
    }
    for (int p = pieces - 1; p >= 0; --p) {
      const int t0 = p * kPiece;
      w.turn = (p + flip) & 1;
      w.template forward<true>(t0);
      if (first + t0 + kPiece < w.end) w.add_warps(first + t0 + kPiece, w.turn ^ 1);
      w.backward(first, t0, [&] {
        w.load_inputs(first + t0 - kPiece, p == 0 && c == earliest ? 0 : kPiece, w.turn ^ 1);  // no branches: the steps stay one block of instructions
        w.load_start(w.start(p - 1), p > 0);
        cp_async_commit();
      });
      w.take_start();  // of a chunk's first piece, nothing
    }
  }
  w.add_warps(w.from, w.turn);
  w.turn ^= 1;
}

// The walks of all documents and heads, one behind the other in units of chunks, are cut into as many equal parts as there are blocks at once on the
// device: with 408 walks on 396 places all would else wait for the 12 that come last. No part is shorter than the longest walk, so that a walk
// lies in two parts at most. The part that has its later tokens begins with them and hands the gradient over; the part that has the earlier ones
// ends with them, and was given a higher block number: what a block waits for has begun before it.
__global__ void __launch_bounds__(kThreads, 3) bwd_kernel(const M2rnnBwd a, const Parts parts) {
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<Smem*>(raw);
  const int thread = static_cast<int>(threadIdx.x), part = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  if (thread == 0) barrier_init(&sm.summed, kThreads);
  const auto chunks_of = [&](int d) { return (a.cu_seqlens[d + 1] - a.cu_seqlens[d] + kChunk - 1) / kChunk; };
  const auto units_of = [&](int d) { const int c = chunks_of(d); return c > 0 ? c : 1; };
  int64_t total = 0, size = 0;
  for (int d = 0; d < a.documents; ++d) {
    const int units = units_of(d);
    total += units, size = size < units ? units : size;
  }
  total *= a.heads;
  const int64_t even = (total + gridDim.x - 1) / gridDim.x;
  size = size < even ? even : size;
  const int64_t begin = part * size, stop = begin + size < total ? begin + size : total;
  Walk w(a, parts, sm);
  int64_t at = 0;  // of a document's first walk
  for (int document = 0; document < a.documents && at < stop; ++document) {
    const int units = units_of(document);
    const int64_t next = at + static_cast<int64_t>(units) * a.heads;
    for (int head = begin > at ? static_cast<int>((begin - at) / units) : 0; head < a.heads && at + static_cast<int64_t>(head) * units < stop; ++head) {
      const int64_t place = at + static_cast<int64_t>(head) * units, row = static_cast<int64_t>(document) * a.heads + head, state = row * (kK * kV);
      const int low = begin > place ? static_cast<int>(begin - place) : 0, high = stop - place < units ? static_cast<int>(stop - place) : units;
      const int start = uniform(a.cu_seqlens[document]), end = uniform(a.cu_seqlens[document + 1]);
      __syncthreads();  // the walk before has been written
      if (thread < kV) sm.D[thread] = a.D ? a.D[head * kV + thread] : 0.f;
      if (thread < 64) RoundedB(a.W + head * kV * kV, thread >= 32).store(sm.W[thread / 32]);
      if (high < units) {
        w.take_over(part);
      } else {
        read_state(w.G, a.d_final_state ? a.d_final_state + state : nullptr);
        sm.dD[thread] = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) w.dW[i >> 2][i & 3] = 0;
      }
      w.head = uniform(head), w.from = start + low * kChunk, w.end = start + high * kChunk < end ? start + high * kChunk : end;
      if (w.end > w.from) walk_back(w, start, document);
      if (low > 0) {
        w.hand_over(part - 1);
        continue;
      }
      if (a.d_initial_state) write_state(w.G, a.d_initial_state + state);
      // dW, of which a warp has the transpose; the four warps' sums in order. dD: eight threads a column.
      __syncthreads();
      float* sums = reinterpret_cast<float*>(sm.h);
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[w.warp * 256 + (n * 8 + w.r * 2 + (e & 1)) * kV + w.q + (e >> 1) * 8] = w.dW[n][e];
      __syncthreads();
      for (int i = thread; i < 256; i += kThreads) parts.dW[row * 256 + i] = (sums[i] + sums[256 + i]) + (sums[512 + i] + sums[768 + i]);
      if (thread < kV) {
        float s = 0;
        for (int i = 0; i < kThreads / kV; ++i) s += sm.dD[i * kV + thread];
        parts.dD[row * kV + thread] = s;
      }
    }
    at = next;
  }
}
__global__ void __launch_bounds__(256) clear_kernel(int* flags, int count) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += 256) flags[i] = 0;
}

__global__ void __launch_bounds__(256) sum_heads_kernel(const bf16* d, bf16* out_q, bf16* out_k, int64_t count, int heads) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;  // a pair of columns
  if (i >= count) return;
  const int64_t t = i / (kK / 2), col = i % (kK / 2) * 2;
  float2 q = {0, 0}, k = {0, 0};
#pragma unroll 4
  for (int h = 0; h < heads; ++h) {
    const bf16* at = d + (t * heads + h) * (2 * kK) + col;
    const float2 x = unpack_bf16(*reinterpret_cast<const uint32_t*>(at)), y = unpack_bf16(*reinterpret_cast<const uint32_t*>(at + kK));
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

int64_t most_blocks(const M2rnnBwd& a) { return a.documents * a.heads < kMostBlocks ? a.documents * a.heads : kMostBlocks; }

Parts cut(const M2rnnBwd& a, void* base) {
  const int64_t blocks = most_blocks(a);
  float4* starts = static_cast<float4*>(base);
  bf16* d = reinterpret_cast<bf16*>(starts + blocks * (kStarts * kThreads * 2));
  float* dW = reinterpret_cast<float*>(d + a.tokens * a.heads * (2 * kK));
  float *dD = dW + a.documents * a.heads * 256, *handed = dD + a.documents * a.heads * kV;
  return {d, dW, dD, starts, handed, reinterpret_cast<int*>(handed + blocks * (kHanded * kThreads))};
}

}  // namespace
}  // namespace m2rnn

Support supports_m2rnn_bwd_sm90(const M2rnnBwd& a, const Device& device) {
  if (a.states == nullptr) return {"the forward's states were not saved"};
  if (reinterpret_cast<uintptr_t>(a.dy) % 16 != 0) return {"dy is not 16-byte aligned"};
  return {m2rnn::refusal(a, device)};
}

size_t workspace_m2rnn_bwd_sm90(const M2rnnBwd& a) {
  using namespace m2rnn;
  return static_cast<size_t>(a.tokens * a.heads) * kK * 4 + static_cast<size_t>(a.documents * a.heads) * (256 + kV) * 4 + static_cast<size_t>(most_blocks(a)) * (kStarts * kThreads * 32 + kHanded * kThreads * 4 + 4);
}

void m2rnn_bwd_sm90(const M2rnnBwd& a, const Launch& l) {
  if (a.documents == 0) return;
  const m2rnn::Parts p = m2rnn::cut(a, l.workspace);
#if !defined(WEFT_EMULATE)  // else the first call would be told that not one block fits
  if (const cudaError_t e = cudaFuncSetAttribute(m2rnn::bwd_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(m2rnn::Smem)); e != cudaSuccess) throw_cuda("m2rnn_bwd", e);
#endif
  const int blocks = persistent_grid(m2rnn::bwd_kernel, m2rnn::kThreads, sizeof(m2rnn::Smem), m2rnn::most_blocks(a));
  launch_grid(m2rnn::clear_kernel, dim3(1), dim3(256), 0, l.stream, p.flags, blocks);
  launch_grid(m2rnn::bwd_kernel, dim3(static_cast<unsigned>(blocks)), dim3(m2rnn::kThreads), sizeof(m2rnn::Smem), l.stream, a, p);
  const int64_t pairs = a.tokens * (m2rnn::kK / 2), w = a.heads * 256, d = a.heads * m2rnn::kV;
  launch_grid(m2rnn::sum_heads_kernel, dim3(static_cast<unsigned>((pairs + 255) / 256)), dim3(256), 0, l.stream, static_cast<const bf16*>(p.d), static_cast<bf16*>(a.dq),
              static_cast<bf16*>(a.dk), pairs, a.heads);
  launch_grid(m2rnn::sum_documents_kernel, dim3(static_cast<unsigned>((w + 255) / 256)), dim3(256), 0, l.stream, static_cast<const float*>(p.dW), a.dW, w, a.documents);
  if (a.dD) launch_grid(m2rnn::sum_documents_kernel, dim3(static_cast<unsigned>((d + 255) / 256)), dim3(256), 0, l.stream, static_cast<const float*>(p.dD), a.dD, d, a.documents);
}

}  // namespace weft::kernels
