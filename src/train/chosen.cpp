#include "ops/aten.h"

#include "train/chosen.h"

#include <map>
#include <set>

#include "train/trainer.h"

namespace weft::train {

Json chosen_kernels(nn::Module& model, const data::Batch& batch, at::Device device, ops::Policy policy) {
  std::vector<ops::Choice> trace;
  policy.trace = &trace;
  {
    const at::NoGradGuard no_grad;
    model(nn::Flow{}, make_context(batch, device, policy));
  }
  // Every candidate answers each call, in one order an operator: a call begins where the first name comes again, and the
  // first that does not refuse was the choice.
  std::map<std::string, std::string> first;
  std::map<std::string, bool> open;
  std::map<std::string, std::set<std::string>> chosen;
  for (const ops::Choice& c : trace) {
    if (first.emplace(c.op, c.candidate).first->second == c.candidate) open[c.op] = true;
    if (!open[c.op] || !c.refusal.empty()) continue;
    open[c.op] = false;
    chosen[c.op].insert(c.candidate);
  }
  Json out = Json::object();
  for (const auto& [op, names] : chosen) {
    std::string text;
    for (const std::string& n : names) text += (text.empty() ? "" : ", ") + n;
    out[op] = text;
  }
  return out;
}

}  // namespace weft::train
