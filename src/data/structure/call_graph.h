// Who calls whom among the functions of a corpus.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace weft::data {

struct CallGraph {
  std::vector<int64_t> first{0};  // [functions + 1]
  std::vector<int32_t> callees;   // of function f: [first[f], first[f + 1]), in call order, no duplicates, f itself left out
  int32_t functions() const { return static_cast<int32_t>(first.size()) - 1; }
};
// 0 for a function that calls none of the others; else one more than the highest level of its callees. Functions in a cycle, and
// those that call into one, have one more than the highest level there is.
std::vector<int32_t> dep_levels(const CallGraph&);
// Direct and indirect callees, at most `levels` calls away, nearest first, in call order; without `root`. Stops when `want` says no.
template <class F>
void for_each_callee(const CallGraph& g, int32_t root, int levels, std::vector<int32_t>& seen_at, int32_t stamp, F&& want) {
  std::vector<int32_t> now{root}, next;
  seen_at[static_cast<size_t>(root)] = stamp;
  for (int level = 0; level < levels && !now.empty(); ++level, now.swap(next), next.clear()) {
    for (const int32_t f : now) {
      for (int64_t i = g.first[static_cast<size_t>(f)]; i < g.first[static_cast<size_t>(f) + 1]; ++i) {
        const int32_t c = g.callees[static_cast<size_t>(i)];
        if (seen_at[static_cast<size_t>(c)] == stamp) continue;
        seen_at[static_cast<size_t>(c)] = stamp;
        if (!want(c)) return;
        next.push_back(c);
      }
    }
  }
}

}  // namespace weft::data
