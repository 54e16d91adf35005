#include "ops/aten.h"

#include "train/blame.h"

namespace weft::train {
namespace {

int64_t bad_elements(const at::Tensor& t) {
  return t.defined() && t.is_floating_point() ? t.isfinite().logical_not().sum().item<int64_t>() : 0;
}

class Look final : public nn::Wrap {
 public:
  Look(std::string path, std::shared_ptr<std::string> first) : path_(std::move(path)), first_(std::move(first)) {}
  nn::Order order() const override { return nn::Order::kBoundary; }
  nn::Flow around(nn::Flow f, const nn::CtxPtr& ctx, const nn::Next& next) override {
    nn::Flow out = next(std::move(f), ctx);
    const auto see = [&](const char* field, const at::Tensor& t) {
      if (first_->empty() && bad_elements(t) > 0)
        *first_ = "output '" + std::string(field) + "' of " + (path_.empty() ? "the model" : path_) + " (" + std::to_string(bad_elements(t)) + " of " + std::to_string(t.numel()) + " elements)";
    };
    nn::Flow::fields(out, see);
    return out;
  }

 private:
  std::string path_;
  std::shared_ptr<std::string> first_;  // the wraps outlive the call that asks
};

}  // namespace

std::string first_bad_value(nn::Module& model) {
  std::string first;
  model.visit_params([&](nn::Param& p) {
    if (first.empty() && bad_elements(p.weight.value) > 0)
      first = "weight " + p.weight.name + " (" + std::to_string(bad_elements(p.weight.value)) + " of " + std::to_string(p.weight.value.numel()) + " elements)";
  });
  return first;
}

std::string first_bad_output(nn::Module& model, const nn::CtxPtr& ctx) {
  const auto first = std::make_shared<std::string>();
  const at::NoGradGuard no_grad;
  model.visit("**", [&](nn::Module& m) { m.add(std::make_unique<Look>(m.path(), first)); });
  model(nn::Flow{}, ctx);
  return *first;
}

}  // namespace weft::train
