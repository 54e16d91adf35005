// Weight gradients put off by a pipeline: backward passes leave them here, the schedule's kBackwardWeight drains them.
// One queue belongs to one micro-batch of one stage, and to one thread.
#pragma once
#include <deque>
#include <functional>
#include <utility>

namespace weft::ops {

class WgradQueue {
 public:
  void put(std::function<void()> work) { waiting_.push_back(std::move(work)); }  // holds the tensors it needs
  size_t size() const { return waiting_.size(); }
  void drain() {  // in the order of the backward; each entry's tensors are freed as soon as it ran
    while (!waiting_.empty()) {
      const std::function<void()> work = std::move(waiting_.front());
      waiting_.pop_front();
      work();
    }
  }

 private:
  std::deque<std::function<void()>> waiting_;
};

}  // namespace weft::ops
