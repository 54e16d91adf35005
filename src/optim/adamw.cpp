#include "ops/aten.h"

#include "optim/adamw.h"

#include "base/error.h"
#include "optim/update.h"

namespace weft::optim {

AdamW::AdamW(const OptimizerConfig& config, GradArena& arena, const std::function<bool(const ops::Weight&)>& decays, ops::Policy policy)
    : config_(config), arena_(arena), policy_(std::move(policy)) {
  const at::Tensor grads = arena.flat();
  WEFT_CHECK(grads.scalar_type() == at::kFloat, "an optimizer wants fp32 gradients");
  master_ = at::zeros_like(grads), exp_avg_ = at::zeros_like(grads), exp_avg_sq_ = at::zeros_like(grads);
  const auto slots = arena.slots();
  for (size_t i = 0; i < slots.size(); ++i) {
    ops::Weight& w = *slots[i].weight;
    const at::ScalarType dtype = w.value.scalar_type();
    const int64_t end = i + 1 < slots.size() ? slots[i + 1].offset : grads.numel();
    const auto place = [&](const at::Tensor& flat) { return flat.narrow(0, slots[i].offset, slots[i].numel).view(w.value.sizes()); };
    const at::Tensor master = place(master_);
    master.copy_(w.value);
    if (dtype == at::kFloat) {
      w.value = master;
    } else {
      if (!low_.defined()) low_ = at::zeros(grads.sizes(), grads.options().dtype(dtype));
      WEFT_CHECK(low_.scalar_type() == dtype, w.name + ": one compute dtype beside fp32");
      const at::Tensor low = place(low_);
      low.copy_(w.value);
      w.value = low;
    }
    ++w.version;
    const bool decay = decays(w);
    if (!runs_.empty() && runs_.back().dtype == dtype && runs_.back().decay == decay) runs_.back().numel = end - runs_.back().offset;
    else runs_.push_back({slots[i].offset, end - slots[i].offset, dtype, decay});
  }
}

void AdamW::step(double lr, int64_t t, const at::Tensor& grad_scale, const at::Tensor& skip) {
  const double c1 = 1 - std::pow(config_.beta1, static_cast<double>(t)), c2 = 1 - std::pow(config_.beta2, static_cast<double>(t));
  for (const Run& r : runs_) {
    const auto part = [&](const at::Tensor& flat) { return flat.narrow(0, r.offset, r.numel); };
    adamw_update({part(master_), r.dtype == at::kFloat ? at::Tensor() : part(low_), part(arena_.flat()), part(exp_avg_), part(exp_avg_sq_), grad_scale, skip, lr,
                  c1, c2, config_.beta1, config_.beta2, config_.eps, r.decay ? config_.weight_decay : 0, config_.kind == Kind::kAdamW},
                 policy_);
  }
  for (const auto& s : arena_.slots()) ++s.weight->version;
}

void AdamW::visit_state(const std::function<void(const char*, const ops::Weight&, const at::Tensor&)>& visit) const {
  for (const auto& s : arena_.slots()) {
    const auto place = [&](const at::Tensor& flat) { return flat.narrow(0, s.offset, s.numel).view(s.weight->value.sizes()); };
    if (s.weight->value.scalar_type() != at::kFloat) visit("master", *s.weight, place(master_));
    visit("exp_avg", *s.weight, place(exp_avg_));
    visit("exp_avg_sq", *s.weight, place(exp_avg_sq_));
  }
}

void AdamW::weights_from_masters() {
  for (const Run& r : runs_)
    if (r.dtype != at::kFloat) low_.narrow(0, r.offset, r.numel).copy_(master_.narrow(0, r.offset, r.numel));
  for (const auto& s : arena_.slots()) ++s.weight->version;
}

int64_t AdamW::state_bytes() const {
  return static_cast<int64_t>(exp_avg_.nbytes() + exp_avg_sq_.nbytes() + (low_.defined() ? master_.nbytes() : 0));
}

}  // namespace weft::optim
