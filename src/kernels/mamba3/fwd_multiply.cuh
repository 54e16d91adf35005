// The multiplying warpgroup of the Mamba-3 forward. The state [P, N] and the sums y^T [P, row] lie transposed, so that P is wgmma's
// 64 rows and state, V^T and V^T diag(w) are operands from registers; only M goes through shared memory. What is written to memory goes
// by bulk copies out of shared memory: the fence that wgmma asks for would wait for a thread's own stores.
#pragma once
#include "kernels/mamba3/fwd.cuh"

namespace weft::kernels::mamba3 {

template <int R>
struct FwdMultiply {
  using Sm = FwdSmem<R>;
  using Order = Rows<R>;
  static constexpr int kSteps = Sm::kSteps, kOwnSteps = Order::kOwnSteps;
  const Mamba3Fwd& args;
  const FwdPlace& at;
  Sm& sm;
  const int thread = thread_number(), lane = thread & 31, warp = thread >> 5 & 3, q = lane >> 2, r = lane & 3, row = warp * 16 + q;  // and row + 8
  const int head = at.head;
  const int64_t state_row = static_cast<int64_t>(at.document) * args.in.heads + head;
  float S[64];
  float D;

  __device__ __forceinline__ void run() {
    begin();
    for (int c = 0; c < at.chunks; ++c) item(c);
    if (at.chunks > 0) {
      fence_async_proxy();
      group_barrier(kOwn, kGroup);
      send(at.chunks - 1), bulk_wait<0>();
    }
    if (args.last.h) finish();
  }

 private:
  __device__ __forceinline__ void begin() {
    const Mamba3Inputs& a = args.in;
    D = a.D ? a.D[head] : 0.f;
    for (int i = thread & (kGroup - 1); i < R * kP; i += kGroup) {
      const int64_t from = static_cast<int64_t>(head) * R * kP + i;
      const int to = i % kP * R + i / kP;
      const float z = a.mimo_z ? a.mimo_z[from] : 1.f, o = a.mimo_o ? a.mimo_o[from] : 1.f;
      sm.mimo[0][to] = a.mimo_x ? a.mimo_x[from] : 1.f, sm.mimo[1][to] = -kLog2E * z, sm.mimo[2][to] = a.z ? o * z : o;
    }
    group_barrier(kOwn, kGroup);
    read_state(S, args.initial.h ? args.initial.h + state_row * (kP * kN) : nullptr, row);
    if (args.initial.k && at.chunks > 0) {  // the half of the last step's outer product that the first step adds
      const int64_t i = static_cast<int64_t>(at.start) * a.heads + head;
      const float c = (1 - a.lambda[i]) * a.dt[i];
      const float* x = args.initial.x + state_row * kP;
      float mx[R][2];
      weights(mx, 0);
#pragma unroll
      for (int rank = 0; rank < R; ++rank) {
        const float* k = args.initial.k + (state_row * R + rank) * kN;
        const float v[2] = {c * x[row] * mx[rank][0], c * x[row + 8] * mx[rank][1]};
        each_pair(S, row, [&](float& left, float& right, int p, int n) {
          const float f = p == row ? v[0] : v[1];
          left += f * k[n], right += f * k[n + 1];
        });
      }
    }
    const Panels<kRows> M{sm.M};
#pragma unroll
    for (int n = 0; n < 8; ++n)  // right of the diagonal M stays zero
      if (n > 2 * warp + 1) *reinterpret_cast<uint32_t*>(M.at(row, n * 8 + r * 2)) = *reinterpret_cast<uint32_t*>(M.at(row + 8, n * 8 + r * 2)) = 0;
  }

  // The mimo weights x (0), z (1), o (2) of p = row, row + 8; with a gate z is -log2(e) mimo_z and o is mimo_o mimo_z.
  __device__ __forceinline__ void weights(float (&to)[R][2], int which) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float* from = sm.mimo[which] + (row + 8 * h) * R;
      if constexpr (R == 4) {
        const float4 v = *reinterpret_cast<const float4*>(from);
        to[0][h] = v.x, to[1][h] = v.y, to[2][h] = v.z, to[3][h] = v.w;
      } else {
#pragma unroll
        for (int rank = 0; rank < R; ++rank) to[rank][h] = from[rank];
      }
    }
  }

  __device__ __forceinline__ void item(int c) {
    const int s = c & 1;
    const auto& tiles = sm.tiles[s];
    const auto& small = sm.small[s];
    group_barrier(kFull + s, 2 * kGroup);
    if (args.states && c * kSteps % kMamba3Span == 0) save(at.start / kMamba3Span + at.document + c * kSteps / kMamba3Span);

    {
      float qk[32];
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const uint64_t to = (k >> 2) * kPanelStep + (k & 3) * kStep16<false>;
        Wgmma<64>::run<false, false>(qk, k_major(tiles.q) + to, k_major(tiles.k) + to, k > 0);
      }
      wgmma_commit();
      wgmma_wait<0>();
      wgmma_settle(qk);
      weigh(small, qk);
    }
    float y[32];
    {
      uint32_t state[8][4];
      pack_state(state, S);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 8; ++k) Wgmma<64>::run<false>(y, state[k], k_major(tiles.q) + (k >> 2) * kPanelStep + (k & 3) * kStep16<false>, k > 0);
      wgmma_commit();
      bulk_wait<0>();  // o of the chunk before the last one: its place is written below
      fence_async_proxy();
      group_barrier(kOwn, kGroup);  // M is whole, and o of the last chunk
      if (c > 0) send(c - 1);
      const float all = small.grow[kSteps - 1];
#pragma unroll
      for (int e = 0; e < 64; ++e) S[e] *= all;
      wgmma_wait<0>();
      wgmma_settle(y);
    }
    uint32_t vt[4][4];  // V^T, rows p, k = row of the chunk; not made earlier, where the state's operands fill the registers
    float x[4][kOwnSteps][2], mx[R][2];
    weights(mx, 0);
#pragma unroll
    for (int b = 0; b < 4; ++b) {
#pragma unroll
      for (int o = 0; o < kOwnSteps; ++o)
#pragma unroll
        for (int h = 0; h < 2; ++h) x[b][o][h] = __bfloat162float(small.x[Order::own_step(b, o, r) * Sm::kXStride + row + 8 * h]);
      operand_of(vt[b], x[b], mx);
    }
#pragma unroll
    for (int b = 0; b < 4; ++b)
#pragma unroll
      for (int o = 0; o < kOwnSteps; ++o) {
        const float grow = small.grow[Order::own_step(b, o, r)];
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
          for (int e = 0; e < 2; ++e)
            if (Order::own(half, e) == o) y[8 * b + 4 * half + e] *= grow, y[8 * b + 4 * half + e + 2] *= grow;
      }
    wgmma_settle(y);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<64>::run<false>(y, vt[k], k_major(sm.M) + k * kStep16<false>, 1);
    wgmma_commit();
    uint32_t vw[4][4];  // V^T diag(w)
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      float weighted[kOwnSteps][2];
#pragma unroll
      for (int o = 0; o < kOwnSteps; ++o) {
        const float w = small.w[Order::own_step(b, o, r)];
        weighted[o][0] = w * x[b][o][0], weighted[o][1] = w * x[b][o][1];
      }
      operand_of(vw[b], weighted, mx);
    }
    wgmma_settle(S);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) Wgmma<128>::run<true>(S, vw[k], mn_major(tiles.k) + k * kStep16<true>, 1);
    wgmma_commit();
    wgmma_wait<1>();
    wgmma_settle(y);
    if (args.in.z) gate<true>(small, sm.o[s], x, mx, y); else gate<false>(small, sm.o[s], x, mx, y);
    wgmma_wait<0>();
    wgmma_settle(S);
    if (c + 2 < at.chunks) group_arrive(kFree + s, 2 * kGroup);
  }

  // An operand of 16 rows of the chunk from the lane's x, by step and p.
  __device__ __forceinline__ void operand_of(uint32_t (&to)[4], const float (&v)[kOwnSteps][2], const float (&mx)[R][2]) const {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int h = e & 1, half = e >> 1;
      to[e] = pack_bf16(v[Order::own(half, 0)][h] * mx[Order::own_rank(half, 0)][h], v[Order::own(half, 1)][h] * mx[Order::own_rank(half, 1)][h]);
    }
  }

  // M from q k^T: the decay from an earlier step, gamma within a step, 0 later.
  __device__ __forceinline__ void weigh(const typename Sm::Small& small, const float (&qk)[32]) const {
    constexpr int kSides = R == 4 ? 1 : 2;  // rows row and row + 8 are of one step at rank 4
    int swizzle = q << 3;  // of M's panels; made anew here: kept ahead of the loop over chunks, the places of all columns would fill registers
#if !defined(WEFT_EMULATE)
    asm volatile("" : "+r"(swizzle));
#endif
    int step[kSides];
    float cs[kSides];
#pragma unroll
    for (int h = 0; h < kSides; ++h) step[h] = Order::step(row + 8 * h), cs[h] = small.cs[step[h]];
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      if (b > warp) break;
      float f[kSides][kOwnSteps];
#pragma unroll
      for (int o = 0; o < kOwnSteps; ++o) {
        const int there = Order::own_step(b, o, r);
        const float from = small.from[there];
#pragma unroll
        for (int h = 0; h < kSides; ++h) {
          f[h][o] = exp2_fast(cs[h] - from);
          if (b == warp) f[h][o] = there < step[h] ? f[h][o] : there == step[h] ? small.gamma[there] : 0.f;
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float m[2];
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float factor = f[h < kSides ? h : 0][Order::own(half, e)];
            m[e] = factor * qk[8 * b + 4 * half + 2 * h + e];
            if (b == warp && factor == 0) m[e] = 0;
          }
          *reinterpret_cast<uint32_t*>(sm.M + (row + 8 * h) * 64 + (swizzle ^ ((2 * b + half) << 3)) + r * 2) = pack_bf16(m[0], m[1]);
        }
    }
  }

  // Skip, gate, sum over ranks.
  template <bool gated>
  __device__ __forceinline__ void gate(const typename Sm::Small& small, bf16* o, const float (&x)[4][kOwnSteps][2], const float (&mx)[R][2], const float (&y)[32]) const {
    float mz[R][2], mo[R][2];
    weights(mz, 1), weights(mo, 2);
#pragma unroll
    for (int b = 0; b < 4; ++b)
#pragma unroll
      for (int own = 0; own < kOwnSteps; ++own) {
        const int place = Order::own_step(b, own, r) * Sm::kXStride + row;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float skip = D * x[b][own][h], z = gated ? __bfloat162float(small.z[place + 8 * h]) : 1.f;
          float sum = 0;
#pragma unroll
          for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              if (Order::own(half, e) != own) continue;
              const int rank = Order::own_rank(half, e);
              const float v = (y[8 * b + 4 * half + 2 * h + e] + skip * mx[rank][h]) * mo[rank][h];
              sum += gated ? v * reciprocal_fast(1 + exp2_fast(z * mz[rank][h])) : v;
            }
          o[place + 8 * h] = __float2bfloat16(gated ? sum * z : sum);
        }
      }
  }

  // o of chunk c to memory, 128 bytes a step, the steps spread over the warps.
  __device__ __forceinline__ void send(int c) const {
    const int first = at.start + c * kSteps, left = at.length - c * kSteps;
#pragma unroll
    for (int step = 4 * lane + warp; step < kSteps; step += 128)
      if (step < left) bulk_store(static_cast<bf16*>(args.o) + (static_cast<int64_t>(first + step) * args.in.heads + head) * kP, sm.o[c & 1] + step * Sm::kXStride, kP * 2);
    bulk_commit();
  }
  __device__ __forceinline__ void save(int64_t slot) const {
    uint32_t state[8][4];
    pack_state(state, S);
    save_state(static_cast<bf16*>(args.states) + (slot * args.in.heads + head) * (kP * kN), kN, state, row);
  }
  __device__ __forceinline__ void finish() {
    const Mamba3Inputs& a = args.in;
    write_state(S, args.last.h + state_row * (kP * kN), row);
    const int t = thread & (kGroup - 1);
    if (t < kP)
      args.last.x[state_row * kP + t] = at.length > 0 ? __bfloat162float(static_cast<const bf16*>(a.x)[static_cast<int64_t>(at.start + at.length - 1) * a.x_stride + head * kP + t])
                                        : args.initial.x ? args.initial.x[state_row * kP + t] : 0.f;
    if (at.length == 0)
      for (int i = t; i < R * kN; i += kGroup) args.last.k[state_row * R * kN + i] = args.initial.k ? args.initial.k[state_row * R * kN + i] : 0.f;
  }
};

}  // namespace weft::kernels::mamba3
