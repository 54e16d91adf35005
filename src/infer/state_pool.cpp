#include "ops/aten.h"

#include "infer/state_pool.h"

#include "base/error.h"
#include "ops/tensors.h"

namespace weft::infer {

using nn::StateSpec;

namespace {

std::vector<int64_t> pool_shape(const StateSpec& s, const PoolSize& size) {
  std::vector<int64_t> shape{s.grows == StateSpec::kPerSequence ? size.sequences : size.pages * size.page_tokens};
  shape.insert(shape.end(), s.shape.begin(), s.shape.end());
  return shape;
}

}  // namespace

StatePool::StatePool(std::span<const StateSpec> specs, const PoolSize& size, at::Device device)
    : page_tokens_(size.page_tokens), device_(device), sequences_(static_cast<size_t>(size.sequences)) {
  for (const StateSpec& s : specs)
    pools_[s.name] = at::zeros(pool_shape(s, size), at::TensorOptions().device(device).dtype(ops::scalar_type(s.dtype)));
  for (int64_t p = size.pages; p > 0; --p) free_.push_back(p - 1);
}

int64_t StatePool::bytes(std::span<const StateSpec> specs, const PoolSize& size) {
  int64_t total = 0;
  for (const StateSpec& s : specs) {
    int64_t n = 1;
    for (int64_t d : pool_shape(s, size)) n *= d;
    total += static_cast<int64_t>(weft::bytes(s.dtype, static_cast<size_t>(n)));
  }
  return total;
}

int StatePool::open() {
  for (size_t i = 0; i < sequences_.size(); ++i) {
    if (sequences_[i].open) continue;
    sequences_[i] = {true, 0, {}};
    return static_cast<int>(i);
  }
  throw OutOfMemoryError("state pool: sequences: got 1 more than the " + std::to_string(sequences_.size()) + " it has slots for");
}

void StatePool::close(int sequence) {
  Sequence& s = sequences_[static_cast<size_t>(sequence)];
  free_.insert(free_.end(), s.pages.rbegin(), s.pages.rend());
  s = {};
}

ops::Packing StatePool::plan(std::span<const int> sequences, const std::vector<int32_t>& lengths) {
  WEFT_CHECK(sequences.size() == lengths.size(), "one length a sequence");
  int64_t want = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const Sequence& s = sequences_[static_cast<size_t>(sequences[i])];
    want += pages_for(s.length + lengths[i]) - static_cast<int64_t>(s.pages.size());
  }
  if (want > free_pages())
    throw OutOfMemoryError("state pool: pages: want " + std::to_string(want) + " more, " + std::to_string(free_pages()) + " are free");

  planned_.assign(sequences.begin(), sequences.end());
  planned_lengths_ = lengths;
  std::vector<int64_t> write, read, slots(sequences.begin(), sequences.end());
  std::vector<int32_t> kv;
  for (size_t i = 0; i < sequences.size(); ++i) {
    Sequence& s = sequences_[static_cast<size_t>(sequences[i])];
    const int64_t end = s.length + lengths[i];
    while (static_cast<int64_t>(s.pages.size()) < pages_for(end)) s.pages.push_back(free_.back()), free_.pop_back();
    for (int64_t t = 0; t < end; ++t) {
      const int64_t row = s.pages[static_cast<size_t>(t / page_tokens_)] * page_tokens_ + t % page_tokens_;
      read.push_back(row);
      if (t >= s.length) write.push_back(row);
    }
    kv.push_back(static_cast<int32_t>(end));
  }
  const auto on_device = [&](const std::vector<int64_t>& v) { return at::tensor(v, at::kLong).to(device_); };
  write_index_ = on_device(write), read_index_ = on_device(read), slot_index_ = on_device(slots);
  ops::Packing p = ops::Packing::of(lengths, device_);
  p.kv_lens = at::tensor(kv, at::kInt).to(device_);
  p.host_kv_lens = kv;
  p.max_kv = kv.empty() ? 0 : *std::max_element(kv.begin(), kv.end());
  return p;
}

void StatePool::commit() {
  for (size_t i = 0; i < planned_.size(); ++i) sequences_[static_cast<size_t>(planned_[i])].length += planned_lengths_[i];
  planned_.clear();
}

at::Tensor StatePool::append(const std::string& name, const at::Tensor& tokens) {
  at::Tensor& pool = pools_.at(name);
  pool.index_copy_(0, write_index_, tokens.to(pool.scalar_type()));
  return pool.index_select(0, read_index_);
}

at::Tensor StatePool::load(const std::string& name) {
  at::Tensor state = pools_.at(name).index_select(0, slot_index_);
  for (size_t i = 0; i < planned_.size(); ++i)
    if (length(planned_[i]) == 0) state[static_cast<int64_t>(i)].zero_();
  return state;
}

void StatePool::store(const std::string& name, const at::Tensor& state) {
  at::Tensor& pool = pools_.at(name);
  pool.index_copy_(0, slot_index_, state.to(pool.scalar_type()));
}

}  // namespace weft::infer
