// Work done by several threads, taken back in the order it was given: the result does not depend on their number.
#pragma once
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace weft::data {

template <class In, class Out>
class OrderedWork {
 public:
  OrderedWork(int workers, std::function<Out(In&)> work) : work_(std::move(work)) {
    for (int i = 0; i < workers; ++i) threads_.emplace_back([this] { serve(); });
  }
  ~OrderedWork() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& t : threads_) t.join();
  }
  void give(In in) {
    {
      std::lock_guard lock(mutex_);
      todo_.emplace_back(given_++, std::move(in));
    }
    wake_.notify_one();
  }
  int64_t pending() const { return given_ - taken_; }  // given and not yet taken back; for the giving thread
  // The oldest result; waits for it if asked, else empty when it is not there yet. Rethrows what its work threw.
  std::optional<Out> take(bool wait) {
    std::unique_lock lock(mutex_);
    auto it = done_.find(taken_);
    if (it == done_.end()) {
      if (!wait || pending() == 0) return std::nullopt;
      ready_.wait(lock, [&] { return (it = done_.find(taken_)) != done_.end(); });
    }
    Result result = std::move(it->second);
    done_.erase(it);
    ++taken_;
    lock.unlock();
    if (result.error) std::rethrow_exception(result.error);
    return std::move(result.out);
  }

 private:
  struct Result {
    std::optional<Out> out;
    std::exception_ptr error;
  };
  void serve() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return stop_ || !todo_.empty(); });
      if (stop_) return;
      auto [index, in] = std::move(todo_.front());
      todo_.pop_front();
      lock.unlock();
      Result result;
      try {
        result.out.emplace(work_(in));
      } catch (...) {
        result.error = std::current_exception();
      }
      lock.lock();
      done_.emplace(index, std::move(result));
      ready_.notify_one();
    }
  }
  std::function<Out(In&)> work_;
  std::mutex mutex_;
  std::condition_variable wake_, ready_;
  std::deque<std::pair<int64_t, In>> todo_;
  std::map<int64_t, Result> done_;
  int64_t given_ = 0, taken_ = 0;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace weft::data
