#include "ops/aten.h"

#include "ops/cases/modes.h"

namespace weft::ops::cases {

// Runs each row and reads the trace: the answers are those of real calls, forward and backward.
void run_support(const Filter& filter, const Sink& sink) {
  for (const Case& c : table()) {
    if (!selected(filter, c)) continue;
    for (const at::ScalarType dtype : c.dtypes) {
      Result r{c.op, c.row, dtype_name(dtype), true, {}};
      std::vector<Choice> choices;
      Policy policy = policy_on(filter.device);
      policy.trace = &choices, policy.trace_backward = true, policy.reference_allowed = {"*"};
      try {
        const Instance i = c.build({dtype, filter.device, 1});
        const auto outputs = run_row(i, policy, false, {}).outputs;
        choices.clear();
        run_row(i, policy, false, cotangents(outputs, 1));
      } catch (const std::exception& e) {
        r.ok = false, r.detail += std::string(": ") + e.what();
      }
      std::vector<std::pair<std::string, std::string>> taken;  // op, first candidate that takes it
      for (const Choice& choice : choices) {
        auto known = std::find_if(taken.begin(), taken.end(), [&](const auto& t) { return t.first == choice.op; });
        if (known == taken.end()) known = taken.insert(taken.end(), {choice.op, ""});
        if (choice.refusal.empty() && known->second.empty()) known->second = choice.candidate;
        if (!choice.refusal.empty()) r.detail += "\n    " + choice.op + ": " + choice.candidate + " refuses: " + choice.refusal;
      }
      std::string line;
      for (const auto& [op, candidate] : taken) {
        line += "  " + op + " -> " + (candidate.empty() ? "NONE" : candidate);
        r.ok = r.ok && !candidate.empty();
      }
      r.detail.insert(dtype_name(dtype).size(), taken.empty() ? "  composed of other ops" : line);
      sink(r);
    }
  }
}

}  // namespace weft::ops::cases
