// Blends: which set a sample comes from and which of its samples that is, in Megatron's order, without arrays of the blend's length.
#pragma once
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "data/dataset.h"

namespace weft::data {

// One place after another. At place i comes the set that is furthest behind: argmax of w_d * max(i, 1) - count_d, the lowest
// number among equals. A copy goes on from where the original stands.
class BlendWalk {
 public:
  explicit BlendWalk(std::vector<double> weights);  // endless; weights add up to 1. ConfigError for no set or more than 32,766
  explicit BlendWalk(std::vector<int64_t> sizes);   // w = size / sum; a set that is used up drops out
  void next(std::span<int16_t> datasets, std::span<int64_t> samples);
  const std::vector<int64_t>& counts() const { return counts_; }  // places that each set has had

 private:
  void begin(std::vector<double> weights);
  std::vector<double> weights_, taken_;
  std::vector<int64_t> counts_, sizes_;  // sizes_: empty when endless
  std::vector<int32_t> open_;            // sets that have samples left
  int64_t place_ = 0;
};

class BlendOrder {
 public:
  struct From { int64_t dataset, sample; };
  virtual ~BlendOrder() = default;
  virtual int64_t size() const = 0;
  virtual From at(int64_t place) const = 0;                  // of [0, size)
  virtual std::vector<int64_t> counts(size_t sets) const = 0;  // places of each set. InputError when a set's number is not below `sets`
};

// The counts at every 4,096th place (every 8th a set in large blends) are kept and the places between are walked again when they
// are read. One pass at the start.
class PlannedBlend final : public BlendOrder {
 public:
  PlannedBlend(BlendWalk walk, int64_t size);
  int64_t size() const override { return size_; }
  From at(int64_t place) const override;
  std::vector<int64_t> counts(size_t) const override { return counts_; }
  size_t kept_bytes() const;

 private:
  struct Block {
    int64_t number = -1;
    std::vector<int16_t> datasets;
    std::vector<int64_t> samples;
  };
  int64_t size_, step_;
  std::vector<BlendWalk> marks_;
  std::vector<int64_t> counts_;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const Block> recent_;  // places are read in order, so one block is enough
};

// Megatron's cache files BASEdataset_index.npy and BASEdataset_sample_index.npy.
class StoredBlend final : public BlendOrder {  // mapped
 public:
  explicit StoredBlend(const std::string& base);  // InputError when the files do not fit together
  int64_t size() const override { return static_cast<int64_t>(datasets_.size()); }
  From at(int64_t place) const override { return {datasets_[static_cast<size_t>(place)], samples_[static_cast<size_t>(place)]}; }
  std::vector<int64_t> counts(size_t sets) const override;

 private:
  std::string base_;
  std::shared_ptr<const void> owner_;
  std::span<const int16_t> datasets_;
  std::span<const int64_t> samples_;
};
void write_blend(const std::string& base, const BlendWalk& walk, int64_t size);

class BlendedDataset final : public Dataset {
 public:
  // ConfigError when the order asks for more than a part has.
  BlendedDataset(std::vector<std::shared_ptr<const Dataset>> parts, std::shared_ptr<const BlendOrder> order);
  int64_t size() const override { return order_->size(); }
  void read(int64_t index, Sample& out) const override;
  DocumentStarts starts(int64_t index) const override;
  const BlendOrder& order() const { return *order_; }

 private:
  BlendOrder::From from(int64_t index) const;
  std::vector<std::shared_ptr<const Dataset>> parts_;
  std::shared_ptr<const BlendOrder> order_;
};

}  // namespace weft::data
