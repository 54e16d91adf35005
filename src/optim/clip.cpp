#include "ops/aten.h"

#include "optim/clip.h"

#include "optim/update.h"

namespace weft::optim {

Clip clip(const GradArena& arena, double unscale, double max_norm, Comm& shards, const ops::Policy& policy) {
  at::Tensor sum = sum_of_squares(arena.flat(), policy);
  if (shards.size() > 1) {
    const at::Tensor mine = sum;
    sum = at::empty_like(mine);
    shards.all_reduce(mine.const_data_ptr(), sum.data_ptr(), 1, DType::kF64, Reduce::kSum, {"gradient norm"});
  }
  Clip c;
  c.norm = sum.sqrt() * std::abs(unscale);
  const at::Tensor finite = c.norm.isfinite();
  c.skip = finite.logical_not().to(at::kInt);
  at::Tensor factor = max_norm > 0 ? (max_norm / (c.norm + 1e-6)).clamp_max(1) : at::ones_like(c.norm);
  c.grad_scale = at::where(finite, factor * unscale, at::zeros_like(factor)).to(at::kFloat);
  return c;
}

std::string first_non_finite(const GradArena& arena) {
  for (const auto& s : arena.slots()) {
    const int64_t bad = arena.flat().narrow(0, s.offset, s.numel).isfinite().logical_not().sum().item<int64_t>();
    if (bad > 0) return s.weight->name + " (" + std::to_string(bad) + " of " + std::to_string(s.numel) + " elements)";
  }
  return {};
}

}  // namespace weft::optim
