// Two published random streams that existing training runs depend on, reproduced to the bit.
#pragma once
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace weft::data {

class Mt19937 {  // Matsumoto and Nishimura 1998, seeded by init_genrand
 public:
  explicit Mt19937(uint32_t seed);
  uint32_t next() {
    if (at_ == 624) refill();
    return tempered_[at_++];
  }

 private:
  void refill();
  uint32_t state_[624], tempered_[624];
  int at_ = 624;
};

class NumpyRandom {  // numpy.random.RandomState(seed), the legacy generator
 public:
  explicit NumpyRandom(uint32_t seed) : mt_(seed) {}
  // In [0, max], by masking and rejection.
  uint64_t interval(uint64_t max);
  // RandomState.shuffle of a one-dimensional array. Places are drawn ahead of the swaps, so that their lines are fetched in time.
  template <class T>
  void shuffle(std::span<T> values);

 private:
  Mt19937 mt_;
};

extern template void NumpyRandom::shuffle(std::span<int32_t>);
extern template void NumpyRandom::shuffle(std::span<uint32_t>);
extern template void NumpyRandom::shuffle(std::span<int64_t>);

// torch.randperm(n, generator=torch.Generator().manual_seed(seed)) on the CPU, for n below 2^32 / 20.
std::vector<int64_t> torch_randperm(int64_t n, uint64_t seed);

}  // namespace weft::data
