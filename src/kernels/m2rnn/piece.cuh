// M2RNN backward, eight steps of a walk from a document's last token to its first: Z_t = (1 - f_t) G_t (1 - c_t^2),
//   G_t = q_t dy_t^T + f_{t+1} G_{t+1} + Z_{t+1} W^T    dW += h_{t-1}^T Z_t    dk = Z v    dv = Z^T k + D dy    df = <G, h_{t-1} - c>
//   dq = h_t dy    dD = sum dy v
// Products with a step's q, k, v, dy take one slot of eight. The warps of a block share k, v and f of a chunk; q and dy each warp fetches itself, a
// piece ahead. Their sums dv and df meet in shared memory and are added a piece later, so that nobody waits there.
#pragma once
#include "kernels/m2rnn/tiles.cuh"

namespace weft::kernels::m2rnn {

constexpr int kPiece = 8, kStarts = kChunk / kPiece - 1, kWarps = kThreads / 32;
constexpr int kMostBlocks = 1024, kHanded = 17;
constexpr int kSumPitch = kV + 4;  // a warp's stores meet no bank twice

struct Inputs {  // of a warp and piece: its 16 columns of q, and dy
  bf16 q[kPiece * kV], dy[kPiece * kV];
};
struct Sums {  // of a piece, by warp
  float dv[kWarps][kPiece * kSumPitch], df[kWarps][kPiece][8];
};
struct Smem {
  Rows<kChunk, false> rows[2];      // of every second chunk
  Inputs inputs[kWarps][2];         // of every second piece
  bf16 h[kPiece][kWarps][16 * 16];  // before each step: the 8 x 8 tiles of the first operand's words, each transposed
  uint4 c[kWarps][kPiece][32];      // of the step. Once read: of the last two steps, h before the next piece; of the first, dq and dk
  uint4 W[2][2][32];                // and transposed
  Sums sums[2];                     // of every second piece
  float D[kV], dD[kThreads];
  uint64_t summed;                  // a phase a piece: its sums are there
};

struct Parts {
  bf16* d;         // [T, H, 2, 64]: dq and dk
  float *dW, *dD;  // [documents, H, 16, 16], [documents, H, 16]
  float4* starts;  // [blocks, kStarts, kThreads, 2]: h before the pieces but the last, of the chunk at hand
  float* handed;   // [blocks, kHanded, kThreads]: what a block takes over: G, dW, dD
  int* flags;      // [blocks]: whether it is there
};

// Two values a word: a - b, and v^2 - 1.
__device__ __forceinline__ uint32_t minus(uint32_t a, uint32_t b) {
#if defined(WEFT_EMULATE)
  const float2 x = unpack_bf16(a), y = unpack_bf16(b);
  return pack_bf16(x.x - y.x, x.y - y.y);
#else
  uint32_t r;
  asm("sub.rn.bf16x2 %0, %1, %2;\n" : "=r"(r) : "r"(a), "r"(b));
  return r;
#endif
}
__device__ __forceinline__ uint32_t square_minus_one(uint32_t v) {
#if defined(WEFT_EMULATE)
  const float2 x = unpack_bf16(v);
  return pack_bf16(x.x * x.x - 1, x.y * x.y - 1);
#else
  uint32_t r;
  asm("fma.rn.bf16x2 %0, %1, %1, %2;\n" : "=r"(r) : "r"(v), "r"(0xbf80bf80u));
  return r;
#endif
}
// The thread's number, fresh in the compiler's eyes: what is reckoned from it is not kept in registers, which are all taken.
__device__ __forceinline__ int fresh_thread() {
  int t = static_cast<int>(threadIdx.x);
#if !defined(WEFT_EMULATE)
  asm volatile("mov.u32 %0, %%tid.x;\n" : "=r"(t));
#endif
  return t;
}
// The same in all lanes, as the compiler may then know: held in a register of the warp.
__device__ __forceinline__ int uniform(int v) { return __shfl_sync(0xffffffffu, v, 0); }
// What the block wrote before is seen by who finds the flag set.
__device__ __forceinline__ void set_flag(int* flag) {
#if defined(WEFT_EMULATE)
  __atomic_store_n(flag, 1, __ATOMIC_RELEASE);
#else
  asm volatile("fence.acq_rel.gpu;\nst.release.gpu.global.s32 [%0], 1;\n" ::"l"(flag) : "memory");
#endif
}
__device__ __forceinline__ void wait_flag(const int* flag) {
#if defined(WEFT_EMULATE)
  while (__atomic_load_n(flag, __ATOMIC_ACQUIRE) == 0) {}
#else
  int set;
  do asm volatile("ld.acquire.gpu.global.s32 %0, [%1];\n" : "=r"(set) : "l"(flag) : "memory");
  while (set == 0);
  asm volatile("fence.acq_rel.gpu;\n" ::: "memory");
#endif
}
// Starts to fetch what is read later.
__device__ __forceinline__ void prefetch_l2(const void* p) {
#if !defined(WEFT_EMULATE)
  asm volatile("prefetch.global.L2 [%0];\n" ::"l"(p));
#endif
}

struct Walk {
  const M2rnnBwd& a;
  const Parts& parts;
  Smem& sm;
  const int warp = warp_id(), lane = lane_id(), q = lane >> 2, r = lane & 3;
  const SmemAddress at_kv = slot_address(sm.rows[0].eight[0].k, sm.rows[0].eight[0].v, warp);
  int head, from, end;  // tokens of the walk
  int rows;             // of the two, those of the chunk at hand
  float h[2][4], G[2][4], dW[2][4];  // G: of the state after the step at hand, from later steps
  uint32_t after[4];                              // h after the step at hand, packed
  int turn = 0;                                    // of two, which the pieces take by turns

  __device__ __forceinline__ Walk(const M2rnnBwd& args, const Parts& p, Smem& smem) : a(args), parts(p), sm(smem) {}

  __device__ __forceinline__ int left(int token) const { return end - token < kPiece ? end - token : kPiece; }  // tokens of a piece
  // The warp's own copy of what only it reads, of the piece that starts at `token` and has `count` tokens, for turn `when`.
  __device__ __forceinline__ int64_t cell(int token) const { return static_cast<int64_t>(token) * a.heads + head; }
  __device__ __forceinline__ void load_inputs(int token, int count, int when) {
    const int thread = fresh_thread(), w = thread >> 5, t = thread >> 1 & 7, col = (thread & 1) * 8;
    const bool of_q = (thread & 16) == 0;
    Inputs& to = sm.inputs[w][when];
    const bf16* base = of_q ? static_cast<const bf16*>(a.q) : static_cast<const bf16*>(a.dy);
    const int stride = of_q ? static_cast<int>(a.q_stride) : a.heads * kV, offset = (of_q ? w * 16 : head * kV) + col;
    cp_async16((of_q ? to.q : to.dy) + place<kV>(t, col), base + (static_cast<int64_t>(token + t) * stride + offset), t < count);
  }
  __device__ __forceinline__ float4* start(int piece) const {  // of this block and thread
    return parts.starts + (static_cast<int64_t>(blockIdx.x) * kStarts + piece) * (kThreads * 2) + fresh_thread() * 2;
  }
  __device__ __forceinline__ void load_start(const float4* from, bool valid) {  // as this thread stored it
    cp_async16(&sm.c[warp][kPiece - 1][lane], from, valid), cp_async16(&sm.c[warp][kPiece - 2][lane], from + 1, valid);
  }
  __device__ __forceinline__ void take_start() {
    cp_async_wait<0>();
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const uint4 v = sm.c[warp][kPiece - 1 - n][lane];
      h[n][0] = __uint_as_float(v.x), h[n][1] = __uint_as_float(v.y), h[n][2] = __uint_as_float(v.z), h[n][3] = __uint_as_float(v.w);
    }
  }

  __device__ __forceinline__ SmemAddress at_rows(int t0) const { return at_kv + rows * static_cast<int>(sizeof(sm.rows[0])) + t0 / kPiece * static_cast<int>(sm.rows[0].kStride); }
  // To the block that goes on with the walk, and from the one that began it.
  __device__ __forceinline__ void hand_over(int to) {
    float* p = parts.handed + static_cast<int64_t>(to) * (kHanded * kThreads) + threadIdx.x;
#pragma unroll
    for (int i = 0; i < 8; ++i) p[i * kThreads] = G[i >> 2][i & 3], p[(8 + i) * kThreads] = dW[i >> 2][i & 3];
    p[16 * kThreads] = sm.dD[threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0) set_flag(parts.flags + to);
  }
  __device__ __forceinline__ void take_over(int mine) {
    if (threadIdx.x == 0) wait_flag(parts.flags + mine);
    __syncthreads();
    const float* p = parts.handed + static_cast<int64_t>(mine) * (kHanded * kThreads) + threadIdx.x;
#pragma unroll
    for (int i = 0; i < 8; ++i) G[i >> 2][i & 3] = p[i * kThreads], dW[i >> 2][i & 3] = p[(8 + i) * kThreads];
    sm.dD[threadIdx.x] = p[16 * kThreads];
  }

  // Eight steps from t0; with kKeep, h before each and after the last, and c, stay.
  template <bool kKeep>
  __device__ __forceinline__ void forward(int t0) {
    const RoundedB W(sm.W[0]);
    uint32_t kv[4], words[4];
    load_slots(kv, at_rows(t0));
#pragma unroll
    for (int i = 0; i < kPiece / 2; ++i) {
      const Pair pair(i);
#pragma unroll
      for (int second = 0; second < 2; ++second) {
        const int s = i * 2 + second;
        float c[2][4];
        if constexpr (kKeep) pack(words, h), stmatrix_x4_trans(sm.h[s][warp] + lane * 8, words[0], words[1], words[2], words[3]);
        step(h, c, W, kv, pair, second, sm.rows[rows].f[t0 + s]);
        if constexpr (kKeep) pack(words, c), sm.c[warp][s][lane] = {words[0], words[1], words[2], words[3]};
      }
    }
    if constexpr (kKeep) pack(after, h), __syncwarp();
  }

  // Back through the piece at t0 of the chunk that starts at `first`; asks for the next piece's inputs and start, for which c is free after two steps.
  template <class LoadNext>
  __device__ __forceinline__ void backward(int first, int t0, const LoadNext& load_next) {
    const RoundedB WT(sm.W[1]);
        const Inputs& in = sm.inputs[warp][turn];
    const SmemAddress at_qdy = smem_address((lane < 16 ? in.q : in.dy) + place<kV>(lane & 7, (lane >> 3 & 1) * 8));
    uint32_t qdy[4], kv[4], qdy_columns[4];
    load_slots(qdy, at_qdy), load_columns(kv, at_rows(t0)), load_columns(qdy_columns, at_qdy);
    {
      const int thread = fresh_thread(), at = place<kV>(thread / kV, thread % kV);
      sm.dD[thread] += __bfloat162float(in.dy[at]) * __bfloat162float(sm.rows[rows].eight[t0 / kPiece].v[at]);  // zeros past the end
    }
    float dq[4] = {}, dk[4] = {}, dv[4] = {};
    Sums& sums = sm.sums[turn];
    const auto add_inputs = [&](const Pair& pair, int second) {  // q dy^T of a step
      const uint32_t q0 = pair.only(qdy[0], second), q1 = pair.only(qdy[1], second);
#pragma unroll
      for (int n = 0; n < 2; ++n) mma_bf16_k8(G[n], q0, q1, qdy[2 + n]);
    };
    const auto add_dq = [&](const uint32_t (&state)[4], const Pair& pair, int second) {  // h dy of the step that left h
      float all[4] = {};
      mma_bf16(all, state, qdy_columns[2], qdy_columns[3]);
      pair.keep(dq, all, second);
    };
    // Back through a step; what comes in at the step before it is in G then.
    const auto step_back = [&](int s, const Pair& pair, int second, const Pair& earlier) {
      uint32_t before[4], change[4], g[4], zw[4], transposed[4];
      const bf16* at = sm.h[s][warp] + lane * 8;
      ldmatrix_x4_trans(before, smem_address(at));
      const uint4 cw = sm.c[warp][s][lane];
      const uint32_t c[4] = {cw.x, cw.y, cw.z, cw.w};
      const float f = sm.rows[rows].f[t0 + s], less = f - 1;
      // <G, h_{t-1} - c>: the diagonal of their product, of rows 0 to 7 and of 8 to 15. A lane of its own has one of each two columns.
      float upper[4] = {}, lower[4] = {}, Z[2][4], all[4];
      pack(g, G);
#pragma unroll
      for (int i = 0; i < 4; ++i) change[i] = minus(before[i], c[i]);
      mma_bf16(upper, g, change[0], change[2]);
      mma_bf16(lower, g, change[1], change[3]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 slope = unpack_bf16(square_minus_one(c[i]));
        const int n = i >> 1, e = (i & 1) * 2;
        Z[n][e] = less * G[n][e] * slope.x, Z[n][e + 1] = less * G[n][e + 1] * slope.y;
        G[n][e] *= f, G[n][e + 1] *= f;
      }
      add_inputs(earlier, second ^ 1);  // ahead of Z, which takes longer
      add_product(G, Z, WT);
      ldmatrix_x4(transposed, smem_address(at));
      pack(zw, Z);
      add_dq(before, earlier, second ^ 1);
      if (q >> 1 == r) sums.df[warp][s][q] = q & 1 ? upper[1] + lower[3] : upper[0] + lower[2];
      const uint32_t zt[4] = {transpose_8x8(zw[0]), transpose_8x8(zw[2]), transpose_8x8(zw[1]), transpose_8x8(zw[3])};
#pragma unroll
      for (int e = 0; e < 4; ++e) all[e] = 0;
      mma_bf16(all, zw, kv[2], kv[3]);
      pair.keep(dk, all, second);
#pragma unroll
      for (int e = 0; e < 4; ++e) all[e] = 0;
      mma_bf16(all, zt, kv[0], kv[1]);
      pair.keep(dv, all, second);
      mma_bf16(dW[0], zt, transposed[0], transposed[1]);
      mma_bf16(dW[1], zt, transposed[2], transposed[3]);
    };
    const auto two_back = [&](int i) {
      const Pair pair(i), earlier(i - 1);  // before the first step there is none: all masked
      step_back(2 * i + 1, pair, 1, pair), step_back(2 * i, pair, 0, earlier);
    };
    constexpr int kLast = kPiece / 2 - 1;
    const Pair last(kLast);
    add_inputs(last, 1), add_dq(after, last, 1);
    two_back(kLast);
    load_next();
#pragma unroll 1
    for (int i = kLast - 1; i >= 0; --i) two_back(i);
    __syncwarp();  // c of the first step has been read
    bf16* d = reinterpret_cast<bf16*>(sm.c[warp][0]);  // dq [8, 16], then dk
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int t = 2 * r + (e & 1), at = q + (e >> 1) * 8;
      d[t * 16 + at] = __float2bfloat16(dq[e]), d[(kPiece + t) * 16 + at] = __float2bfloat16(dk[e]), sums.dv[warp][t * kSumPitch + at] = dv[e];
    }
    __syncwarp();
    barrier_arrive(&sm.summed);
    const int token = first + t0;
    if (const int thread = fresh_thread(), t = thread >> 1 & 7; t < left(token))  // 16 bytes a lane
      *reinterpret_cast<uint4*>(parts.d + cell(token) * (2 * kK) + t * a.heads * (2 * kK) + (thread >> 4 & 1) * kK + (thread >> 5) * 16 + (thread & 1) * 8) = *reinterpret_cast<const uint4*>(d + lane * 8);
    __syncwarp();
  }

  // dv and df of the piece at `token`, of turn `before`. All warps have read what that turn used, then.
  __device__ __forceinline__ void add_warps(int token, int before) {
    const int thread = fresh_thread(), t = thread / kV, column = thread % kV, count = left(token);
    barrier_wait(&sm.summed, before);
    const Sums& s = sm.sums[before];
    const int at = t * kSumPitch + column;
    const float dv = (s.dv[0][at] + s.dv[1][at]) + (s.dv[2][at] + s.dv[3][at]), dy = __bfloat162float(sm.inputs[thread / 32][before].dy[place<kV>(t, column)]);
    if (t < count) (static_cast<bf16*>(a.dv) + cell(token) * kV)[t * a.heads * kV + column] = __float2bfloat16(dv + sm.D[column] * dy);
    if (thread < 64) {
      const int step = thread >> 3, i = thread & 7;
      float df = (s.df[0][step][i] + s.df[1][step][i]) + (s.df[2][step][i] + s.df[3][step][i]);
      df = warp_sum<8>(df);
      if (i == 0 && step < count) (a.df + cell(token))[step * a.heads] = df;
    }
    __syncwarp();  // the inputs have been read
  }
};

}  // namespace weft::kernels::m2rnn
