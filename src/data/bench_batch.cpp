#include "ops/aten.h"

#include <time.h>

#include <chrono>
#include <numeric>

#include "data/batch.h"
#include "data/bench.h"

namespace weft::data {

namespace {

double core_seconds() {  // of this thread: what a busy machine takes away is not counted
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

}  // namespace

Json bench_batches(const BenchOptions& o) {
  const std::string prefix = o.folder + "/batches";
  IndexedWriter writer(prefix, TokenType::kU16);
  std::vector<int32_t> document;
  for (int64_t d = 0; writer.tokens() < o.tokens / 4; ++d) {
    document.resize(static_cast<size_t>(1 + d * 7919 % 3000));
    std::iota(document.begin(), document.end(), static_cast<int32_t>(d % 30000));
    writer.add_document(document);
  }
  writer.finish();
  const auto windows = std::make_shared<TokenWindows>(std::make_shared<const IndexedTokens>(IndexedTokens::open(prefix)), o.seq_len, false);
  const auto order = std::make_shared<EpochOrder>(windows->size(), 7, true);
  const auto stream = make_stream(windows, order, {.micro_batch = 4, .read_ahead = 0});
  const int64_t batches = windows->size() / 4;
  double best = 0, best_core = 0;
  for (int pass = 0; pass < 3; ++pass) {
    const auto begin = std::chrono::steady_clock::now();
    const double core = core_seconds();
    for (int64_t i = 0; i < batches; ++i) stream->next();
    const double tokens = static_cast<double>(batches * 4 * o.seq_len);
    best = std::max(best, tokens / std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    best_core = std::max(best_core, tokens / (core_seconds() - core));
  }
  return {{"batch_tokens_per_s", best}, {"batch_tokens_per_core_s", best_core}};
}

}  // namespace weft::data
