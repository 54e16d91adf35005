#include "ops/aten.h"

#include "ops/cases/modes.h"

#include "base/text.h"
#include "ops/node.h"
#include "ops/tensors.h"

namespace weft::ops::cases {
namespace {

struct CountUses final : GradSink {
  std::deque<Weight>* weights = nullptr;
  std::vector<int> uses;
  void used(Weight& w) override {
    for (size_t i = 0; i < weights->size(); ++i)
      if (&(*weights)[i] == &w) ++uses[i];
  }
};

void backward(const std::vector<at::Tensor>& outputs, const std::vector<at::Tensor>& cotangent) {
  variable_list roots, seeds;
  for (size_t i = 0; i < outputs.size(); ++i)
    if (outputs[i].defined() && outputs[i].requires_grad()) {
      roots.push_back(outputs[i]);
      seeds.push_back(cotangent[i].to(outputs[i].scalar_type()));
    }
  if (!roots.empty()) run_backward(roots, seeds);
}

std::vector<at::Tensor> detached(const std::vector<at::Tensor>& all) {
  std::vector<at::Tensor> out;
  for (const at::Tensor& t : all) out.push_back(t.defined() ? t.detach() : t);
  return out;
}

}  // namespace

bool selected(const Filter& filter, const Case& c) {
  if ((c.perf || c.large) && !filter.large) return false;
  if (filter.name.empty()) return true;
  const std::string both = c.op + "/" + c.row;
  return glob_match(filter.name, c.op) || glob_match(filter.name, both);
}

Policy policy_on(at::Device device) {
  Policy p;
  p.device = device_of(device);
  return p;
}

std::string dtype_name(at::ScalarType t) { return name(dtype_of(t)); }

at::Tensor wide_copy(const at::Tensor& t) { return t.is_floating_point() ? t.detach().to(at::kDouble) : t; }

std::vector<at::Tensor> cotangents(const Instance& instance, const std::vector<at::Tensor>& outputs, uint64_t seed) {
  at::manual_seed(seed + 7919);
  std::vector<at::Tensor> all;
  for (const at::Tensor& t : outputs)  // rounded to the output's dtype, so that every run is given the same numbers
    all.push_back(t.defined() && t.is_floating_point()
                      ? at::randn(t.sizes(), t.options().dtype(at::kFloat).requires_grad(false)).to(t.scalar_type()).to(at::kDouble)
                      : at::Tensor());
  for (size_t k = 0; k < std::min(all.size(), instance.given.size()); ++k)
    if (instance.given[k].defined()) all[k] = instance.given[k].to(at::kDouble);
  return all;
}

Values run_row(const Instance& instance, const Policy& policy, bool f64, const std::vector<at::Tensor>& cotangent, double main_grad_start) {
  const bool with_grad = !cotangent.empty();
  std::vector<at::Tensor> inputs;
  for (const at::Tensor& t : instance.inputs)
    inputs.push_back((f64 ? wide_copy(t) : t.detach().clone()).requires_grad_(with_grad && t.is_floating_point()));
  std::deque<Weight> weights;
  CountUses sink;
  for (const Weight& w : instance.weights) {
    Weight& copy = weights.emplace_back(w);
    copy.value = f64 ? wide_copy(w.value) : w.value.detach().clone();
    const auto options = w.value.options().dtype(f64 ? at::kDouble : at::kFloat);
    if (with_grad && w.trainable) copy.main_grad = at::full(w.value.sizes(), main_grad_start, options);
    copy.sink = &sink;
  }
  sink.weights = &weights;
  sink.uses.assign(weights.size(), 0);
  at::AutoGradMode mode(with_grad);
  Values v;
  const std::vector<at::Tensor> outputs = instance.op(inputs, weights, policy);
  if (with_grad) backward(outputs, cotangent);
  v.outputs = detached(outputs);
  for (const at::Tensor& t : inputs) v.input_grads.push_back(t.grad());
  for (const Weight& w : weights) v.weight_grads.push_back(w.main_grad.defined() ? w.main_grad - main_grad_start : at::Tensor());
  v.uses = sink.uses;
  return v;
}

Values run_plain(const Instance& instance, const Instance::Plain& plain, const std::vector<at::Tensor>& cotangent) {
  std::vector<at::Tensor> inputs, weights;
  for (const at::Tensor& t : instance.inputs) inputs.push_back(t.detach().clone().requires_grad_(t.is_floating_point()));
  for (const Weight& w : instance.weights) weights.push_back(w.value.detach().clone().requires_grad_(w.trainable));
  const std::vector<at::Tensor> outputs = plain(inputs, weights);
  if (!cotangent.empty()) backward(outputs, cotangent);
  Values v;
  v.outputs = detached(outputs);
  for (const at::Tensor& t : inputs) v.input_grads.push_back(t.grad());
  for (const at::Tensor& t : weights) v.weight_grads.push_back(t.grad());
  return v;
}

}  // namespace weft::ops::cases
