#include "ops/aten.h"

#include "nn/module.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "ops/tensors.h"

namespace weft::nn {

void StepStats::add(const std::string& name, const at::Tensor& value, double count) {
  const std::lock_guard lock(mutex_);
  Entry& e = entries_[name];
  const at::Tensor v = value.detach().to(at::kFloat);
  e.sum = e.sum.defined() ? e.sum + v : v.clone();
  e.count += count;
}

at::Tensor StepStats::find(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto e = entries_.find(name);
  return e == entries_.end() ? at::Tensor() : e->second.sum;
}

std::map<std::string, StepStats::Entry> StepStats::take() {
  const std::lock_guard lock(mutex_);
  return std::exchange(entries_, {});
}

at::Tensor Module::operator()(at::Tensor x, const CtxPtr& ctx) {
  Flow f;
  f.x_TD = std::move(x);
  return (*this)(std::move(f), ctx).x_TD;
}

Flow Module::call(size_t i, Flow f, const CtxPtr& ctx) {
  if (i == wraps_.size()) return forward(std::move(f), ctx);
  return wraps_[i]->around(std::move(f), ctx, [this, i](Flow g, const CtxPtr& c) { return call(i + 1, std::move(g), c); });
}

void Module::add(std::unique_ptr<Wrap> wrap) {
  const auto at = std::upper_bound(wraps_.begin(), wraps_.end(), wrap->order(),
                                   [](Order order, const std::unique_ptr<Wrap>& w) { return order < w->order(); });
  wraps_.insert(at, std::move(wrap));
}

void Module::visit(std::string_view glob, const std::function<void(Module&)>& fn) {
  if (glob_match(glob, path_, '.')) fn(*this);
  for (auto& c : children_) c->visit(glob, fn);
}

void Module::visit_params(const std::function<void(Param&)>& fn) {
  for (Param& p : params_) fn(p);
  for (auto& c : children_) c->visit_params(fn);
}

void Module::visit_buffers(const std::function<void(const std::string&, at::Tensor&)>& fn) {
  for (Buffer& b : buffers_) fn(qualified(b.name), b.tensor);
  for (auto& c : children_) c->visit_buffers(fn);
}

std::string Module::qualified(const std::string& name) const {
  if (name.empty()) return path_;
  return path_.empty() ? name : path_ + "." + name;
}

ops::Weight& Module::param(ParamSpec spec) {
  for (int64_t n : spec.shape) WEFT_CHECK(n > 0, "parameter " + spec.name + " of " + path_ + " has an empty dim");
  Param& p = params_.emplace_back();
  p.weight.name = qualified(spec.name);
  p.weight.value = at::empty(spec.shape, at::TensorOptions().device(at::kMeta).dtype(at::kFloat));
  p.spec = std::move(spec);
  return p.weight;
}

at::Tensor& Module::buffer(std::string name, std::vector<int64_t> shape, DType dtype) {
  Buffer& b = buffers_.emplace_back();
  b.name = std::move(name);
  b.tensor = at::empty(shape, at::TensorOptions().device(at::kMeta).dtype(ops::scalar_type(dtype)));
  return b.tensor;
}

void Module::adopt(std::string name, std::unique_ptr<Module> module) {
  module->name_ = std::move(name);
  module->rename(qualified(module->name_));
  children_.push_back(std::move(module));
}

void Module::rename(const std::string& path) {
  path_ = path;
  for (Param& p : params_) p.weight.name = qualified(p.spec.name);
  for (auto& c : children_) c->rename(qualified(c->name_));
}

}  // namespace weft::nn
