// M2RNN backward: per chunk of 64 steps, forward once from the saved state to the starts of its four pieces, then piece by piece from the
// last: forward again keeping h_{t-1} and c_t (bf16), and back, Z_t = (1 - f_t) G_t (1 - c_t^2):
//   G_t = q_t dy_t^T + f_{t+1} G_{t+1} + Z_{t+1} W^T    dW += h_{t-1}^T Z_t    dk = Z v    dv = Z^T k + D dy    df = <G, h_{t-1} - c>
//   dq = h_t dy    dD = sum dy v
// dq and dk of each head go to bf16 parts [T, H, 64] and are summed over heads by a second kernel, dW and dD over documents by a third.
// Deterministic. Bound by issue: about 450 instructions a warp and step.
#include "kernels/m2rnn/tiles.cuh"

namespace weft::kernels {
namespace m2rnn {
namespace {

constexpr int kPiece = 16;

struct Smem {
  Rows<kChunk, true> rows;
  uint4 h[kPiece][kThreads], c[kPiece][kThreads];  // each thread's own elements, bf16: h before the step, c of the step
  float start[3][kK * kV];                         // h before pieces 1, 2, 3
  float dv[kPiece][4][kV], df[kPiece][4];
  bf16 dq[kPiece][kK], dk[kPiece][kK];
};

__device__ __forceinline__ void unpack(float (&v)[2][4], const uint4& p) {
  const uint32_t w[4] = {p.x, p.y, p.z, p.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 f = unpack_bf16(w[i]);
    v[i >> 1][(i & 1) * 2] = f.x, v[i >> 1][(i & 1) * 2 + 1] = f.y;
  }
}

struct Parts {
  bf16 *dq, *dk;   // [T, H, 64]
  float *dW, *dD;  // [documents, H, 16, 16], [documents, H, 16]
};

__global__ void __launch_bounds__(kThreads, 2) bwd_kernel(const M2rnnBwd a, const Parts parts) {
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<Smem*>(raw);
  const int head = static_cast<int>(blockIdx.x % a.heads), warp = warp_id(), lane = lane_id(), r = lane & 3, row = warp * 16 + (lane >> 2);
  const int64_t document = blockIdx.x / a.heads, start = a.cu_seqlens[document], length = a.cu_seqlens[document + 1] - start, state = (document * a.heads + head) * (kK * kV);
  const int chunks = static_cast<int>((length + kChunk - 1) / kChunk);
  const RoundedB W(a.W + head * kV * kV, false), WT(a.W + head * kV * kV, true);
  float G[2][4], dW[2][4] = {}, dD = 0;  // G: of the state after the step at hand, from later steps
  read_state(G, a.d_final_state ? a.d_final_state + state : nullptr);
  for (int c = chunks - 1; c >= 0; --c) {
    const int64_t first = start + static_cast<int64_t>(c) * kChunk;
    const int n = static_cast<int>(length - static_cast<int64_t>(c) * kChunk < kChunk ? length - static_cast<int64_t>(c) * kChunk : kChunk);
    __syncthreads();
    load_rows(sm.rows, a, a.dy, first, n, head);
    const float* saved = a.states + ((start / kChunk + document + c) * a.heads + head) * (kK * kV);
    float h[2][4], cc[2][4];
    read_state(h, saved);
    cp_async_wait<0>();
    __syncthreads();
    const auto& rows = sm.rows;
    auto forward = [&](int t) {
      float v[2][2];
      four(v, rows.v + t * kPitchV);
      const float k0 = __bfloat162float(rows.k[t * kPitch + row]), k1 = __bfloat162float(rows.k[t * kPitch + row + 8]);
      for (int n = 0; n < 2; ++n) cc[n][0] = k0 * v[n][0], cc[n][1] = k0 * v[n][1], cc[n][2] = k1 * v[n][0], cc[n][3] = k1 * v[n][1];
      step(h, cc, W, rows.f[t]);
    };
    const int pieces = (n + kPiece - 1) / kPiece;
    for (int t = 0; t < (pieces - 1) * kPiece; ++t) {
      forward(t);
      if ((t + 1) % kPiece == 0) write_state(h, sm.start[t / kPiece]);
    }
    for (int p = pieces - 1; p >= 0; --p) {
      const int t0 = p * kPiece, count = n - t0 < kPiece ? n - t0 : kPiece;
      read_state(h, p == 0 ? saved : sm.start[p - 1]);  // written by this thread
      for (int t = 0; t < count; ++t) {
        sm.h[t][threadIdx.x] = pack(h);
        forward(t0 + t);
        sm.c[t][threadIdx.x] = pack(cc);
      }
      for (int t = count - 1; t >= 0; --t) {
        const int at = t0 + t;
        float before[2][4], v[2][2], dy[2][2], Z[2][4];
        unpack(before, sm.h[t][threadIdx.x]), unpack(cc, sm.c[t][threadIdx.x]);
        four(v, rows.v + at * kPitchV), four(dy, rows.dy + at * kPitchV);
        const float f = rows.f[at], q0 = __bfloat162float(rows.q[at * kPitch + row]), q1 = __bfloat162float(rows.q[at * kPitch + row + 8]);
        const float k0 = __bfloat162float(rows.k[at * kPitch + row]), k1 = __bfloat162float(rows.k[at * kPitch + row + 8]);
        float df = 0, dq0 = 0, dq1 = 0, dk0 = 0, dk1 = 0;
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float y = dy[i][e & 1];
            G[i][e] += (e < 2 ? q0 : q1) * y;
            const float after = f * before[i][e] + (1 - f) * cc[i][e];
            (e < 2 ? dq0 : dq1) += after * y;
            df += G[i][e] * (before[i][e] - cc[i][e]);
            Z[i][e] = (1 - f) * G[i][e] * (1 - cc[i][e] * cc[i][e]);
            (e < 2 ? dk0 : dk1) += Z[i][e] * v[i][e & 1];
            G[i][e] *= f;
          }
        add_product(G, Z, WT);
        {  // dW += h^T Z over the warp's 16 rows: both as their transposes
          uint32_t ht[4];
          const uint4 zb = pack(Z);
          const uint32_t zt[4] = {transpose_8x8(zb.x), transpose_8x8(zb.y), transpose_8x8(zb.z), transpose_8x8(zb.w)};
          const uint4 hb = sm.h[t][threadIdx.x];
          ht[0] = transpose_8x8(hb.x), ht[2] = transpose_8x8(hb.y), ht[1] = transpose_8x8(hb.z), ht[3] = transpose_8x8(hb.w);
          mma_bf16(dW[0], ht, zt[0], zt[1]);
          mma_bf16(dW[1], ht, zt[2], zt[3]);
        }
        dq0 = warp_sum<4>(dq0), dq1 = warp_sum<4>(dq1), dk0 = warp_sum<4>(dk0), dk1 = warp_sum<4>(dk1), df = warp_sum(df);
        if (r == 0) {
          sm.dq[t][row] = __float2bfloat16(dq0), sm.dq[t][row + 8] = __float2bfloat16(dq1);
          sm.dk[t][row] = __float2bfloat16(dk0), sm.dk[t][row + 8] = __float2bfloat16(dk1);
        }
        const float dv = column_sums(k0 * Z[0][0] + k1 * Z[0][2], k0 * Z[0][1] + k1 * Z[0][3], k0 * Z[1][0] + k1 * Z[1][2], k0 * Z[1][1] + k1 * Z[1][3]);
        if (lane < 16) sm.dv[t][warp][column_of_lane()] = dv;
        if (lane == 0) sm.df[t][warp] = df;
      }
      __syncthreads();
      for (int i = threadIdx.x; i < count * kV; i += kThreads) {  // a thread always meets the same column
        const int t = i / kV, j = i % kV;
        const float dy = __bfloat162float(rows.dy[(t0 + t) * kPitchV + j]), v = __bfloat162float(rows.v[(t0 + t) * kPitchV + j]);
        float dv = (sm.dv[t][0][j] + sm.dv[t][1][j]) + (sm.dv[t][2][j] + sm.dv[t][3][j]);
        if (a.D) dv += a.D[head * kV + j] * dy, dD += dy * v;
        static_cast<bf16*>(a.dv)[((first + t0 + t) * a.heads + head) * kV + j] = __float2bfloat16(dv);
      }
      for (int i = threadIdx.x; i < count; i += kThreads) a.df[(first + t0 + i) * a.heads + head] = (sm.df[i][0] + sm.df[i][1]) + (sm.df[i][2] + sm.df[i][3]);
      for (int i = threadIdx.x; i < count * 8; i += kThreads) {
        const int t = i >> 3, u = (i & 7) * 8;
        const int64_t to = ((first + t0 + t) * a.heads + head) * kK + u;
        *reinterpret_cast<uint4*>(parts.dq + to) = *reinterpret_cast<const uint4*>(&sm.dq[t][u]);
        *reinterpret_cast<uint4*>(parts.dk + to) = *reinterpret_cast<const uint4*>(&sm.dk[t][u]);
      }
      __syncthreads();
    }
  }
  if (a.d_initial_state) write_state(G, a.d_initial_state + state);
  // dW: rows are columns of h; the four warps' sums in order. dD: eight threads a column.
  __syncthreads();
  float* sums = sm.start[0];
  {
    const int m = lane >> 2;
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[warp * 256 + (m + (e >> 1) * 8) * kV + n * 8 + r * 2 + (e & 1)] = dW[n][e];
  }
  float* column = sm.start[1];
  column[threadIdx.x] = dD;
  __syncthreads();
  for (int i = threadIdx.x; i < 256; i += kThreads) parts.dW[(document * a.heads + head) * 256 + i] = (sums[i] + sums[256 + i]) + (sums[512 + i] + sums[768 + i]);
  if (threadIdx.x < kV) {
    float s = 0;
    for (int i = 0; i < kThreads / kV; ++i) s += column[i * kV + threadIdx.x];
    parts.dD[(document * a.heads + head) * kV + threadIdx.x] = s;
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
  return {p, p + n, f, f + a.documents * a.heads * 256};
}

}  // namespace
}  // namespace m2rnn

Support supports_m2rnn_bwd_sm90(const M2rnnBwd& a, const Device& device) {
  if (a.states == nullptr) return {"the forward's states were not saved"};
  if (reinterpret_cast<uintptr_t>(a.dy) % 16 != 0) return {"dy is not 16-byte aligned"};
  return {m2rnn::refusal(a, device)};
}

size_t workspace_m2rnn_bwd_sm90(const M2rnnBwd& a) {
  return static_cast<size_t>(a.tokens) * a.heads * m2rnn::kK * 4 + static_cast<size_t>(a.documents) * a.heads * (256 + m2rnn::kV) * 4;
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
