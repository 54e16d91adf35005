#include "ops/aten.h"

#include "ops/select.h"

#include "base/cpu.h"

namespace weft::ops {

bool Policy::allows_reference(const char* op) const {
  for (const std::string& name : reference_allowed)
    if (name == "*" || name == op) return true;
  return false;
}

kernels::Device this_cpu() {
  static const uint32_t isa = [] {
    uint32_t bits = 0;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) bits |= kernels::kAvx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) bits |= kernels::kAvx512;
    if (__builtin_cpu_supports("avx512bf16")) bits |= kernels::kAvx512Bf16;
#endif
    for (const std::string& feature : cpu::features())  // the compiler's own test does not know it
      if (feature == "amx_bf16") bits |= kernels::kAmxBf16;
    return bits;
  }();
  return {kernels::Device::kCpu, 0, 0, 0, isa};
}

Policy of_parts(const Policy& policy) {
  Policy p = policy;
  if (asks_only(p)) return p;
  if (p.only != "reference") p.only.clear();
  p.trace = nullptr;
  return p;
}

void throw_unsupported(const char* op, const std::string& refusals) {
  throw UnsupportedError(std::string(op) + ": no candidate takes this call" + (refusals.empty() ? ": the op has none" : refusals) +
                         "\n  try: another dtype or shape, or allow the reference with --allow-reference " + op);
}

}  // namespace weft::ops
