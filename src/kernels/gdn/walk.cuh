// What the walks over the chunks of a document share, forward and backward. One block takes a document of one value head: a warpgroup loads and
// prepares chunks ahead, two hold S^T [Dv, Dk] (or its gradient), 64 rows of Dv each, as wgmma sums.
#pragma once
#include "kernels/common/state_group.cuh"
#include "kernels/gdn/tiles.cuh"

namespace weft::kernels::gdn {

constexpr int kWalkers = 2 * kGroup, kWalkThreads = kGroup + kWalkers;
constexpr int kOutStride = kD + 8;                              // stores of eight neighbouring lanes meet no bank twice
enum WalkBarrier { kFull = 1, kFree = 3, kOwn = 5 };            // kFull, kFree: + stage; kOwn: + warpgroup

struct Place {  // what one block works on
  int head, key_head, value_heads, document, start, length, chunks;
  int64_t key_row, value_row, state;  // elements between tokens; of S of this document and head

  template <class Args>
  __device__ __forceinline__ explicit Place(const Args& a)
      : head(static_cast<int>(blockIdx.x) % a.value_heads), key_head(head / (a.value_heads / a.key_heads)), value_heads(a.value_heads), document(static_cast<int>(blockIdx.x) / a.value_heads),
        start(a.cu_seqlens[document]), length(a.cu_seqlens[document + 1] - start), chunks((length + kL - 1) / kL), key_row(static_cast<int64_t>(a.key_heads) * kD),
        value_row(static_cast<int64_t>(a.value_heads) * kD), state((static_cast<int64_t>(document) * a.value_heads + head) * (kD * kD)) {}
  __device__ __forceinline__ int64_t slot(int c) const { return static_cast<int64_t>(start / kL + document + c) * value_heads + head; }
  __device__ __forceinline__ int64_t first(int c) const { return static_cast<int64_t>(start) + c * kL; }
  __device__ __forceinline__ int left(int c) const { return length - c * kL; }
};

__device__ constexpr uint64_t step(int k) { return (k >> 2) * kPanelStep + (k & 3) * kStep16<false>; }  // of 128 columns, to column 16 k

// The thread's place in its warpgroup, and the rows and columns of its sums.
struct Member {
  const int all = fresh(static_cast<int>(threadIdx.x)), group = all >> 7, thread = all & (kGroup - 1), lane = thread & 31, warp = thread >> 5, q = lane >> 2, r = lane & 3,
            row = warp * 16 + q;                                 // of a product of 64 tokens, and row + 8
};

// The warpgroup that runs ahead: its loads, and the gates of the chunk to come.
template <class Args>
struct Ahead {
  const Args& a;
  const Place& at;
  float g[2], b[2];  // of tokens 2 lane, 2 lane + 1, in warp 0

  __device__ __forceinline__ Ahead(const Args& args, const Place& place) : a(args), at(place) {}
  __device__ __forceinline__ void load_keys(bf16* q_to, bf16* k_to, int c, const Member& m) const {
    const int64_t from = at.first(c) * at.key_row + at.key_head * kD;
    load_panels<kD, kGroup>(k_to, static_cast<const bf16*>(a.k) + from, at.key_row, at.left(c), m.thread);
    load_panels<kD, kGroup>(q_to, static_cast<const bf16*>(a.q) + from, at.key_row, at.left(c), m.thread);
  }
  __device__ __forceinline__ void load_values(bf16* to, const void* from, int c, const Member& m) const {
    load_panels<kD, kGroup>(to, static_cast<const bf16*>(from) + at.first(c) * at.value_row + at.head * kD, at.value_row, at.left(c), m.thread);
  }
  __device__ __forceinline__ void fetch(int c, const Member& m) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int i = c * kL + 2 * m.lane + e;
      const bool ok = m.warp == 0 && c >= 0 && i < at.length;
      const int64_t gate = static_cast<int64_t>(at.start + i) * at.value_heads + at.head;
      g[e] = ok ? a.g[gate] : 0.f, b[e] = ok ? a.beta[gate] : 0.f;
    }
  }
  static __device__ __forceinline__ void dots(float (&x)[32], uint64_t rows, uint64_t columns) {
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 8; ++i) Wgmma<64>::run<false, false>(x, rows + step(i), columns + step(i), i > 0);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_settle(x);
  }
  // Of the warp's 16 rows and the block's columns: visit(column tile, row tile, i, j, e^{G_i - G_j}, of j + 1).
  template <class Visit>
  static __device__ __forceinline__ void each_factor(const Decays& d, int block, const Member& m, Visit visit) {
    const float to[2] = {d.to[m.row], d.to[m.row + 8]};
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int j = block * 16 + n * 8 + m.r * 2;
      const float2 from = *reinterpret_cast<const float2*>(&d.to[j]);
#pragma unroll
      for (int h = 0; h < 2; ++h) visit(n, h, m.row + 8 * h, j, exp2_fast(to[h] - from.x), exp2_fast(to[h] - from.y));
    }
  }
  // P on and left of the diagonal blocks, the scale in it.
  static __device__ __forceinline__ void weigh(const Decays& d, const Panels<kL>& P, uint64_t q, uint64_t k, float scale, const Member& m) {
    float qk[32];
    dots(qk, q, k);
#pragma unroll
    for (int block = 0; block < 4; ++block) {
      if (block > m.warp) break;
      each_factor(d, block, m, [&](int n, int h, int i, int j, float f0, float f1) {
        const int e = 8 * block + 4 * n + 2 * h;
        *reinterpret_cast<uint32_t*>(P.at(i, j)) = pack_bf16(j <= i ? scale * qk[e] * f0 : 0.f, j + 1 <= i ? scale * qk[e + 1] * f1 : 0.f);
      });
    }
  }
};

// A warpgroup that holds half of the state. Its stores to memory follow a fence, not come before it: fence_async_proxy waits for a thread's own.
template <class Args>
struct Walk : Member {
  const Args& a;
  const Place& at;
  const int half = group - 1, p = half * 64 + row;  // of Dv, and p + 8
  float S[64];

  __device__ __forceinline__ Walk(const Args& args, const Place& place) : a(args), at(place) {}
  __device__ __forceinline__ void read(const float* from) {  // [Dk, Dv] in memory
    each_pair(S, p, [&](float& left, float& right, int dv, int dk) { left = from ? from[at.state + dk * kD + dv] : 0.f, right = from ? from[at.state + (dk + 1) * kD + dv] : 0.f; });
  }
  __device__ __forceinline__ void write(float* to) {
    if (to) each_pair(S, p, [&](float left, float right, int dv, int dk) { to[at.state + dk * kD + dv] = left, to[at.state + (dk + 1) * kD + dv] = right; });
  }
  // Sums [64 of Dv, 64 tokens] to rows of tokens [64][kOutStride].
  __device__ __forceinline__ void put(bf16* to, const uint32_t (&v)[4][4]) const {
#pragma unroll
    for (int m = 0; m < 4; ++m)
      stmatrix_x4_trans(to + (m * 16 + (lane & 7) + (lane >> 4) * 8) * kOutStride + half * 64 + warp * 16 + (lane >> 3 & 1) * 8, v[m][0], v[m][1], v[m][2], v[m][3]);
  }
  // 64 columns of the chunk's rows to memory, 16 bytes a store.
  __device__ __forceinline__ void send(void* to, const bf16* from, int c) const {
    const int left = at.left(c), token = thread >> 3, col = at.head * kD + half * 64 + (thread & 7) * 8;
    bf16* out = static_cast<bf16*>(to) + (at.first(c) + token) * at.value_row + col;
    from += token * kOutStride + half * 64 + (thread & 7) * 8;
#pragma unroll
    for (int i = 0; i < kL; i += kGroup / 8)
      if (token + i < left) *reinterpret_cast<uint4*>(out + i * at.value_row) = *reinterpret_cast<const uint4*>(from + i * kOutStride);
  }
  __device__ __forceinline__ void send_state(void* to, const bf16* from, int c) const {
    if (thread == 0) bulk_store(static_cast<bf16*>(to) + at.slot(c) * (kD * kD) + half * 64 * kD, from + half * 64 * kD, 64 * kD * 2), bulk_commit();
  }
};
// x [64 of Dv, 64 tokens] as operands of a product over tokens.
__device__ __forceinline__ void pack(uint32_t (&to)[4][4], const float (&x)[32]) {
#pragma unroll
  for (int m = 0; m < 4; ++m)
#pragma unroll
    for (int e = 0; e < 4; ++e) to[m][e] = pack_bf16(x[8 * m + 2 * e], x[8 * m + 2 * e + 1]);
}

}  // namespace weft::kernels::gdn
