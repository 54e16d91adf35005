// What tests of operators share: calls on the CPU, and how far two results are apart.
#pragma once
#include "ops/policy.h"

namespace weft::ops {

inline Policy cpu() {
  Policy p;
  p.device = this_cpu();
  return p;
}

// The largest difference over the largest value of b.
inline double relative(const at::Tensor& a, const at::Tensor& b) { return ((a - b).abs().max() / b.abs().max().clamp_min(1e-300)).item<double>(); }

}  // namespace weft::ops
