#include "data/order.h"

#include <bit>
#include <string>

#include "base/error.h"
#include "base/rng.h"
#include "data/numpy_random.h"

namespace weft::data {
namespace {

uint64_t mix(uint64_t x) {  // the finaliser of splitmix64
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

}  // namespace

int64_t permute(int64_t index, int64_t n, uint64_t key) {
  WEFT_CHECK(index >= 0 && index < n, "permute outside its range");
  const int half = (std::bit_width(static_cast<uint64_t>(n - 1)) + 1) / 2;  // bits of each side
  if (half == 0) return 0;
  const uint64_t mask = (uint64_t{1} << half) - 1;
  uint64_t x = static_cast<uint64_t>(index);
  do {
    uint64_t left = x >> half, right = x & mask;
    for (uint64_t round = 0; round < 6; ++round) {
      const uint64_t next = left ^ (mix(key + mix(right + (round << 56))) & mask);
      left = right;
      right = next;
    }
    x = left << half | right;
  } while (x >= static_cast<uint64_t>(n));
  return static_cast<int64_t>(x);
}

int64_t EpochOrder::at(int64_t place) const {
  const int64_t epoch = place / size_, inside = place % size_;
  return shuffle_ ? permute(inside, size_, rng::mix(rng::mix(seed_, "data.order"), static_cast<uint64_t>(epoch))) : inside;
}

CyclicOrder::CyclicOrder(int64_t size, int64_t micro_batch, int64_t ranks, bool sharded)
    : size_(size), micro_batch_(micro_batch), ranks_(ranks), sharded_(sharded) {
  if (size < micro_batch * ranks) throw ConfigError("cyclic order: too few samples for one batch: got " + std::to_string(size) + ", want at least " + std::to_string(micro_batch * ranks));
}

int64_t CyclicOrder::at(int64_t place) const {
  const int64_t batch = micro_batch_ * ranks_;
  const int64_t per_epoch = size_ / batch * batch;
  const int64_t epoch = place / per_epoch, inside = place % per_epoch;
  const int64_t rank = inside % batch / micro_batch_;
  const int64_t nth = inside / batch * micro_batch_ + inside % micro_batch_;  // of this rank
  const int64_t bucket = sharded_ ? per_epoch / ranks_ : size_ / micro_batch_ * micro_batch_;
  std::lock_guard lock(mutex_);
  if (epoch_ != epoch) shuffle_ = torch_randperm(bucket, static_cast<uint64_t>(epoch)), epoch_ = epoch;
  return sharded_ ? rank * bucket + shuffle_[static_cast<size_t>(nth)] : shuffle_[static_cast<size_t>(nth * ranks_ + rank)];
}

}  // namespace weft::data
