#include "text/corpus_words.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>

#include "base/error.h"

namespace weft::text {
namespace {
constexpr int64_t kJoinEvery = 64 << 20;  // bytes of text between two looks at the memory
}  // namespace

CorpusWords::CorpusWords(const std::string& pattern, int64_t memory_bytes, int threads)
    : regex_(pattern, "tokenizer pattern"), memory_bytes_(memory_bytes),
      threads_(threads > 0 ? static_cast<size_t>(threads) : std::max(1u, std::thread::hardware_concurrency())) {
  if (memory_bytes < (16 << 20)) {
    throw ConfigError("train tokenizer: memory: got " + std::to_string(memory_bytes) + " bytes, want at least 16 MiB");
  }
}

void CorpusWords::count(std::string_view text, Matcher& matcher, WordCount& out) const {
  matcher.start(text);
  size_t done = 0, begin = 0, end = 0;
  while (matcher.next(begin, end)) {
    if (begin > done) out.add(text.substr(done, begin - done));
    if (end > begin) out.add(text.substr(begin, end - begin));
    done = end;
  }
  if (done < text.size()) out.add(text.substr(done));
}

void CorpusWords::join_latest() {
  for (WordCount& w : latest_) {
    for (const auto& word : w.words()) words_.add(w.text(word), word.count);
    w.clear();
  }
  since_join_ = 0;
  // Training needs about four times the words' own memory: symbols, pairs and where they occur.
  const size_t limit = static_cast<size_t>(memory_bytes_) / 5;
  if (words_.memory_bytes() > limit) {
    const auto [dropped, bytes] = words_.drop_rarest(limit / 2);
    stats_.dropped_words += dropped, stats_.dropped_bytes += bytes;
  }
}

const WordCount& CorpusWords::finish() {
  join_latest();
  stats_.words = static_cast<int64_t>(words_.words().size());
  return words_;
}

void CorpusWords::add(std::span<const std::string_view> texts) {
  const size_t threads = std::clamp<size_t>(threads_, 1, std::max<size_t>(1, texts.size()));
  if (latest_.size() < threads) latest_.resize(threads);
  for (size_t begin = 0; begin < texts.size();) {
    // Groups end where enough text has been seen, whatever the calls and threads are.
    size_t end = begin;
    while (end < texts.size() && since_join_ < kJoinEvery) {
      since_join_ += static_cast<int64_t>(texts[end].size());
      stats_.bytes += static_cast<int64_t>(texts[end].size());
      ++end;
    }
    stats_.texts += static_cast<int64_t>(end - begin);
    std::atomic<size_t> next{begin};
    std::exception_ptr error;
    std::mutex error_mutex;
    const auto work = [&](size_t me) {
      try {
        Matcher matcher(regex_);
        for (size_t i; (i = next.fetch_add(1)) < end;) count(texts[i], matcher, latest_[me]);
      } catch (...) {
        const std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
        next = end;
      }
    };
    std::vector<std::thread> others;
    for (size_t t = 1; t < threads && t < end - begin; ++t) others.emplace_back(work, t);
    work(0);
    for (std::thread& t : others) t.join();
    if (error) std::rethrow_exception(error);
    if (since_join_ >= kJoinEvery) join_latest();
    begin = end;
  }
}

}  // namespace weft::text
