#include "ops/aten.h"

#include "train/memory.h"

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <fmt/format.h>

#include <atomic>

#include "base/cpu.h"
#include "base/error.h"
#include "base/text.h"

namespace weft::train {
namespace {

// Sees every tensor allocation of the threads that inherit it.
class Watcher final : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device) override {
    const int64_t now = live_ += size;
    int64_t most = peak_;
    while (now > most && !peak_.compare_exchange_weak(most, now)) {}
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t peak() const { return peak_; }

 private:
  std::atomic<int64_t> live_ = 0, peak_ = 0;
};

// The first `rows` x `tokens` of a sample, as a batch of its own.
data::Batch short_batch(const data::Dataset& set, int64_t rows, int64_t tokens) {
  data::Sample s;
  set.read(0, s);
  const int64_t n = std::min(tokens, s.inputs());
  std::vector<int64_t> ids(s.tokens.begin(), s.tokens.begin() + n), next(s.tokens.begin() + 1, s.tokens.begin() + n + 1);
  data::Batch b;
  b.tokens = at::tensor(ids, at::kLong).repeat({rows});
  b.targets = at::tensor(next, at::kLong).repeat({rows});
  b.loss_weights = at::ones({rows * n});
  if (!s.streams.empty()) b.streams = at::zeros({static_cast<int64_t>(s.streams.size()), rows * n}, at::kInt);
  b.positions = at::arange(n, at::kInt).repeat({rows});
  b.packing = ops::Packing::of(std::vector<int32_t>(static_cast<size_t>(rows), static_cast<int32_t>(n)));
  return b;
}

int64_t peak_of(Trainer& t, const data::Batch& b) {
  const auto watcher = std::make_shared<Watcher>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, watcher);
  t.rehearse(b);
  return watcher->peak();
}

}  // namespace

MemoryEstimate estimate_memory(Trainer& t, const data::Dataset& set, int64_t micro_batch, int64_t seq_len) {
  MemoryEstimate m;
  t.model().visit_params([&](nn::Param& p) { m.weights += static_cast<int64_t>(p.weight.value.nbytes()); });
  t.model().visit_buffers([&](const std::string&, at::Tensor& b) { m.buffers += static_cast<int64_t>(b.nbytes()); });
  m.masters_and_moments = t.optimizer().state_bytes();
  m.gradients = static_cast<int64_t>(t.arena().flat().nbytes());
  m.program = std::max<int64_t>(0, static_cast<int64_t>(cpu::memory_used()) - m.total());
  const int64_t small = std::min<int64_t>(seq_len, 128), n = micro_batch * seq_len;
  const data::Batch one = short_batch(set, 1, small), two = short_batch(set, 2, small);
  const int64_t t1 = one.tokens.numel(), t2 = two.tokens.numel();
  peak_of(t, one);  // tables that are made once
  const double p1 = static_cast<double>(peak_of(t, one)), p2 = static_cast<double>(peak_of(t, two));
  const double per_token = std::max(0.0, (p2 - p1) / static_cast<double>(t2 - t1));
  m.microbatch = static_cast<int64_t>(p1 + per_token * static_cast<double>(n - t1));
  return m;
}

std::string memory_text(const MemoryEstimate& m) {
  const auto b = [](int64_t n) { return human_bytes(static_cast<uint64_t>(std::max<int64_t>(n, 0))); };
  return fmt::format("weights {}, masters and moments {}, gradients {}, buffers {}, a micro-batch {}, the program itself {}: {} in all", b(m.weights),
                     b(m.masters_and_moments), b(m.gradients), b(m.buffers), b(m.microbatch), b(m.program), b(m.total()));
}

void check_memory(const MemoryEstimate& m, int64_t micro_batch, uint64_t available) {
  if (m.total() <= static_cast<int64_t>(available)) return;
  const int64_t fixed = m.total() - m.microbatch, left = static_cast<int64_t>(available) - fixed;
  const int64_t fits = left > 0 ? left * micro_batch / std::max<int64_t>(m.microbatch, 1) : 0;
  throw OutOfMemoryError(fmt::format("memory: the run wants {}, {} are available\n  {}\n  try: {}", human_bytes(static_cast<uint64_t>(m.total())), human_bytes(available), memory_text(m),
                                     fits >= 1 ? fmt::format("train.micro_batch = {}", fits) : "a smaller model, or a shorter data.seq_len"));
}

}  // namespace weft::train
