#include "data/structure/call_graph.h"

#include <algorithm>

namespace weft::data {

std::vector<int32_t> dep_levels(const CallGraph& g) {
  const auto n = static_cast<size_t>(g.functions());
  std::vector<int64_t> first_caller(n + 1, 0);
  for (const int32_t c : g.callees) ++first_caller[static_cast<size_t>(c) + 1];
  for (size_t i = 0; i < n; ++i) first_caller[i + 1] += first_caller[i];
  std::vector<int32_t> callers(g.callees.size()), level(n, 0), open(n, 0), ready;
  std::vector<int64_t> fill(first_caller.begin(), first_caller.end() - 1);
  for (size_t f = 0; f < n; ++f) {
    for (int64_t i = g.first[f]; i < g.first[f + 1]; ++i) callers[static_cast<size_t>(fill[static_cast<size_t>(g.callees[static_cast<size_t>(i)])]++)] = static_cast<int32_t>(f);
    open[f] = static_cast<int32_t>(g.first[f + 1] - g.first[f]);
    if (open[f] == 0) ready.push_back(static_cast<int32_t>(f));
  }
  int32_t highest = 0;
  for (size_t done = 0; done < ready.size(); ++done) {
    const auto f = static_cast<size_t>(ready[done]);
    highest = std::max(highest, level[f]);
    for (int64_t i = first_caller[f]; i < first_caller[f + 1]; ++i) {
      const auto caller = static_cast<size_t>(callers[static_cast<size_t>(i)]);
      level[caller] = std::max(level[caller], level[f] + 1);
      if (--open[caller] == 0) ready.push_back(static_cast<int32_t>(caller));
    }
  }
  for (size_t f = 0; f < n; ++f) {
    if (open[f] > 0) level[f] = highest + 1;
  }
  return level;
}

}  // namespace weft::data
