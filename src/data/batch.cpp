#include "ops/aten.h"

#include "data/batch.h"

#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "base/error.h"

namespace weft::data {
namespace {

// One sample behind another into the row.
class Filler {
 public:
  Filler(int64_t tokens, bool pin) : total_(tokens), pin_(pin) {
    const auto options = at::TensorOptions().pinned_memory(pin);
    out_.tokens = at::empty({tokens}, options.dtype(at::kLong));
    out_.targets = at::empty({tokens}, options.dtype(at::kLong));
    out_.loss_weights = at::empty({tokens}, options.dtype(at::kFloat));
    out_.positions = at::empty({tokens}, options.dtype(at::kInt));
  }

  void add(const Sample& s, bool padding) {
    const int64_t n = s.inputs();
    if (at_ + n > total_) throw ShapeError("batch: samples of different lengths: got " + std::to_string(n) + " tokens, want " + std::to_string(total_ - at_) + " at most");
    int64_t* tokens = out_.tokens.mutable_data_ptr<int64_t>() + at_;
    int64_t* targets = out_.targets.mutable_data_ptr<int64_t>() + at_;
    float* weights = out_.loss_weights.mutable_data_ptr<float>() + at_;
    int32_t* positions = out_.positions.mutable_data_ptr<int32_t>() + at_;
    const int32_t* ids = s.tokens.data();
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) tokens[i] = ids[i];
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) targets[i] = ids[i + 1];
    if (padding) std::fill_n(weights, n, 0.0f);
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
        if (s.streams[k].empty() || padding) continue;  // absent
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
  Batch out_;
  int64_t total_, at_ = 0;
  bool pin_;
  std::vector<int32_t> lengths_;
};

class DirectStream final : public BatchStream {
 public:
  DirectStream(std::shared_ptr<const Dataset> dataset, std::shared_ptr<const SampleOrder> order, const BatchConfig& config, Cursor from)
      : dataset_(std::move(dataset)), order_(std::move(order)), config_(config), cursor_(from) {}
  Batch next() override {
    std::vector<int64_t> indices;
    for (int64_t i = 0; i < config_.micro_batch; ++i) indices.push_back(order_->at(cursor_.consumed_samples + config_.rank * config_.micro_batch + i));
    Batch batch = make_batch(*dataset_, indices, config_.pin_memory);
    cursor_.consumed_samples += config_.micro_batch * config_.ranks;
    return batch;
  }
  Cursor cursor() const override { return cursor_; }

 private:
  std::shared_ptr<const Dataset> dataset_;
  std::shared_ptr<const SampleOrder> order_;
  BatchConfig config_;
  Cursor cursor_;
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

Batch make_batch(const Dataset& dataset, const std::vector<int64_t>& indices, bool pin_memory) {
  if (indices.empty()) throw ConfigError("batch: micro_batch: got 0, want at least 1");
  thread_local Sample sample;
  std::unique_ptr<Filler> filler;
  for (const int64_t index : indices) {
    dataset.read(index < 0 ? 0 : index, sample);
    if (!filler) filler = std::make_unique<Filler>(sample.inputs() * static_cast<int64_t>(indices.size()), pin_memory);
    filler->add(sample, index < 0);
  }
  return filler->finish();
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
