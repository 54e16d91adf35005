// Runs a CUDA kernel on the host, one block at a time, each thread a fiber, so that the index and fragment arithmetic of the
// warp-level kernels is tested on machines without a GPU. Fibers meet at barriers, shuffles and tensor core instructions; between
// them they run in a random order, shared memory starts as NaN and cp.async lands as late as it may: a missing barrier shows.
// Bulk copies (TMA, emulate_tma.h) land at a random time after they are issued and leave NaN in their place until then.
// Covers mma.sync, wgmma (done at once where it is issued), ldmatrix, cp.async, bulk copies, shuffles, barriers, mbarriers. Not timing.
#pragma once
#include <cuda_bf16.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "emulate_threads.h"

#undef __global__
#undef __device__
#undef __shared__
#undef __forceinline__
#undef __launch_bounds__
#undef __host__
#undef __align__
#undef __restrict__
#undef __grid_constant__
#define __grid_constant__
#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

typedef struct CUstream_st* cudaStream_t;

namespace emulate {

template <class T>
T exchange(T v, int from) {  // every lane of the warp calls it
  static_assert(sizeof(T) <= 8);
  Warp& w = warp();
  std::memcpy(&w.slot[lane()][0], &v, sizeof(T));
  warp_barrier();
  T r;
  std::memcpy(&r, &w.slot[from & 31][0], sizeof(T));
  warp_barrier();
  return r;
}

// What every lane of the warp gives, in one meeting: f(lane, its value) for all 32.
template <class T, class Visit>
void gather(T v, Visit visit) {
  static_assert(sizeof(T) <= 8);
  Warp& w = warp();
  std::memcpy(&w.slot[lane()][0], &v, sizeof(T));
  warp_barrier();
  for (int l = 0; l < 32; ++l) {
    T r;
    std::memcpy(&r, &w.slot[l][0], sizeof(T));
    visit(l, r);
  }
  warp_barrier();
}

inline float bf16_value(uint32_t word, int half) { return std::bit_cast<float>((word >> (16 * half)) << 16); }

inline void mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  Warp& w = warp();
  uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  std::memcpy(w.slot[lane()], mine, sizeof mine);
  warp_barrier();
  const int q = lane() >> 2, r = lane() & 3;
  auto word = [&](int l, int i) { uint32_t v; std::memcpy(&v, reinterpret_cast<char*>(w.slot[l]) + 4 * i, 4); return v; };
  for (int e = 0; e < 4; ++e) {
    const int row_half = e >> 1, n = 2 * r + (e & 1);
    float sum = c[e];
    for (int k = 0; k < 16; ++k) {
      const int k_half = k >> 3, kk = k & 7;
      const float av = bf16_value(word(q * 4 + kk / 2, row_half + 2 * k_half), kk & 1);
      const float bv = bf16_value(word(n * 4 + kk / 2, 4 + k_half), kk & 1);
      sum += av * bv;
    }
    c[e] = sum;
  }
  warp_barrier();
}
inline void mma_tf32(float (&c)[4], float a0, float a1, float a2, float a3, uint32_t b0, uint32_t b1) {
  Warp& w = warp();
  const float mine[6] = {a0, a1, a2, a3, std::bit_cast<float>(b0), std::bit_cast<float>(b1)};
  std::memcpy(w.slot[lane()], mine, sizeof mine);
  warp_barrier();
  const int q = lane() >> 2, r = lane() & 3;
  auto value = [&](int l, int i) { uint32_t v; std::memcpy(&v, reinterpret_cast<char*>(w.slot[l]) + 4 * i, 4); return std::bit_cast<float>(v & 0xffffe000u); };
  for (int e = 0; e < 4; ++e)
    for (int k = 0; k < 8; ++k) c[e] += value(q * 4 + (k & 3), (e >> 1) + 2 * (k >> 2)) * value((2 * r + (e & 1)) * 4 + (k & 3), 4 + (k >> 2));
  warp_barrier();
}
inline void ldmatrix(uint32_t (&out)[4], const void* row, bool transposed) {
  Warp& w = warp();
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) std::fprintf(stderr, "emulate: ldmatrix address is not 16-byte aligned\n"), std::abort();
  w.slot[lane()][0] = reinterpret_cast<uint64_t>(row);
  warp_barrier();
  const int q = lane() >> 2, r = lane() & 3;
  for (int m = 0; m < 4; ++m) {
    uint16_t h[2];
    for (int i = 0; i < 2; ++i) {
      const int rr = transposed ? 2 * r + i : q, cc = transposed ? q : 2 * r + i;
      h[i] = reinterpret_cast<const uint16_t*>(w.slot[m * 8 + rr][0])[cc];
    }
    out[m] = h[0] | static_cast<uint32_t>(h[1]) << 16;
  }
  warp_barrier();
}
inline void ldmatrix_x4(uint32_t (&r)[4], uintptr_t row) { ldmatrix(r, reinterpret_cast<const void*>(row), false); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], uintptr_t row) { ldmatrix(r, reinterpret_cast<const void*>(row), true); }
inline void stmatrix(void* row, const uint32_t (&v)[4], bool transposed) {
  Warp& w = warp();
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) std::fprintf(stderr, "emulate: stmatrix address is not 16-byte aligned\n"), std::abort();
  w.slot[lane()][0] = reinterpret_cast<uint64_t>(row);
  warp_barrier();
  const int q = lane() >> 2, r = lane() & 3;
  for (int m = 0; m < 4; ++m)
    for (int i = 0; i < 2; ++i) reinterpret_cast<uint16_t*>(w.slot[m * 8 + (transposed ? 2 * r + i : q)][0])[transposed ? q : 2 * r + i] = static_cast<uint16_t>(v[m] >> (16 * i));
  warp_barrier();
}
inline void stmatrix_x4(void* row, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) { stmatrix(row, {r0, r1, r2, r3}, false); }
inline void stmatrix_x4_trans(void* row, uint32_t r0, uint32_t r1, uint32_t r2, uint32_t r3) { stmatrix(row, {r0, r1, r2, r3}, true); }
inline uint32_t transpose_8x8(uint32_t v) {
  Warp& w = warp();
  w.slot[lane()][0] = v;
  warp_barrier();
  const int q = lane() >> 2, r = lane() & 3;
  uint32_t out = 0;
  for (int i = 0; i < 2; ++i) out |= static_cast<uint32_t>(static_cast<uint16_t>(w.slot[(2 * r + i) * 4 + q / 2][0] >> (16 * (q & 1)))) << (16 * i);
  warp_barrier();
  return out;
}
inline void cp_async(void* to, const void* from, bool valid, int bytes) {
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0 || reinterpret_cast<uintptr_t>(from) % bytes != 0) std::fprintf(stderr, "emulate: cp.async address is not aligned\n"), std::abort();
  Thread& t = *block()->now;
  t.copies.push_back({to, from, valid, t.group, bytes});
}
inline void cp_async16(void* to, const void* from, bool valid) { cp_async(to, from, valid, 16); }
inline void cp_async8(void* to, const void* from, bool valid) { cp_async(to, from, valid, 8); }
inline void cp_async4(void* to, const void* from, bool valid) { cp_async(to, from, valid, 4); }
inline void group_barrier(int id, int threads) { block_barrier(id, threads); }
inline void group_arrive(int id, int threads) {
  Barrier& b = block()->barriers[id];
  if (++b.arrived == threads) b.arrived = 0, ++b.generation, ++block()->progress;
}
// An mbarrier's word: arrivals of a phase, those still missing, the phase.
inline void barrier_init(uint64_t* b, int arrivals) { *b = static_cast<uint64_t>(arrivals) << 32 | static_cast<uint64_t>(arrivals) << 1; }
inline void complete(uint64_t* b) {  // the phase, when nothing is missing
  const auto bytes = block()->to_come.find(b);
  if ((*b & 0xfffffffe) == 0 && (bytes == block()->to_come.end() || bytes->second == 0)) *b = (*b | *b >> 32 << 1) ^ 1, ++block()->progress;
}
inline void barrier_arrive(uint64_t* b) {
  if ((*b & 0xfffffffe) == 0) std::fprintf(stderr, "emulate: more arrivals at an mbarrier than it was made for\n"), std::abort();
  *b -= 2;
  complete(b);
}
inline void barrier_expect(uint64_t* b, int bytes) { block()->to_come[b] += bytes, barrier_arrive(b); }
inline void barrier_wait(uint64_t* b, int phase) {
  while ((*b & 1) == static_cast<uint64_t>(phase)) yield();
}
inline void land_some(Block& b, std::mt19937& random) {
  for (size_t i = 0; i < b.bulks.size();) {
    if (random() & 3) {
      ++i;
      continue;
    }
    const BulkCopy c = std::move(b.bulks[i]);
    b.bulks.erase(b.bulks.begin() + static_cast<std::ptrdiff_t>(i));
    c.land(), b.to_come[c.barrier] -= c.bytes, ++b.progress;
    complete(c.barrier);
  }
}
inline void bulk_add(float* global, const float* smem, int bytes) {
  if ((reinterpret_cast<uintptr_t>(global) | reinterpret_cast<uintptr_t>(smem) | static_cast<uintptr_t>(bytes)) % 16 != 0) std::fprintf(stderr, "emulate: bulk addition is not 16-byte aligned\n"), std::abort();
  Thread& t = *block()->now;
  t.stores.push_back({[=] {
    for (int i = 0; i < bytes / 4; ++i) global[i] += smem[i];
  }, t.store_group});
}
inline void bulk_commit() { ++block()->now->store_group; }
template <int pending>
void bulk_wait() {
  Thread& t = *block()->now;
  std::vector<BulkStore> left;
  for (BulkStore& o : t.stores) {
    if (o.group < t.store_group - pending) o.leave(); else left.push_back(std::move(o));
  }
  t.stores = std::move(left);
}
// An element of a wgmma operand: descriptors are addresses / 16, layouts those of wgmma.cuh, the swizzle an XOR of address bits.
inline float wgmma_element(uint64_t operand, bool transposed, int mn, int k) {
  uint64_t at = operand << 4;
  at += transposed ? mn / 64 * 8192 + k / 8 * 1024 + k % 8 * 128 + mn % 64 * 2 : mn / 8 * 1024 + mn % 8 * 128 + k * 2;
  at ^= (at >> 7 & 7) << 4;
  return bf16_value(*reinterpret_cast<const uint16_t*>(at), 0);
}
// One warp's part of D[64, N] (+)= A[64, 16] B[16, N]; A from shared memory, or from registers when `a` is not null.
template <int N>
void wgmma(float (&d)[N / 2], const uint32_t* a, uint64_t a_operand, bool a_transposed, uint64_t b, bool b_transposed, int keep) {
  const int q = lane() >> 2, r = lane() & 3, row = (block()->now->number >> 5 & 3) * 16 + q;
  float av[2][16];
  if (a) {
    Warp& w = warp();
    std::memcpy(w.slot[lane()], a, 16);
    warp_barrier();
    for (int h = 0; h < 2; ++h)
      for (int k = 0; k < 16; ++k) {
        uint32_t word;
        std::memcpy(&word, reinterpret_cast<char*>(w.slot[q * 4 + k % 8 / 2]) + 4 * (h + k / 8 * 2), 4);
        av[h][k] = bf16_value(word, k & 1);
      }
    warp_barrier();
  } else {
    for (int h = 0; h < 2; ++h)
      for (int k = 0; k < 16; ++k) av[h][k] = wgmma_element(a_operand, a_transposed, row + 8 * h, k);
  }
  for (int n = 0; n < N / 8; ++n)
    for (int e = 0; e < 2; ++e) {
      float sum[2] = {keep ? d[4 * n + e] : 0.f, keep ? d[4 * n + 2 + e] : 0.f};
      for (int k = 0; k < 16; ++k) {
        const float bv = wgmma_element(b, b_transposed, n * 8 + r * 2 + e, k);
        sum[0] += av[0][k] * bv, sum[1] += av[1][k] * bv;
      }
      d[4 * n + e] = sum[0], d[4 * n + 2 + e] = sum[1];
    }
}
// A product is the whole warpgroup's: all of its warps come to the same waits, `line` in the source, in the same order; after one all have read
// their operands, and the copy engine may write over them.
inline void wgmma_wait(int line) {
  Thread& t = *block()->now;
  const int group = t.number / 128;
  std::vector<int>& lines = block()->wait_lines[group];
  if (t.waits == lines.size()) lines.push_back(line);
  if (lines[t.waits++] != line) std::fprintf(stderr, "emulate: warps of warpgroup %d wait for wgmma in lines %d and %d\n", group, lines[t.waits - 1], line), std::abort();
  if (!block()->to_come.empty()) block_barrier(17 + group, 128);
}
inline void cp_async_commit() { ++block()->now->group; }
template <int pending>
void cp_async_wait() {
  Thread& t = *block()->now;
  std::vector<Copy> left;
  for (const Copy& c : t.copies) {
    if (c.group >= t.group - pending) {
      left.push_back(c);
    } else if (c.valid) {
      std::memcpy(c.to, c.from, c.bytes);
    } else {
      std::memset(c.to, 0, c.bytes);
    }
  }
  t.copies = left;
}

}  // namespace emulate

#define threadIdx (::emulate::block()->now->index)
#define blockIdx (::emulate::block()->index)
#define gridDim (::emulate::block()->grid)
#define blockDim (::emulate::block()->size)
inline void __syncthreads() { emulate::block_barrier(); }
inline void __syncwarp(unsigned = 0xffffffffu) { emulate::warp_barrier(); }
template <class T> T __shfl_xor_sync(unsigned, T v, int o) { return emulate::exchange(v, emulate::lane() ^ o); }
template <class T> T __shfl_sync(unsigned, T v, int l) { return emulate::exchange(v, l); }
template <class T> T __shfl_up_sync(unsigned, T v, int o) { return emulate::exchange(v, emulate::lane() >= o ? emulate::lane() - o : emulate::lane()); }
template <class T> T __shfl_down_sync(unsigned, T v, int o) { return emulate::exchange(v, emulate::lane() + o < 32 ? emulate::lane() + o : emulate::lane()); }
inline unsigned __ballot_sync(unsigned, int p) {
  unsigned r = 0;
  emulate::gather(p != 0, [&](int l, bool v) { r |= static_cast<unsigned>(v) << l; });
  return r;
}
inline void __threadfence() {}
template <class T> T atomicAdd(T* p, T v) { T old = *p; *p += v; return old; }
inline int __popc(unsigned v) { return std::popcount(v); }
inline int __clz(int v) { return std::countl_zero(static_cast<unsigned>(v)); }
inline int __ffs(unsigned v) { return v ? std::countr_zero(v) + 1 : 0; }
template <class T> T __ldg(const T* p) { return *p; }
inline float __expf(float v) { return std::exp(v); }
inline float __log2f(float v) { return std::log2(v); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __int_as_float(int v) { return std::bit_cast<float>(v); }
inline int __float_as_int(float v) { return std::bit_cast<int>(v); }
inline unsigned __float_as_uint(float v) { return std::bit_cast<unsigned>(v); }
inline void __sincosf(float x, float* s, float* c) { *s = std::sin(x), *c = std::cos(x); }
using std::max;
using std::min;

#include "emulate_math.h"
