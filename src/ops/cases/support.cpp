#include "ops/aten.h"

#include "ops/cases/modes.h"

#include <utility>

#include "ops/select.h"

namespace weft::ops::cases {

// Runs each row and reads the trace: the answers are those of real calls, forward and backward. Asked for Hopper on a machine without it,
// the reference runs instead: on the CPU, large rows on tensors without data. A row that reads values before it asks is not asked.
void run_support(const Filter& filter, const Sink& sink) {
#ifndef WEFT_CUDA
  if (filter.hopper) throw UnavailableError("bench ops: --hopper: this build has no CUDA kernels to ask");
#endif
  for (const Case& c : table()) {
    if (!selected(filter, c)) continue;
    for (const at::ScalarType dtype : c.dtypes) {
      Result r{c.op, c.row, dtype_name(dtype), true, {}};
      std::vector<Choice> choices;
      Policy policy = policy_on(filter.device);
      policy.trace = &choices, policy.trace_backward = true, policy.reference_allowed = {"*"};
      at::Device device = filter.device;
      if (filter.hopper) {
        policy.only = kAskOnly, policy.device = {kernels::Device::kCuda, 90, 132, 232448, 0};
        device = c.perf ? at::Device(at::kMeta) : at::Device(at::kCPU);
      }
      std::string stopped;
      try {
        const Instance i = c.build({dtype, device, 1});
        const auto outputs = run_row(i, policy, false, {}).outputs;
        const std::vector<Choice> forward = std::exchange(choices, {});
        try {
          run_row(i, policy, false, cotangents(outputs, 1));
        } catch (...) {
          if (choices.empty()) choices = forward;
          throw;
        }
      } catch (const std::exception& e) {
        stopped = e.what(), stopped.resize(std::min(stopped.find('\n'), stopped.size()));
        r.ok = filter.hopper && c.perf;  // a reference that reads values ends a row without data early: its answers stand
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
      if (!stopped.empty()) line += (taken.empty() && r.ok ? "  not asked (" : "  (ended: ") + stopped + ")";
      r.detail.insert(dtype_name(dtype).size(), taken.empty() && stopped.empty() ? "  composed of other ops" : line);
      sink(r);
    }
  }
}

}  // namespace weft::ops::cases
