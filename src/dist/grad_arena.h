// Where gradients accumulate: one flat buffer, cut in buckets in the order of backward, with each weight's `main_grad` a view.
//
// Goals: fp32 accumulation whatever the compute dtype; one buffer for the optimizer and the norm; a bucket's reduction starts
// the moment its last dW of the step is really there (Weight::done), not at a hook on activations. One rank: nothing is copied.
// Non-goals: who owns which part of the optimizer's state (optim/).
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/comm.h"
#include "ops/weight.h"

namespace weft {

struct ArenaOptions {
  int64_t bucket_elements = 40'000'000;  // a bucket closes when it has at least this many
  int64_t align_elements = 64;           // each weight starts at a multiple
  bool f64 = false;                      // parity runs
  const char* name = "grads";
};

class GradArena final : public ops::GradSink {
 public:
  struct Slot {
    ops::Weight* weight;
    int64_t offset, numel;  // elements in flat()
    int bucket;
  };
  struct Bucket {
    int64_t offset, numel;  // with padding; padding stays zero
    std::vector<int> slots;
  };

  // Sets main_grad and sink of every trainable weight (zeroed), in reverse of the given order: backward meets the last first.
  // `reduce` sums over replicas and outlives the arena; a frozen weight gets nothing. A weight given twice is an InternalError.
  GradArena(std::span<ops::Weight* const> weights, Comm& reduce, const ArenaOptions& = {});
  ~GradArena() override;
  GradArena(const GradArena&) = delete;
  GradArena& operator=(const GradArena&) = delete;

  void zero();  // before the first micro-batch of a step
  // Before each backward. In the first step the uses of each weight are counted, from then on a bucket is reduced as soon as
  // the last micro-batch has used each of its weights that often.
  void begin_backward(bool last_of_step);
  void finish();  // after the last backward: reduces what is left. InternalError when a weight was used less or more than before

  at::Tensor flat() const { return flat_; }
  std::span<const Slot> slots() const { return slots_; }
  std::span<const Bucket> buckets() const { return buckets_; }
  const std::vector<int>& reduced_order() const { return order_; }  // buckets of this step, for tests and traces

 private:
  void used(ops::Weight&) override;
  void reduce(int bucket);

  Comm& comm_;
  ArenaOptions options_;
  at::Tensor flat_, scratch_;
  std::vector<Slot> slots_;
  std::vector<Bucket> buckets_;
  std::vector<int> uses_, expected_;  // a slot: in this backward; in the first one
  std::vector<int> open_;             // a bucket: slots not yet done
  std::vector<char> reduced_;
  std::vector<int> order_;
  bool counted_ = false, last_ = false;
};

}  // namespace weft
