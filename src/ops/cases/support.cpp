#include "ops/aten.h"

#include "ops/cases/modes.h"

#include <set>
#include <utility>

#include "ops/cases/without_data.h"
#include "ops/node.h"
#include "ops/select.h"

namespace weft::ops::cases {
namespace {

struct Answers {
  std::vector<Choice> choices;
  std::string ended;  // why the row was not asked to its end, or empty
};

// Forward and backward, answered by every candidate for `policy.device`; the reference stands in for what is never run.
Answers ask(const Case& c, const Build& build, Policy policy) {
  const at::AutoGradMode with_grad(true);
  Answers a;
  std::vector<Choice> choices;
  policy.trace = &choices, policy.trace_backward = true, policy.reference_allowed = {"*"}, policy.only = kAskOnly;
  try {
    Instance i = c.build(build);
    for (at::Tensor& t : i.inputs) t = t.detach().requires_grad_(t.is_floating_point());
    for (Weight& w : i.weights)
      if (w.trainable) w.main_grad = at::zeros(w.value.sizes(), w.value.options().dtype(at::kFloat));
    variable_list roots, seeds;
    for (const at::Tensor& y : i.op(i.inputs, i.weights, policy))
      if (y.defined() && y.requires_grad()) roots.push_back(y), seeds.push_back(at::ones_like(y));
    if (!roots.empty()) run_backward(roots, seeds);
  } catch (const std::exception& e) {
    a.ended = e.what(), a.ended.resize(std::min(a.ended.find('\n'), a.ended.size()));
  }
  a.choices = std::move(choices);
  return a;
}

}  // namespace

// Nothing is computed: candidates are asked with tensors that have shapes, dtypes and strides and no data. A row whose reference wants
// values is asked again on the CPU, where it is small. Ends with a count of the rows that nobody takes.
void run_support(const Filter& filter, const Sink& sink) {
#ifndef WEFT_CUDA
  if (filter.hopper) throw UnavailableError("bench ops: --hopper: this build has no CUDA kernels to ask");
#endif
  Policy policy = policy_on(filter.device);
  if (filter.hopper) policy.device = {kernels::Device::kCuda, 90, 132, 232448, 0};
  const std::shared_ptr<void> meta = shapes_without_data();
  std::set<std::string> ops;
  int rows = 0, model_rows = 0;
  std::vector<std::string> none, none_of_a_model;
  for (const Case& c : table()) {
    if (!selected(filter, c)) continue;
    ops.insert(c.op);
    for (const at::ScalarType dtype : c.dtypes) {
      Answers a = ask(c, {dtype, at::kMeta, 1}, policy);
      if (!a.ended.empty() && !c.perf && !c.large) a = ask(c, {dtype, at::kCPU, 1}, policy);
      std::vector<std::pair<std::string, std::string>> taken;  // op, first candidate that takes it
      std::string line, refusals, nobody;
      for (const Choice& choice : a.choices) {
        auto known = std::find_if(taken.begin(), taken.end(), [&](const auto& t) { return t.first == choice.op; });
        if (known == taken.end()) known = taken.insert(taken.end(), {choice.op, ""});
        if (choice.refusal.empty() && known->second.empty()) known->second = choice.candidate;
        if (!choice.refusal.empty()) refusals += "\n    " + choice.op + ": " + choice.candidate + " refuses: " + choice.refusal;
      }
      for (const auto& [op, candidate] : taken) {
        line += "  " + op + " -> " + (candidate.empty() ? "NONE" : candidate);
        if (candidate.empty()) nobody = op;
      }
      if (!a.ended.empty()) line += (taken.empty() ? "  not asked (" : "  (ended: ") + a.ended + ")";
      if (line.empty()) line = "  composed of other ops";
      const bool of_a_model = c.perf && dtype == at::kBFloat16;
      ++rows, model_rows += of_a_model;
      if (!nobody.empty()) (of_a_model ? none_of_a_model : none).push_back(c.op + "/" + c.row + " " + dtype_name(dtype) + " (" + nobody + ")");
      sink({c.op, c.row, dtype_name(dtype) + line + refusals, a.ended.empty() && !(of_a_model && !nobody.empty()), {}});
    }
  }
  if (rows == 0) return;
  std::string detail = "rows of NAM56R's and dense models' shapes without a candidate: " + std::to_string(none_of_a_model.size());
  for (const std::string& name : none_of_a_model) detail += "\n    " + name;
  detail += "\n    other rows (small, odd, fp32 of a bf16 model), which the reference takes where the policy lets it: " + std::to_string(none.size());
  for (const std::string& name : none) detail += "\n    " + name;
  sink({"summary", "support", detail, none_of_a_model.empty(),
        {{"ops", static_cast<double>(ops.size())}, {"rows", static_cast<double>(rows)}, {"model_rows", static_cast<double>(model_rows)},
         {"model_rows_without", static_cast<double>(none_of_a_model.size())}, {"other_rows_without", static_cast<double>(none.size())}}});
}

}  // namespace weft::ops::cases
