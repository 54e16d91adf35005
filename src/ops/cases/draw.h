// Drawing a row's numbers. Sources of cases/ only: include after ops/aten.h.
#pragma once
#include "ops/aten.h"

#include "ops/cases/case.h"

namespace weft::ops::cases {

inline at::TensorOptions on(const Build& b) { return at::TensorOptions().dtype(b.dtype).device(b.device); }
inline at::TensorOptions f32_on(const Build& b) { return at::TensorOptions().dtype(at::kFloat).device(b.device); }
inline at::Tensor normal(const Build& b, at::IntArrayRef shape) { return at::randn(shape, on(b)); }
inline at::Tensor integers(const Build& b, int64_t below, at::IntArrayRef shape) {
  return at::randint(below, shape, at::TensorOptions().dtype(at::kLong).device(b.device));
}
// Moves what lies within 0.05 of `kink` beyond 0.06 of it, so that finite differences stay on one side.
inline at::Tensor away_from(const at::Tensor& x, double kink) {
  return at::where((x - kink).abs() < 0.06, x + 0.13, x);
}

// A large row that is only compared, and one that is only timed: its fp64 copies would be too large.
inline Case compared(Case c) {
  c.perf = c.grad = false, c.large = c.check = true;
  return c;
}
inline Case timed(Case c) {
  c.grad = c.check = false, c.perf = true;
  return c;
}

using Tensors = std::vector<at::Tensor>;  // of a peer: inputs, weights, outputs

inline const std::vector<at::ScalarType> kFloats{at::kFloat, at::kBFloat16};

}  // namespace weft::ops::cases
