// Choosing a kernel: the author's order, each refusal with a reason, no silent fallback.
#pragma once
#include <span>
#include <string>

#include "base/error.h"
#include "ops/policy.h"

namespace weft::ops {

template <class Args>
struct Candidate {  // own kernels, and libraries (cuBLASLt, cuDNN, oneDNN through ATen) on the same footing
  const char* name;
  kernels::Support (*supports)(const Args&, const Policy&);
  size_t (*workspace)(const Args&);  // bytes, may be null for none
  void (*run)(const Args&, const kernels::Launch&);
};

// `supports` of a kernel whose answer depends on the call and the device alone: on_device<kernels::supports_x_sm90>.
template <auto kSupports, class Args>
kernels::Support on_device(const Args& a, const Policy& p) { return kSupports(a, p.device); }

// Policy::only: every candidate answers for `policy.device`, which need not be there, and the reference runs.
constexpr const char* kAskOnly = "?";
inline bool asks_only(const Policy& policy) { return policy.only == kAskOnly; }

// For the ops that an op is made of: a wish for one candidate of the whole is none of theirs, nor do they stand in its trace (unless asked).
Policy of_parts(const Policy&);

[[noreturn]] void throw_unsupported(const char* op, const std::string& refusals);

// The first candidate that takes `args`. Null when the reference shall run: the policy names this op. Else UnsupportedError
// with every refusal. Allocates nothing when a candidate is found and no trace is asked for.
template <class Args>
const Candidate<Args>* select(const char* op, std::span<const Candidate<Args>> all, const Args& args, const Policy& policy) {
  const Candidate<Args>* chosen = nullptr;
  const bool ask = asks_only(policy);
  for (const Candidate<Args>& c : all) {
    if (!ask && !policy.only.empty() && policy.only != c.name) continue;
    const kernels::Support s = c.supports(args, policy);
    if (policy.trace != nullptr) policy.trace->push_back({op, c.name, s ? "" : s.refusal});
    if (s && chosen == nullptr) chosen = &c;
    if (chosen != nullptr && policy.trace == nullptr) break;
  }
  if (ask) return nullptr;
  if (chosen != nullptr) return chosen;
  if (policy.only == "reference" || (policy.only.empty() && policy.allows_reference(op))) return nullptr;
  std::string refusals;
  for (const Candidate<Args>& c : all) {
    const bool skipped = !policy.only.empty() && policy.only != c.name;
    refusals += std::string("\n  ") + c.name + ": " + (skipped ? "not asked (only '" + policy.only + "')" : c.supports(args, policy).refusal);
  }
  throw_unsupported(op, refusals);
}

}  // namespace weft::ops
