#include "ops/aten.h"

#include "data/batch.h"

#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include "base/error.h"

namespace weft::data {
namespace {

// Tensors of one batch that are kept while others use them. Fresh memory would cost a page fault every 170 tokens, ten times
// what filling it does.
struct Buffers {
  at::Tensor tokens, targets, loss_weights, positions;
  Buffers(int64_t count, bool pin) {
    const auto options = at::TensorOptions().pinned_memory(pin);
    tokens = at::empty({count}, options.dtype(at::kLong));
    targets = at::empty({count}, options.dtype(at::kLong));
    loss_weights = at::empty({count}, options.dtype(at::kFloat));
    positions = at::empty({count}, options.dtype(at::kInt));
  }
  bool free_for(int64_t count) const {
    if (tokens.numel() != count) return false;
    for (const at::Tensor* t : {&tokens, &targets, &loss_weights, &positions}) {
      if (t->use_count() != 1 || t->storage().use_count() != 1) return false;  // a view shares the storage
    }
    return true;
  }
};

class BufferPool {
 public:
  explicit BufferPool(bool pin) : pin_(pin) {}
  Buffers take(int64_t count) {
    if (pin_) return {count, true};  // torch keeps pinned memory itself, and knows which copies to the device still read it
    for (const Buffers& b : all_) {
      if (b.free_for(count)) return b;
    }
    if (all_.size() == kKept) all_.erase(all_.begin());  // a caller that keeps many batches pays for fresh memory
    return all_.emplace_back(count, false);
  }

 private:
  static constexpr size_t kKept = 16;
  bool pin_;
  std::vector<Buffers> all_;
};

// One sample behind another into the row.
class Filler {
 public:
  Filler(const Buffers& b, bool pin, int64_t vocab_size) : total_(b.tokens.numel()), vocab_size_(vocab_size), pin_(pin) {
    out_.tokens = b.tokens, out_.targets = b.targets, out_.loss_weights = b.loss_weights, out_.positions = b.positions;
  }

  void add(const Sample& s, int64_t index) {
    const int64_t n = s.inputs();
    if (at_ + n > total_) throw ShapeError("batch: samples of different lengths: got " + std::to_string(n) + " tokens, want " + std::to_string(total_ - at_) + " at most");
    int64_t* tokens = out_.tokens.mutable_data_ptr<int64_t>() + at_;
    int64_t* targets = out_.targets.mutable_data_ptr<int64_t>() + at_;
    float* weights = out_.loss_weights.mutable_data_ptr<float>() + at_;
    int32_t* positions = out_.positions.mutable_data_ptr<int32_t>() + at_;
    const int32_t* ids = s.tokens.data();
    if (vocab_size_ > 0) check_ids(s, index);
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) tokens[i] = ids[i];
    if (n > 1) std::memcpy(targets, tokens + 1, static_cast<size_t>(n - 1) * sizeof *targets);
    if (n > 0) targets[n - 1] = ids[n];
    if (index < 0) std::fill_n(weights, n, 0.0f);
    else std::memcpy(weights, s.loss_weights.data(), static_cast<size_t>(n) * 4);
    for (size_t d = 0; d < s.document_starts.size(); ++d) {
      const int32_t begin = s.document_starts[d];
      const int32_t end = d + 1 < s.document_starts.size() ? s.document_starts[d + 1] : static_cast<int32_t>(n);
#pragma omp simd
      for (int32_t i = begin; i < end; ++i) positions[i] = i - begin;
      lengths_.push_back(end - begin);
    }
    if (!s.streams.empty()) {
      if (!out_.streams.defined()) out_.streams = at::full({static_cast<int64_t>(s.streams.size()), total_}, -1, at::TensorOptions().dtype(at::kInt).pinned_memory(pin_));
      for (size_t k = 0; k < s.streams.size(); ++k) {
        if (s.streams[k].empty() || index < 0) continue;  // absent
        std::memcpy(out_.streams.mutable_data_ptr<int32_t>() + static_cast<int64_t>(k) * total_ + at_, s.streams[k].data(), static_cast<size_t>(n) * 4);
      }
    }
    at_ += n;
  }

  Batch finish() {
    if (at_ != total_) throw ShapeError("batch: samples of different lengths: got " + std::to_string(at_) + " tokens, want " + std::to_string(total_));
    out_.packing = ops::Packing::of(lengths_);
    return std::move(out_);
  }

 private:
  void check_ids(const Sample& s, int64_t index) const {
    uint32_t highest = 0;  // a negative id is above any vocabulary
#pragma omp simd reduction(max : highest)
    for (size_t i = 0; i < s.tokens.size(); ++i) highest = std::max(highest, static_cast<uint32_t>(s.tokens[i]));
    if (static_cast<int64_t>(highest) < vocab_size_) return;
    throw InputError("batch: sample " + std::to_string(index) + ": token id outside the vocabulary: got " + std::to_string(static_cast<int32_t>(highest)) + ", want below " +
                     std::to_string(vocab_size_) + "\ntry: model.vocab_size of the tokenizer that made the data, or weft inspect data");
  }

  Batch out_;
  int64_t total_, at_ = 0, vocab_size_;
  bool pin_;
  std::vector<int32_t> lengths_;
};

Batch fill(const Dataset& dataset, const std::vector<int64_t>& indices, BufferPool& pool, bool pin, int64_t vocab_size) {
  if (indices.empty()) throw ConfigError("batch: micro_batch: got 0, want at least 1");
  thread_local Sample sample;
  std::optional<Filler> filler;
  for (const int64_t index : indices) {
    dataset.read(index < 0 ? 0 : index, sample);
    if (!filler) filler.emplace(pool.take(sample.inputs() * static_cast<int64_t>(indices.size())), pin, vocab_size);
    filler->add(sample, index);
  }
  return filler->finish();
}

class DirectStream final : public BatchStream {
 public:
  DirectStream(std::shared_ptr<const Dataset> dataset, std::shared_ptr<const SampleOrder> order, const BatchConfig& config, Cursor from)
      : dataset_(std::move(dataset)), order_(std::move(order)), config_(config), cursor_(from), pool_(config.pin_memory) {}
  Batch next() override {
    std::vector<int64_t> indices;
    for (int64_t i = 0; i < config_.micro_batch; ++i) indices.push_back(order_->at(cursor_.consumed_samples + config_.rank * config_.micro_batch + i));
    Batch batch = fill(*dataset_, indices, pool_, config_.pin_memory, config_.vocab_size);
    cursor_.consumed_samples += config_.micro_batch * config_.ranks;
    return batch;
  }
  Cursor cursor() const override { return cursor_; }

 private:
  std::shared_ptr<const Dataset> dataset_;
  std::shared_ptr<const SampleOrder> order_;
  BatchConfig config_;
  Cursor cursor_;
  BufferPool pool_;
};

class AheadStream final : public BatchStream {
 public:
  AheadStream(std::unique_ptr<BatchStream> inner, int depth) : cursor_(inner->cursor()), inner_(std::move(inner)), depth_(static_cast<size_t>(depth)), thread_([this] { work(); }) {}
  ~AheadStream() override {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  Batch next() override {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !ready_.empty() || error_; });
    if (ready_.empty()) std::rethrow_exception(error_);
    auto [batch, cursor] = std::move(ready_.front());
    ready_.pop_front();
    cursor_ = cursor;
    lock.unlock();
    changed_.notify_all();
    return std::move(batch);
  }
  Cursor cursor() const override { return cursor_; }

 private:
  void work() {
    try {
      for (;;) {
        Batch batch = inner_->next();
        std::unique_lock lock(mutex_);
        ready_.emplace_back(std::move(batch), inner_->cursor());
        changed_.notify_all();
        changed_.wait(lock, [&] { return stop_ || ready_.size() < depth_; });
        if (stop_) return;
      }
    } catch (...) {
      std::lock_guard lock(mutex_);
      error_ = std::current_exception();
      changed_.notify_all();
    }
  }
  Cursor cursor_;
  std::unique_ptr<BatchStream> inner_;
  size_t depth_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<Batch, Cursor>> ready_;
  std::exception_ptr error_;
  bool stop_ = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace

Batch make_batch(const Dataset& dataset, const std::vector<int64_t>& indices, bool pin_memory, int64_t vocab_size) {
  BufferPool pool(pin_memory);
  return fill(dataset, indices, pool, pin_memory, vocab_size);
}

std::unique_ptr<BatchStream> make_stream(std::shared_ptr<const Dataset> dataset, std::shared_ptr<const SampleOrder> order, const BatchConfig& config, Cursor from) {
  if (config.micro_batch < 1) throw ConfigError("batch: micro_batch: got " + std::to_string(config.micro_batch) + ", want at least 1");
  if (config.ranks < 1 || config.rank < 0 || config.rank >= config.ranks) {
    throw ConfigError("batch: data-parallel rank: got " + std::to_string(config.rank) + " of " + std::to_string(config.ranks));
  }
  auto direct = std::make_unique<DirectStream>(std::move(dataset), std::move(order), config, from);
  if (config.read_ahead == 0) return direct;
  return std::make_unique<AheadStream>(std::move(direct), config.read_ahead);
}

}  // namespace weft::data
