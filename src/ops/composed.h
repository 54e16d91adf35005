// The tensor library's composition as a listed candidate: an op whose expression in ATen is good enough on a device names it in its
// table, in the author's order, with no function of its own; the op then runs its expression. Sources only.
#pragma once
#include "ops/select.h"

namespace weft::ops {

template <class Args>
kernels::Support supports_aten_on_cpu(const Args&, const Policy& p) {
  if (p.device.kind != kernels::Device::kCpu) return {"runs on the CPU only"};
  return {};
}
template <class Args>
constexpr Candidate<Args> kAtenOnCpu{"aten", supports_aten_on_cpu<Args>, nullptr, nullptr};

// True when the op is to run its ATen expression: that candidate was chosen, or the reference was.
template <class Args>
bool composed(const Candidate<Args>* c) { return c == nullptr || c->run == nullptr; }

}  // namespace weft::ops
