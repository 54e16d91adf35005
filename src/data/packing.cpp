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

StepPlan balance(std::vector<Pack> packs, std::span<const int64_t> lengths, int64_t ranks, const WorkModel& work) {
  if (ranks < 1) throw ConfigError("packing: ranks: got " + std::to_string(ranks) + ", want at least 1");
  const auto n_of = [&](int64_t member) { return lengths[static_cast<size_t>(member)]; };
  while (packs.size() % static_cast<size_t>(ranks) != 0) {
    // The pack with most sequences gives half of its tokens to a new one.
    auto donor = std::max_element(packs.begin(), packs.end(), [](const Pack& a, const Pack& b) { return a.members.size() < b.members.size(); });
    if (donor == packs.end() || donor->members.size() < 2) {
      throw ConfigError("packing: too few sequences for " + std::to_string(ranks) + " ranks: got " + std::to_string(packs.size()) + " packs of one");
    }
    Pack half;
    const int64_t total = donor->tokens;
    while (donor->members.size() > 1 && (half.members.empty() || half.tokens + n_of(donor->members.back()) <= total / 2)) {
      half.members.insert(half.members.begin(), donor->members.back());
      half.tokens += n_of(donor->members.back());
      donor->tokens -= n_of(donor->members.back());
      donor->members.pop_back();
    }
    packs.push_back(std::move(half));
  }
  sort_by_first(packs);
  std::vector<double> cost;
  for (const Pack& p : packs) {
    double sum = 0;
    for (int64_t m : p.members) sum += work.of(n_of(m));
    cost.push_back(sum);
  }
  // Heaviest first, to the rank with least work that still has room (Graham's rule with equal counts).
  std::vector<int64_t> order(packs.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return cost[static_cast<size_t>(a)] > cost[static_cast<size_t>(b)]; });
  StepPlan out;
  out.of_rank.resize(static_cast<size_t>(ranks));
  std::vector<double> load(static_cast<size_t>(ranks), 0);
  const size_t each = packs.size() / static_cast<size_t>(ranks);
  for (int64_t p : order) {
    size_t best = load.size();
    for (size_t r = 0; r < load.size(); ++r) {
      if (out.of_rank[r].size() < each && (best == load.size() || load[r] < load[best])) best = r;
    }
    out.of_rank[best].push_back(p);
    load[best] += cost[static_cast<size_t>(p)];
  }
  for (auto& list : out.of_rank) std::sort(list.begin(), list.end());
  out.packs = std::move(packs);
  return out;
}

}  // namespace weft::data
