#include "data/balanced_order.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "data/packing.h"

namespace weft::data {

double attention_work(const DocumentStarts& s) {
  double sum = 0;
  for (size_t d = 0; d < s.starts.size(); ++d) {
    const int64_t end = d + 1 < s.starts.size() ? s.starts[d + 1] : s.inputs;
    const auto n = static_cast<double>(end - s.starts[d]);
    sum += n * n;
  }
  return sum;
}

BalancedOrder::BalancedOrder(std::shared_ptr<const SampleOrder> order, std::shared_ptr<const Dataset> samples, Shape shape, int64_t first)
    : order_(std::move(order)), samples_(std::move(samples)), shape_(shape), first_(first) {
  if (shape.micro_batch < 1 || shape.ranks < 1 || shape.batch < 1 || shape.batch % (shape.micro_batch * shape.ranks) != 0) {
    throw ConfigError(fmt::format("balanced order: batch: got {}, want a multiple of {} samples on each of {} ranks", shape.batch, shape.micro_batch, shape.ranks));
  }
}

int64_t BalancedOrder::at(int64_t place) const {
  if (place < first_) return order_->at(place);
  const std::lock_guard lock(mutex_);
  if (const int64_t step = (place - first_) / shape_.batch; step != step_) plan(step);
  return plan_[static_cast<size_t>((place - first_) % shape_.batch)];
}

void BalancedOrder::plan(int64_t step) const {
  std::vector<int64_t> index;
  std::vector<double> work;
  for (int64_t i = 0; i < shape_.batch; ++i) {
    index.push_back(order_->at(first_ + step * shape_.batch + i));
    work.push_back(index.back() < 0 ? 0 : attention_work(samples_->starts(index.back())));  // past the end: padding, which every rank may have
  }
  const auto of_rank = spread(work, shape_.ranks);
  plan_.resize(index.size());
  for (int64_t rank = 0; rank < shape_.ranks; ++rank) {
    for (int64_t nth = 0; nth < shape_.batch / shape_.ranks; ++nth) {
      const int64_t place = nth / shape_.micro_batch * shape_.micro_batch * shape_.ranks + rank * shape_.micro_batch + nth % shape_.micro_batch;
      plan_[static_cast<size_t>(place)] = index[static_cast<size_t>(of_rank[static_cast<size_t>(rank)][static_cast<size_t>(nth)])];
    }
  }
  step_ = step;
}

double imbalance(const SampleOrder& order, const Dataset& samples, const BalancedOrder::Shape& shape, int64_t first) {
  std::vector<double> load(static_cast<size_t>(shape.ranks), 0);
  for (int64_t i = 0; i < shape.batch; ++i) {
    const int64_t index = order.at(first + i);
    if (index >= 0) load[static_cast<size_t>(i / shape.micro_batch % shape.ranks)] += attention_work(samples.starts(index));
  }
  const double sum = std::accumulate(load.begin(), load.end(), 0.0);
  return sum > 0 ? *std::max_element(load.begin(), load.end()) * static_cast<double>(shape.ranks) / sum : 1;
}

}  // namespace weft::data
