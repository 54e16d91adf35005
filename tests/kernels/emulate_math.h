// More device functions for the host emulation: those of the memory-bound kernels. Included after emulate.h.
#pragma once
#include "emulate.h"

inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32); }
inline float __uint_as_float(unsigned v) { return std::bit_cast<float>(v); }
inline int __popcll(unsigned long long v) { return std::popcount(v); }
inline unsigned __brev(unsigned v) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= ((v >> i) & 1u) << (31 - i);
  return r;
}
template <class T>
unsigned __match_any_sync(unsigned, T v) {
  unsigned r = 0;
  emulate::gather(v, [&](int l, T other) { r |= static_cast<unsigned>(other == v) << l; });
  return r;
}
inline unsigned __reduce_max_sync(unsigned, unsigned v) {
  unsigned r = 0;
  emulate::gather(v, [&](int, unsigned other) { r = std::max(r, other); });
  return r;
}
inline unsigned __reduce_min_sync(unsigned, unsigned v) {
  unsigned r = ~0u;
  emulate::gather(v, [&](int, unsigned other) { r = std::min(r, other); });
  return r;
}
inline unsigned __reduce_add_sync(unsigned, unsigned v) {
  unsigned r = 0;
  emulate::gather(v, [&](int, unsigned other) { r += other; });
  return r;
}
inline int __any_sync(unsigned m, int p) { return __ballot_sync(m, p) != 0; }
inline int __all_sync(unsigned m, int p) { return __ballot_sync(m, p) == 0xffffffffu; }
inline int __syncthreads_or(int p) {
  static int any;
  emulate::block_barrier();
  any = 0;
  emulate::block_barrier();
  any |= p != 0;
  emulate::block_barrier();
  const int r = any;
  emulate::block_barrier();
  return r;
}
inline int __syncthreads_count(int p) {
  static int count;
  emulate::block_barrier();
  count = 0;
  emulate::block_barrier();
  count += p != 0;
  emulate::block_barrier();
  const int r = count;
  emulate::block_barrier();
  return r;
}
template <class T>
T atomicMax(T* p, T v) {
  T old = *p;
  *p = old < v ? v : old;
  return old;
}
template <class T>
T atomicMin(T* p, T v) {
  T old = *p;
  *p = v < old ? v : old;
  return old;
}
template <class T>
T atomicOr(T* p, T v) {
  T old = *p;
  *p |= v;
  return old;
}
using std::isfinite;
using std::isinf;
using std::isnan;
