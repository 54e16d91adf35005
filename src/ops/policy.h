// What the caller of an op decides: the device, determinism, and which references may stand in for a missing kernel.
#pragma once
#include <string>
#include <vector>

#include "kernels/launch.h"

namespace weft::ops {

struct Choice {  // one line of --support: a candidate's answer to a call
  std::string op, candidate, refusal;  // empty refusal: it takes the call
};

struct Policy {
  kernels::Device device{};
  bool deterministic = false;
  std::vector<std::string> reference_allowed;  // ops that may run on their reference, by name, or "*"; else a missing kernel throws
  std::string only;                            // when set: no other candidate is tried ("reference" for the reference). Tests and benches
  std::vector<Choice>* trace = nullptr;        // when set: every candidate's answer is written here, of the forward
  bool trace_backward = false;                 // and of the backward: only where `trace` outlives the graph
  bool allows_reference(const char* op) const;
};

kernels::Device this_cpu();  // ISA bits read once

}  // namespace weft::ops
