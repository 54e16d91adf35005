// Which sample comes at which place of a run: a function of (seed, place), with no list kept and no state to save.
#pragma once
#include <cstdint>
#include <mutex>
#include <vector>

namespace weft::data {

// A bijection of [0, n), different for every key: a balanced Feistel network over the next power of four, walked until it
// lands inside (fewer than 4 steps on average). Black and Rogaway, "Ciphers with arbitrary finite domains", 2002.
int64_t permute(int64_t index, int64_t n, uint64_t key);

class SampleOrder {
 public:
  virtual ~SampleOrder() = default;
  virtual int64_t at(int64_t place) const = 0;  // the dataset index at this place of the run; -1: past the end, a padding sample
};

class EpochOrder final : public SampleOrder {  // every sample once an epoch; epochs shuffled by (seed, epoch), or none is
 public:
  EpochOrder(int64_t size, uint64_t seed, bool shuffle) : size_(size), seed_(seed), shuffle_(shuffle) {}
  int64_t at(int64_t place) const override;

 private:
  int64_t size_;
  uint64_t seed_;
  bool shuffle_;
};

class OnceOrder final : public SampleOrder {  // 0, 1, 2 ... and then nothing: one pass of a validation set, or a set that has its own order
 public:
  explicit OnceOrder(int64_t size) : size_(size) {}
  int64_t at(int64_t place) const override { return place < size_ ? place : -1; }

 private:
  int64_t size_;
};

// Megatron's "cyclic" sampler: each epoch is shuffled by torch.randperm seeded with the epoch's number. The places that one
// epoch leaves over after whole batches are dropped. Its "single" sampler is OnceOrder.
class CyclicOrder final : public SampleOrder {
 public:
  // `sharded`: every data-parallel rank shuffles a range of its own (Megatron's default); else all share one shuffle.
  CyclicOrder(int64_t size, int64_t micro_batch, int64_t ranks, bool sharded);
  int64_t at(int64_t place) const override;

 private:
  int64_t size_, micro_batch_, ranks_;
  bool sharded_;
  mutable std::mutex mutex_;  // the shuffle of the latest epoch is kept: it is read place by place
  mutable int64_t epoch_ = -1;
  mutable std::vector<int64_t> shuffle_;
};

}  // namespace weft::data
