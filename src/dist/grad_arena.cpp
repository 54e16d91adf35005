#include "ops/aten.h"

#include "dist/grad_arena.h"

#include <unordered_map>

#include "base/error.h"

namespace weft {
namespace {

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

}  // namespace

GradArena::GradArena(std::span<ops::Weight* const> weights, Comm& reduce, const ArenaOptions& options) : comm_(reduce), options_(options) {
  int64_t at = 0;
  at::TensorOptions where = at::TensorOptions().dtype(options.f64 ? at::kDouble : at::kFloat);
  for (auto it = weights.rbegin(); it != weights.rend(); ++it) {
    ops::Weight& w = **it;
    if (!w.trainable) continue;
    WEFT_CHECK(w.value.defined(), w.name + " has no value yet");
    WEFT_CHECK(w.sink == nullptr, w.name + " is already in an arena");
    if (buckets_.empty() || at - buckets_.back().offset >= options.bucket_elements) buckets_.push_back({at, 0, {}});
    const int64_t n = w.value.numel();
    buckets_.back().slots.push_back(static_cast<int>(slots_.size()));
    slots_.push_back({&w, at, n, static_cast<int>(buckets_.size()) - 1});
    at += round_up(n, options.align_elements);
    buckets_.back().numel = at - buckets_.back().offset;
    w.sink = this;
    where = where.device(w.value.device());
  }
  flat_ = at::zeros({at}, where);
  if (comm_.size() > 1) {
    int64_t most = 0;
    for (const Bucket& b : buckets_) most = std::max(most, b.numel);
    scratch_ = at::empty({most}, where);
  }
  for (const Slot& s : slots_) s.weight->main_grad = flat_.narrow(0, s.offset, s.numel).view(s.weight->value.sizes());
  uses_.assign(slots_.size(), 0), expected_.assign(slots_.size(), 0);
  open_.assign(buckets_.size(), 0), reduced_.assign(buckets_.size(), 0);
}

GradArena::~GradArena() {
  for (const Slot& s : slots_)
    if (s.weight->sink == this) s.weight->sink = nullptr, s.weight->main_grad = at::Tensor();
}

void GradArena::zero() {
  flat_.zero_();
  std::fill(reduced_.begin(), reduced_.end(), 0);
  order_.clear();
}

void GradArena::begin_backward(bool last_of_step) {
  std::fill(uses_.begin(), uses_.end(), 0);
  last_ = last_of_step;
  for (size_t b = 0; b < buckets_.size(); ++b) {
    open_[b] = 0;
    for (int s : buckets_[b].slots) open_[b] += expected_[static_cast<size_t>(s)] > 0 ? 1 : 0;
  }
}

void GradArena::used(ops::Weight& w) {
  // main_grad is a view of flat_: its offset finds the slot without a map.
  const int64_t at = w.main_grad.storage_offset();
  const auto it = std::lower_bound(slots_.begin(), slots_.end(), at, [](const Slot& s, int64_t v) { return s.offset < v; });
  WEFT_CHECK(it != slots_.end() && it->weight == &w, w.name + " is not in this arena");
  const size_t i = static_cast<size_t>(it - slots_.begin());
  ++uses_[i];
  if (!counted_) return;
  WEFT_CHECK(uses_[i] <= expected_[i], w.name + " was used " + std::to_string(uses_[i]) + " times, in the first step " + std::to_string(expected_[i]));
  if (!last_ || uses_[i] < expected_[i]) return;
  const int b = it->bucket;
  if (--open_[static_cast<size_t>(b)] == 0) this->reduce(b);
}

void GradArena::finish() {
  if (!counted_) expected_ = uses_;
  for (size_t i = 0; i < slots_.size(); ++i)
    WEFT_CHECK(uses_[i] == expected_[i], slots_[i].weight->name + " was used " + std::to_string(uses_[i]) + " times, in the first step " + std::to_string(expected_[i]));
  counted_ = true, last_ = false;
  for (size_t b = 0; b < buckets_.size(); ++b)
    if (!reduced_[b]) this->reduce(static_cast<int>(b));
}

void GradArena::reduce(int bucket) {
  const size_t i = static_cast<size_t>(bucket);
  WEFT_CHECK(!reduced_[i], "bucket " + std::to_string(bucket) + " was reduced twice in one step");
  reduced_[i] = 1;
  order_.push_back(bucket);
  if (comm_.size() == 1) return;
  const Bucket& b = buckets_[i];
  at::Tensor grads = flat_.narrow(0, b.offset, b.numel), sum = scratch_.narrow(0, 0, b.numel);
  comm_.all_reduce(grads.data_ptr(), sum.data_ptr(), static_cast<size_t>(b.numel), options_.f64 ? DType::kF64 : DType::kF32, Reduce::kSum, {options_.name});
  grads.copy_(sum);
}

}  // namespace weft
