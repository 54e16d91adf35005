// Candidates that are compositions of the tensor library's own operators on the CPU: the code of the reference, in the caller's dtype.
// Named "cpu" like our own CPU kernels, so that an op made of both can be asked for by one name. Their arguments are tensors, so such an
// op's tables hold calls: a struct with `like()` and a `run_reference(call)` beside it. Sources only: include after ops/aten.h.
#pragma once
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {

inline kernels::Support supports_aten(const at::Tensor& like, const Policy& policy) {
  if (policy.device.kind != kernels::Device::kCpu) return {"runs on the CPU only"};
  if (like.scalar_type() != at::kFloat && like.scalar_type() != at::kBFloat16) return {"dtype is not f32 or bf16"};
  return {};
}

template <class Call>
constexpr Candidate<Call> kAten{
    "cpu", [](const Call& a, const Policy& p) { return supports_aten(a.like(), p); }, nullptr, [](const Call& a, const kernels::Launch&) { run_reference(a); }};

// Runs the chosen candidate, or the reference where the policy allows it.
template <class Call>
void run_chosen(const char* op, std::span<const Candidate<Call>> all, const Call& call, const Policy& policy) {
  const auto* c = select<Call>(op, all, call, policy);
  if (c == nullptr) run_reference(call);
  else run(*c, call, call.like());
}

}  // namespace weft::ops
