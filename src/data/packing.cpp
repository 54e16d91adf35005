#include "data/packing.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "base/error.h"

namespace weft::data {
namespace {

void check(std::span<const int64_t> lengths, int64_t capacity) {
  for (size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] < 1 || lengths[i] > capacity) {
      throw ConfigError("packing: sequence " + std::to_string(i) + " does not fit: got " + std::to_string(lengths[i]) + " tokens, want 1 to " + std::to_string(capacity));
    }
  }
}

void sort_by_first(std::vector<Pack>& packs) {
  std::sort(packs.begin(), packs.end(), [](const Pack& a, const Pack& b) { return a.members.front() < b.members.front(); });
}

}  // namespace

int64_t aligned(int64_t length, int64_t align) { return (length + align - 1) / align * align; }

std::vector<Pack> pack_next_fit(std::span<const int64_t> lengths, int64_t capacity) {
  check(lengths, capacity);
  std::vector<Pack> out;
  for (size_t i = 0; i < lengths.size(); ++i) {
    if (out.empty() || out.back().tokens + lengths[i] > capacity) out.emplace_back();
    out.back().members.push_back(static_cast<int64_t>(i));
    out.back().tokens += lengths[i];
  }
  return out;
}

std::vector<Pack> pack_first_fit(std::span<const int64_t> lengths, int64_t capacity, int64_t open) {
  check(lengths, capacity);
  if (open < 1) throw ConfigError("packing: open packs: got " + std::to_string(open) + ", want at least 1");
  std::vector<Pack> done, front;
  for (size_t i = 0; i < lengths.size(); ++i) {
    auto at = std::find_if(front.begin(), front.end(), [&](const Pack& p) { return p.tokens + lengths[i] <= capacity; });
    if (at == front.end()) {
      if (static_cast<int64_t>(front.size()) == open) {
        auto fullest = std::max_element(front.begin(), front.end(), [](const Pack& a, const Pack& b) { return a.tokens < b.tokens; });
        done.push_back(std::move(*fullest));
        front.erase(fullest);
      }
      front.emplace_back();
      at = front.end() - 1;
    }
    at->members.push_back(static_cast<int64_t>(i));
    at->tokens += lengths[i];
  }
  for (Pack& p : front) done.push_back(std::move(p));
  sort_by_first(done);
  return done;
}

std::vector<std::vector<int64_t>> spread(std::span<const double> work, int64_t ranks) {
  const auto count = static_cast<int64_t>(work.size());
  if (ranks < 1 || count % ranks != 0) throw ConfigError("packing: " + std::to_string(count) + " packs over ranks: got " + std::to_string(ranks) + " ranks, want a divisor");
  std::vector<int64_t> order(work.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return work[static_cast<size_t>(a)] > work[static_cast<size_t>(b)]; });
  std::vector<std::vector<int64_t>> out(static_cast<size_t>(ranks));
  std::vector<double> load(out.size(), 0);
  for (int64_t piece : order) {
    size_t best = load.size();
    for (size_t r = 0; r < load.size(); ++r) {
      if (static_cast<int64_t>(out[r].size()) < count / ranks && (best == load.size() || load[r] < load[best])) best = r;
    }
    out[best].push_back(piece);
    load[best] += work[static_cast<size_t>(piece)];
  }
  return out;
}

}  // namespace weft::data
