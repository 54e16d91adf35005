#include "data/numpy_random.h"

#include <bit>
#include <numeric>
#include <string>

#include "base/error.h"

namespace weft::data {

Mt19937::Mt19937(uint32_t seed) {
  state_[0] = seed;
  for (uint32_t i = 1; i < 624; ++i) state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + i;
}

void Mt19937::refill() {
  const auto twist = [](uint32_t a, uint32_t b) { return (((a & 0x80000000u) | (b & 0x7FFFFFFFu)) >> 1) ^ (b & 1 ? 0x9908B0DFu : 0); };
  for (int i = 0; i < 227; ++i) state_[i] = state_[i + 397] ^ twist(state_[i], state_[i + 1]);
  for (int i = 227; i < 623; ++i) state_[i] = state_[i - 227] ^ twist(state_[i], state_[i + 1]);
  state_[623] = state_[396] ^ twist(state_[623], state_[0]);
#pragma omp simd
  for (int i = 0; i < 624; ++i) {
    uint32_t y = state_[i];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9D2C5680u;
    y ^= (y << 15) & 0xEFC60000u;
    tempered_[i] = y ^ (y >> 18);
  }
  at_ = 0;
}

uint64_t NumpyRandom::interval(uint64_t max) {
  if (max == 0) return 0;
  const uint64_t mask = ~uint64_t{0} >> std::countl_zero(max);
  uint64_t value;
  if (max <= 0xFFFFFFFFu) {
    while ((value = mt_.next() & mask) > max) {
    }
  } else {
    do {  // 64-bit draws take the high word first
      value = static_cast<uint64_t>(mt_.next()) << 32;
      value |= mt_.next();
      value &= mask;
    } while (value > max);
  }
  return value;
}

template <class T>
void NumpyRandom::shuffle(std::span<T> values) {
  constexpr int kAhead = 64;
  uint64_t places[kAhead];
  uint64_t i = values.size();
  while (i > 1) {
    const int n = static_cast<int>(std::min<uint64_t>(kAhead, i - 1));
    for (int k = 0; k < n; ++k) {
      places[k] = interval(i - 1 - static_cast<uint64_t>(k));
      __builtin_prefetch(&values[places[k]], 1);
    }
    for (int k = 0; k < n; ++k) std::swap(values[i - 1 - static_cast<uint64_t>(k)], values[places[k]]);
    i -= static_cast<uint64_t>(n);
  }
}

template void NumpyRandom::shuffle(std::span<int32_t>);
template void NumpyRandom::shuffle(std::span<uint32_t>);
template void NumpyRandom::shuffle(std::span<int64_t>);

std::vector<int64_t> torch_randperm(int64_t n, uint64_t seed) {
  if (n >= static_cast<int64_t>(0xFFFFFFFFu / 20)) throw UnsupportedError("cyclic order: too many samples: got " + std::to_string(n) + ", want below " + std::to_string(0xFFFFFFFFu / 20));
  std::vector<int64_t> out(static_cast<size_t>(n));
  std::iota(out.begin(), out.end(), int64_t{0});
  Mt19937 mt(static_cast<uint32_t>(seed));
  for (int64_t i = 0; i + 1 < n; ++i) std::swap(out[static_cast<size_t>(i)], out[static_cast<size_t>(i + mt.next() % (n - i))]);
  return out;
}

}  // namespace weft::data
