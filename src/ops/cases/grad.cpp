#include "ops/aten.h"

#include "ops/cases/modes.h"

#include <set>

namespace weft::ops::cases {
namespace {

constexpr int kDirections = 8;
constexpr double kStep = 1e-3;       // with four points the truncation error is of order kStep^4
constexpr double kStepOfAChoice = 1e-5;  // of ops that choose (top-k): a wider step meets a tie in one draw of ten
constexpr double kTolerance = 1e-6;  // times |g.v| + |g| |v| / sqrt(n)
constexpr double kNoise = 1e-11;     // times |cotangent| |output|: rounding of the differences themselves

double sum_of_products(const at::Tensor& a, const at::Tensor& b) { return (a * b).sum().item<double>(); }

// The same instance with its tensor `index` (inputs first, then weights) moved by `by`.
Instance moved(const Instance& from, size_t index, const at::Tensor& by) {
  Instance to = from;
  at::Tensor& t = index < to.inputs.size() ? to.inputs[index] : to.weights[index - to.inputs.size()].value;
  t = t + by;
  return to;
}

}  // namespace

// L = sum of cotangent . outputs. Each differentiable tensor is tested on its own, so that a large gradient cannot hide a
// small one; the cotangent is random, so that no row of it can be dropped.
Result grad_row(const Case& c, const Build& build) {
  Result r{c.op, c.row, "", true, {}};
  const Instance row = c.build(build);
  Instance instance = row;
  for (at::Tensor& t : instance.inputs) t = wide_copy(t);
  for (Weight& w : instance.weights) w.value = wide_copy(w.value);
  Policy policy = policy_on(build.device);
  policy.only = "reference";
  const std::vector<at::Tensor> outputs = run_row(instance, policy, true, {}).outputs;
  const std::vector<at::Tensor> cotangent = cotangents(row, outputs, build.seed);
  const Values v = run_row(instance, policy, true, cotangent);

  const double step = c.op == "route" ? kStepOfAChoice : kStep;
  double noise = 0;
  for (size_t i = 0; i < outputs.size(); ++i)
    if (cotangent[i].defined()) noise += kNoise * cotangent[i].norm().item<double>() * v.outputs[i].norm().item<double>();
  const auto difference = [&](size_t index, const at::Tensor& v_, double h) {
    const auto up = run_row(moved(instance, index, v_ * h), policy, true, {}).outputs;
    const auto down = run_row(moved(instance, index, v_ * -h), policy, true, {}).outputs;
    double sum = 0;
    for (size_t i = 0; i < up.size(); ++i)
      if (cotangent[i].defined()) sum += sum_of_products(cotangent[i], (up[i] - down[i]).to(at::kDouble));
    return sum;
  };

  double worst = 0;
  const size_t num_inputs = instance.inputs.size();
  for (size_t index = 0; index < num_inputs + instance.weights.size(); ++index) {
    const bool is_input = index < num_inputs;
    const at::Tensor value = is_input ? instance.inputs[index] : instance.weights[index - num_inputs].value;
    const std::string name = is_input ? "input " + std::to_string(index) : instance.weights[index - num_inputs].name;
    if (!value.is_floating_point() || (!is_input && !instance.weights[index - num_inputs].trainable)) continue;
    at::Tensor g = is_input ? v.input_grads[index] : v.weight_grads[index - num_inputs];
    if (!is_input && v.uses[index - num_inputs] == 0 && r.ok) r.ok = false, r.detail = name + ": done() was not called";
    if (value.numel() == 0) continue;
    if (!g.defined()) g = at::zeros_like(value);
    for (int k = 0; k < kDirections && r.ok; ++k) {
      const at::Tensor direction = at::randn(value.sizes(), value.options());
      const double d1 = difference(index, direction, step), d2 = difference(index, direction, 2 * step);
      const double measured = (8 * d1 - d2) / (12 * step), stated = sum_of_products(g, direction);
      const double spread = g.norm().item<double>() * direction.norm().item<double>() / std::sqrt(static_cast<double>(value.numel()));
      const double bound = kTolerance * (std::abs(stated) + spread) + noise / step;
      const double error = std::abs(measured - stated);
      worst = std::max(worst, error / std::max(bound, 1e-300));
      if (!(error <= bound) && r.ok) {
        char text[160];
        snprintf(text, sizeof text, "%s: backward says %.9g along a direction, differences %.9g (bound %.2g)", name.c_str(), stated, measured, bound);
        r.ok = false, r.detail = text;
      }
    }
  }
  r.figures.push_back({"worst_of_bound", worst});
  return r;
}

void run_grad(const Filter& filter, const Sink& sink) {
  std::set<std::string> ops, differenced;
  int rows = 0;
  for (const Case& c : table()) {
    if (!selected(filter, c)) continue;
    ops.insert(c.op);
    if (!c.grad) {
      if (!c.grad_why_not.empty()) sink({c.op, c.row, "not differenced: " + c.grad_why_not, true, {}});
      continue;
    }
    differenced.insert(c.op), ++rows;
    Result all{c.op, c.row, "f64 reference", true, {}};
    double worst = 0;
    for (int seed = 1; seed <= filter.seeds && all.ok; ++seed) {
      Result one;
      try {
        one = grad_row(c, {at::kDouble, filter.device, static_cast<uint64_t>(seed)});
      } catch (const std::exception& e) {
        one = {c.op, c.row, e.what(), false, {}};
      }
      if (!one.ok) all.ok = false, all.detail = "seed " + std::to_string(seed) + ": " + one.detail;
      for (const Figure& f : one.figures) worst = std::max(worst, f.value);
    }
    all.figures.push_back({"worst_of_bound", worst});
    sink(all);
  }
  if (ops.empty()) return;
  std::string others;
  for (const std::string& op : ops)
    if (differenced.count(op) == 0) others += (others.empty() ? "" : ", ") + op;
  sink({"summary", "grad", others.empty() ? "every op is differenced" : "without a gradient, or held by another op's rows: " + others, true,
        {{"ops", static_cast<double>(ops.size())}, {"ops_differenced", static_cast<double>(differenced.size())}, {"rows_differenced", static_cast<double>(rows)}}});
}

}  // namespace weft::ops::cases
