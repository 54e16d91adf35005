// Mamba-3 backward, the walk: the operands of every chunk of 64 / R steps and the states between chunks, both directions in one kernel. Forwards
// it makes k = Rot(B + bias), v = x mimo_x and walks S, before each chunk (at rank 1 the forward's saved states are S); backwards it makes
// q = Rot(C + bias), dY = d_o mimo_o silu(z mimo_z) and walks the gradient dS of the state after each chunk:
//   S' = e^{cs_end} S + sum_j w_j v_j k_j^T      dS' = e^{cs_end} dS + sum_i e^{cs_i} dY_i q_i^T
// A block takes a (direction, document, head): one warpgroup turns k or q, one makes v or dY and keeps the state [P, N] in its registers; at
// rank 4 two blocks fit a processor. Everything leaves by bulk copies out of shared memory: at ranks 1 and 2 the operands and the states; at rank
// 4, where the chunk pass makes the operands again, the states alone, and v, dY are weighted (w_j, e^{cs_i}) as they are made. B or C of the next
// chunk come by asynchronous copies where k or q of it will stand; x, or z and d_o, are read two chunks ahead.
// Floor at b8 s4096 H128 R4: S, dS 8.6 GB written, x, z, d_o, turns 2.7 GB read, 2.6 ms at 4.3 TB/s.
#include "kernels/common/state_group.cuh"
#include "kernels/mamba3/bwd.cuh"

namespace weft::kernels::mamba3 {
namespace {

enum WalkBarrier { kFeed = 1, kFull = 2, kFree = 4, kOwn = 6 };  // kFull, kFree: + stage

template <int R>
struct WalkSmem {
  static constexpr int kSteps = kRows / R, kAngles = R == 1 ? 32 : 64;
  bf16 wide[3][kRows * kN], thin[2][kRows * kP];  // k and v, or q and dY; wide of the next chunk is first B or C as it is
  bf16 state[kP * kN];
  struct Small {
    alignas(16) __half2 turn[kSteps * (kAngles + 4)];  // [step * turn_stride]
    float dt[kSteps + 4], a[kSteps + 4], lambda[kSteps + 4];
  } small[2];
  Decay decay[2];
  alignas(16) float mimo[2][R * kP];  // forwards x; backwards o, z
};

struct WalkPlace {
  int document, local, group, chunks, start, length;  // local: first head within the piece; tokens
};

template <bool kReverse>
__device__ __forceinline__ int chunk_of(const WalkPlace& at, int i) { return kReverse ? at.chunks - 1 - i : i; }
__device__ __forceinline__ uint4 read16(const void* base, int64_t i, bool ok) {
  return ok ? __ldg(reinterpret_cast<const uint4*>(static_cast<const bf16*>(base) + i)) : uint4{0, 0, 0, 0};
}

template <int R, bool kReverse>
struct WalkFeed {
  using Sm = WalkSmem<R>;
  static constexpr int kSteps = Sm::kSteps;
  const Mamba3Inputs& a;
  const BwdWorkspace& w;
  const Piece& piece;
  const WalkPlace& at;
  Sm& sm;
  // Of k or q a thread makes rows 32 j + row32, columns 8 u.. and 32 + 8 u.., and those 64 on; eight neighbouring lanes store to different banks.
  const int t = thread_number() & (kGroup - 1), warp = t >> 5, lane = t & 31, u = lane & 3, row32 = warp * 8 + (lane >> 2 & 1) * 4 + (lane >> 3),
            rank = row32 & (R - 1), head = piece.head0 + at.local;
  float bias[2][16];  // of columns 8 (u + 4 half).. and those 64 on: fp32 where they turn, else packed in bf16

  __device__ __forceinline__ void run() {
    const float* from = (kReverse ? a.C_bias : a.B_bias) + (static_cast<int64_t>(head) * R + rank) * kN + 8 * u;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int e = 0; e < 16; ++e) bias[half][e] = from[32 * half + 64 * (e >> 3) + (e & 7)];
      if (!turns(half)) {
#pragma unroll
        for (int e = 0; e < 8; ++e) bias[half][e] = __uint_as_float(pack_bf16(bias[half][2 * e], bias[half][2 * e + 1]));
      }
    }
    if constexpr (R == 4) {
      for (auto& small : sm.small) whole_turns(small.turn, turn_stride(), a.angles, kSteps, t, kGroup);
    }
    load(0, 0);
    int third = 0;
    for (int i = 0; i < at.chunks; ++i) {
      const int s = i & 1, next = third == 2 ? 0 : third + 1;
      if (i >= 2) group_barrier(kFree + s, 2 * kGroup);  // chunk i - 2, in whose place comes chunk i + 1
      cp_async_wait<0>();
      group_barrier(kFeed, kGroup);
      load(i + 1, next);
      if (warp == 0) chunk_decay<R>(sm.decay[s], sm.small[s].a, sm.small[s].dt, sm.small[s].lambda, 1);
#pragma unroll
      for (int j = 0; j < 2; ++j) turn_row(third, s, 32 * j + row32);
      fence_async_proxy();
      group_arrive(kFull + s, 2 * kGroup);
      third = next;
    }
    cp_async_wait<0>();
  }

 private:
  __device__ __forceinline__ bool turns(int half) const { return (R > 1 ? 8 : 4) * (u + 4 * half) < a.angles; }
  __device__ __forceinline__ int turn_stride() const { return a.angles + 4; }
  __device__ __forceinline__ bf16* place(int third, int row, int half) const { return sm.wide[third] + row * 64 + (((u + 4 * half) ^ row) & 7) * 8; }

  // The small inputs of chunk i, and B or C where the thread will make k or q of it.
  __device__ __forceinline__ void load(int i, int third) const {
    if (i < at.chunks) {
      const int done = chunk_of<kReverse>(at, i) * kSteps, first = at.start + done, left = at.length - done;
      auto& small = sm.small[i & 1];
      load_turns(small.turn, turn_stride(), w.turns, a.heads, head, a.angles, first, kSteps, left, t, kGroup);
      load_rates(small.dt, small.a, small.lambda, a, head, first, left, kSteps, t);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int row = 32 * j + row32, step = row >> kShift<R>;
        const bool ok = step < left;
        const bf16* from = static_cast<const bf16*>(kReverse ? a.C : a.B) + (first + (ok ? step : 0)) * (kReverse ? a.C_stride : a.B_stride) + (rank * a.groups + at.group) * kN + 8 * u;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          bf16* to = place(third, row, half);
          cp_async16(to, from + 32 * half, ok), cp_async16(to + kRows * 64, from + 64 + 32 * half, ok);
        }
      }
    }
    cp_async_commit();
  }
  __device__ __forceinline__ void turn_row(int third, int s, int row) const {
    const __half2* turn = sm.small[s].turn + (row >> kShift<R>) * turn_stride();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      bf16 *low = place(third, row, half), *high = low + kRows * 64;
      const uint4 raw_low = *reinterpret_cast<const uint4*>(low), raw_high = *reinterpret_cast<const uint4*>(high);
      const float(&b)[16] = bias[half];
      if (!turns(half)) {  // added to in bf16, as in the forward
        const auto word = [&](int e) { return __float_as_uint(b[e]); };
        *reinterpret_cast<uint4*>(low) = add_bf16x8(raw_low, uint4{word(0), word(1), word(2), word(3)});
        *reinterpret_cast<uint4*>(high) = add_bf16x8(raw_high, uint4{word(4), word(5), word(6), word(7)});
        continue;
      }
      float x[8], y[8];
      unpack8(x, raw_low), unpack8(y, raw_high);
#pragma unroll
      for (int e = 0; e < 8; ++e) x[e] += b[e], y[e] += b[8 + e];
      rotate<R>(x, y, u + 4 * half, turn, a.angles, 1.f);
      pack8(low, x), pack8(high, y);
    }
  }
};

// v or dY, made by the warps that keep the state: those that turn have more to do. 16 bytes a thread at a time.
template <int R, bool kReverse>
struct WalkThin {
  using Sm = WalkSmem<R>;
  static constexpr int kSteps = Sm::kSteps, kUnits = 4 / R;  // units of 8 columns of a step that a thread makes, for all ranks
  const Mamba3Inputs& a;
  const bf16* d_o;
  const WalkPlace& at;
  Sm& sm;
  const int head, t, col = (t & 7) * 8;
  uint4 thin[kUnits], gate[kUnits], thin_ahead[kUnits], gate_ahead[kUnits];

  __device__ __forceinline__ void begin() {
    for (int i = t; i < R * kP; i += kGroup)
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const float* from = !kReverse ? a.mimo_x : m ? a.mimo_z : a.mimo_o;
        sm.mimo[m][i] = (from ? from[static_cast<int64_t>(head) * R * kP + i] : 1.f) * (R == 4 && kReverse && m ? 0.5f : 1.f);
      }
    group_barrier(kOwn, kGroup);
    load(0), next(0);
  }
  // The chunk after i takes the place of i, and the one after it is on its way.
  __device__ __forceinline__ void next(int i) {
#pragma unroll
    for (int j = 0; j < kUnits; ++j) thin[j] = thin_ahead[j], gate[j] = gate_ahead[j];
    load(i + 1);
  }
  __device__ __forceinline__ void load(int i) {
    if (i >= at.chunks) return;
    const int done = chunk_of<kReverse>(at, i) * kSteps, left = at.length - done;
    const int64_t first = at.start + done;
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
      const int step = j * 16 + (t >> 3), in = head * kP + col;
      const bool ok = step < left;
      thin_ahead[j] = kReverse ? read16(d_o, (first + step) * a.heads * kP + in, ok) : read16(a.x, (first + step) * a.x_stride + in, ok);
      if (kReverse && a.z) gate_ahead[j] = read16(a.z, (first + step) * a.z_stride + in, ok);
    }
  }
  __device__ __forceinline__ void make(int s) const {
#pragma unroll
    for (int j = 0; j < kUnits; ++j) {
      float v[R][8];
      values(v, j);
      put(v, s, j, 1.f);
    }
  }
  // The rows of all ranks of the thread's step j, columns col...
  __device__ __forceinline__ void values(float (&all)[R][8], int j) const {
    float from[8], z[8];
    unpack8(from, thin[j]);
    const bool gated = kReverse && a.z;
    if (gated) unpack8(z, gate[j]);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      float(&v)[8] = all[r];
      times_shared8(v, from, sm.mimo[0] + r * kP + col);
      if (gated) {
        float g[8];
        times_shared8(g, z, sm.mimo[1] + r * kP + col);
#pragma unroll
        for (int e = 0; e < 8; ++e) v[e] *= R == 4 ? g[e] * tanh_fast(g[e]) + g[e] : g[e] * sigmoid(g[e]);  // R 4: as in the fused chunk pass, the weights halved
      }
    }
  }
  __device__ __forceinline__ void put(const float (&v)[R][8], int s, int j, float factor) const {
    const Panels<kP> to{sm.thin[s]};
#pragma unroll
    for (int r = 0; r < R; ++r) {
      float w[8];
#pragma unroll
      for (int e = 0; e < 8; ++e) w[e] = factor * v[r][e];
      pack8(to.unit((j * 16 + (t >> 3)) * R + r, col), w);
    }
  }
};

// The state in bf16 as the fused chunk pass has it in shared memory.
__device__ __forceinline__ void save_turned(bf16* to, const uint32_t (&state)[8][4], int warp, int lane) {
  const int line = lane & 7, swizzle = Columns::unit(lane >> 4, 0) ^ line;
  to += (16 * warp + (lane >> 3 & 1) * 8 + line) * 64;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const int unit = Columns::unit(2 * k & 7, k >> 2);
    stmatrix_x4(to + (unit >> 3) * (kP * 64) + ((swizzle ^ unit) & 7) * 8, state[k][0], state[k][1], state[k][2], state[k][3]);
  }
}

template <int R, bool kReverse>
__device__ __forceinline__ void walk_states(const Mamba3Inputs& a, const bf16* d_o, const BwdWorkspace& w, const Piece& piece, const WalkPlace& at, WalkSmem<R>& sm) {
  using Sm = WalkSmem<R>;
  constexpr bool kStates = kReverse || R > 1, kTiles = R < 4;
  const int thread = thread_number(), lane = thread & 31, warp = thread >> 5 & 3, row = warp * 16 + (lane >> 2);
  const int64_t slot0 = first_slot(at.start, at.document, Sm::kSteps);
  bf16 *wide = kReverse ? w.q : w.k, *thin = kReverse ? w.dY : w.v, *states = kReverse ? w.dS : w.S;
  const bool sends = warp == 0 && lane == 0;
  float S[64] = {};
  WalkThin<R, kReverse> made{a, d_o, at, sm, piece.head0 + at.local, thread & (kGroup - 1)};
  made.begin();
  int third = 0;
  for (int i = 0; i < at.chunks; ++i) {
    const int s = i & 1;
    const bf16 *stage_wide = sm.wide[third], *stage_thin = sm.thin[s];
    float weighted[kTiles ? 1 : R][8];
    if constexpr (kTiles) made.make(s); else made.values(weighted, 0);
    const Decay& d = sm.decay[s];
    const int64_t tile = (slot0 + chunk_of<kReverse>(at, i)) * piece.heads + at.local;
    group_barrier(kFull + s, 2 * kGroup);
    const float* weight = kReverse ? d.grow : d.w;
    if constexpr (!kTiles) made.put(weighted, s, 0, weight[(made.t >> 3) * R]);
    if constexpr (kTiles) {
      if (sends) bulk_store(wide + tile * (kRows * kN), stage_wide, kRows * kN * 2), bulk_commit();
    }
    if constexpr (kStates) {
      uint32_t state[8][4];
      pack_state(state, S);
      if constexpr (kTiles) save_state(sm.state, kN, state, row); else save_turned(sm.state, state, warp, lane);
    }
    fence_async_proxy();
    group_barrier(kOwn, kGroup);
    if (sends) {
      if constexpr (kTiles) bulk_store(thin + tile * (kRows * kP), stage_thin, kRows * kP * 2);
      if constexpr (kStates) bulk_store(states + tile * (kP * kN), sm.state, kP * kN * 2);
      bulk_commit();
    }
    made.next(i + 1);  // after the fence, which would wait for it
    if constexpr (kStates) {
      if (i + 1 < at.chunks) {
        [[maybe_unused]] uint32_t operand[4][4];  // the transpose of thin, weighted; 16 rows of P
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          if constexpr (!kTiles) break;
          load_a_trans(operand[k], Tile<kP>{const_cast<bf16*>(stage_thin)}, warp * 16, k * 16);
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float2 v = unpack_bf16(operand[k][e]), f = *reinterpret_cast<const float2*>(weight + k * 16 + (lane & 3) * 2 + (e >> 1) * 8);
            operand[k][e] = pack_bf16(v.x * f.x, v.y * f.y);
          }
        }
        const float factor = d.grow[kRows - 1];
#pragma unroll
        for (int e = 0; e < 64; ++e) S[e] *= factor;
        wgmma_settle(S);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          if constexpr (kTiles)
            Wgmma<128>::run<true>(S, operand[k], mn_major(stage_wide) + k * kStep16<true>, 1);
          else
            Wgmma<128>::run<true, true>(S, mn_major(stage_thin) + k * kStep16<true>, mn_major(stage_wide) + k * kStep16<true>, 1);
        }
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_settle(S);
      }
    }
    if (sends) bulk_wait<0>();  // what was sent has left its place
    if (i + 2 < at.chunks) group_arrive(kFree + s, 2 * kGroup);
    third = third == 2 ? 0 : third + 1;
  }
}

template <int R, bool kReverse>
__device__ __forceinline__ void walk(const Mamba3Inputs& a, const void* d_o, const BwdWorkspace& w, const Piece& piece, const WalkPlace& at, WalkSmem<R>& sm) {
  if (threadIdx.x < kGroup) {
    if constexpr (R == 4) fewer_registers<96>();  // two blocks a processor
    WalkFeed<R, kReverse>{a, w, piece, at, sm}.run();
  } else {
    if constexpr (R == 4) more_registers<160>();
    walk_states<R, kReverse>(a, static_cast<const bf16*>(d_o), w, piece, at, sm);
  }
}

template <int R>
__global__ void __launch_bounds__(2 * kGroup, R == 4 ? 2 : 1) walk_kernel(const Mamba3Inputs a, const void* d_o, const BwdWorkspace w, const Piece piece) {
  static_assert(sizeof(WalkSmem<R>) <= kSmemLimit);
  WEFT_DYNAMIC_SMEM(raw);
  auto& sm = *reinterpret_cast<WalkSmem<R>*>(raw);
  const int place = static_cast<int>(blockIdx.x) / 2, document = place / piece.heads, local = place % piece.heads;
  const int start = a.cu_seqlens[document], length = a.cu_seqlens[document + 1] - start;
  constexpr int kSteps = kRows / R;
  const WalkPlace at{document, local, (piece.head0 + local) / piece.group_heads, (length + kSteps - 1) / kSteps, start, length};
  if (blockIdx.x & 1)
    walk<R, false>(a, d_o, w, piece, at, sm);
  else
    walk<R, true>(a, d_o, w, piece, at, sm);
}

template <int R>
void launch(const Mamba3Bwd& a, const BwdWorkspace& w, const Piece& piece, cudaStream_t stream) {
  launch_grid(walk_kernel<R>, dim3(static_cast<unsigned>(a.in.documents * piece.heads * 2)), dim3(2 * kGroup), sizeof(WalkSmem<R>), stream, a.in, a.d_o,
              w, piece);
}

}  // namespace

void bwd_walk(const Mamba3Bwd& a, const BwdWorkspace& w, const Piece& piece, cudaStream_t stream) {
  if (a.in.rank == 1) return launch<1>(a, w, piece, stream);
  if (a.in.rank == 2) return launch<2>(a, w, piece, stream);
  launch<4>(a, w, piece, stream);
}

}  // namespace weft::kernels::mamba3
