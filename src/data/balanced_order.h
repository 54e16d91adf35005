// The samples of a step, spread over data-parallel ranks so that attention has about the same work on each (Megatron's
// DP-balanced scheduler). Packs are planned in one global order elsewhere; here only their ranks are chosen, so a step holds the
// same samples for any number of ranks, and the position stays one integer.
#pragma once
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "data/dataset.h"
#include "data/order.h"

namespace weft::data {

// Pairs of tokens that see each other, up to a factor: the sum of the squared lengths of its documents, padding among them.
// What is linear in tokens is the same for every sample of a set.
double attention_work(const DocumentStarts&);

// Places [first + k * batch, first + (k + 1) * batch) hold the samples that `order` has there. Each rank gets the same number,
// heaviest first, so that the micro-batches that run at one time are alike too. Places below `first` are as in `order`.
class BalancedOrder final : public SampleOrder {
 public:
  struct Shape { int64_t batch = 1, micro_batch = 1, ranks = 1; };  // as BatchConfig counts places
  // ConfigError when the batch is no multiple of micro_batch * ranks.
  BalancedOrder(std::shared_ptr<const SampleOrder> order, std::shared_ptr<const Dataset> samples, Shape shape, int64_t first);
  int64_t at(int64_t place) const override;

 private:
  void plan(int64_t step) const;
  std::shared_ptr<const SampleOrder> order_;
  std::shared_ptr<const Dataset> samples_;
  Shape shape_;
  int64_t first_;
  mutable std::mutex mutex_;  // the plan of the latest step is kept: it is read place by place
  mutable int64_t step_ = -1;
  mutable std::vector<int64_t> plan_;
};

// Work of the busiest rank over the mean in the `batch` places from `first` on, in that order; 1 is even.
double imbalance(const SampleOrder&, const Dataset&, const BalancedOrder::Shape&, int64_t first);

}  // namespace weft::data
