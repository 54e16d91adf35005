#include "ops/aten.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "ops/cases/modes.h"
#include "ops/node.h"

namespace weft::ops::cases {
namespace {

Filter quick() {
  Filter f;
  f.seeds = 1, f.large = false;
  return f;
}

void expect_all_ok(void (*mode)(const Filter&, const Sink&), const Filter& filter) {
  int rows = 0;
  mode(filter, [&](const Result& r) {
    ++rows;
    EXPECT_TRUE(r.ok) << r.op << "/" << r.row << ": " << r.detail;
  });
  EXPECT_GT(rows, 0);
}

// Identity whose backward is wrong by 1e-4.
struct PlantedNode final : Node {
  variable_list apply(variable_list&& grads) override {
    variable_list out;
    for (const at::Tensor& g : grads) out.push_back(g.defined() ? g * (1 + 1e-4) : g);
    return out;
  }
};

Case planted(Case c) {
  auto build = c.build;
  c.build = [build](const Build& b) {
    Instance i = build(b);
    auto op = i.op;
    i.op = [op](const std::vector<at::Tensor>& inputs, std::deque<Weight>& weights, const Policy& p) {
      std::vector<at::Tensor> outputs = op(inputs, weights, p);
      for (at::Tensor& t : outputs)
        if (t.requires_grad()) {
          auto node = make_node<PlantedNode>(p, {t}, false);
          at::Tensor copy = t.detach().clone();
          t = attach(node, copy);
        }
      return outputs;
    };
    return i;
  };
  return c;
}

}  // namespace

TEST(Cases, GradHoldsOnEveryRow) { expect_all_ok(run_grad, quick()); }
TEST(Cases, CheckHoldsOnEveryRowAndCatchesItsControl) { expect_all_ok(run_check, quick()); }
TEST(Cases, SupportNamesACandidateForEveryRow) {
  expect_all_ok(run_support, quick());
}
TEST(Cases, SupportAsksLargeRowsToTheirEndWithoutData) {
  Filter f = quick();
  f.large = true;
  int rows = 0;
  for (const char* op : {"rms_norm", "attention", "linear", "route", "sparse_mla", "permute", "linear_cross_entropy", "mamba3", "sample"}) {
    f.name = op;
    run_support(f, [&](const Result& r) {
      ++rows;
      EXPECT_TRUE(r.ok) << r.op << "/" << r.row << " " << r.detail;
    });
  }
  EXPECT_GT(rows, 100);
}

TEST(Cases, APlantedErrorInABackwardIsCaught) {
  int tried = 0;
  for (const Case& c : table()) {
    if (!c.grad) continue;
    const Build build{at::kDouble, at::kCPU, 1};
    const Instance i = c.build(build);
    bool has_gradient = false;
    for (const at::Tensor& t : i.inputs) has_gradient = has_gradient || (t.is_floating_point() && t.numel() > 0);
    for (const Weight& w : i.weights) has_gradient = has_gradient || w.value.numel() > 0;
    Policy policy = policy_on(at::kCPU);
    policy.only = "reference";
    const Values v = run_row(i, policy, true, cotangents(i, run_row(i, policy, true, {}).outputs, 1));
    double norm = 0;
    for (const auto* all : {&v.input_grads, &v.weight_grads})
      for (const at::Tensor& g : *all)
        if (g.defined() && g.numel() > 0) norm += g.norm().item<double>();
    if (!has_gradient || norm == 0) continue;  // an empty row, or one whose gradient is zero by definition
    ++tried;
    try {
      EXPECT_FALSE(grad_row(planted(c), build).ok) << c.op << "/" << c.row;
    } catch (const InternalError&) {  // an op that was told its gradients says so itself
      EXPECT_FALSE(i.given.empty()) << c.op << "/" << c.row;
    }
  }
  EXPECT_GT(tried, 0);
}

TEST(Cases, PerfTimesARow) {
  Filter f = quick();
  f.name = "linear/1024x3072->768";
  int rows = 0;
  run_perf(f, [&](const Result& r) {
    EXPECT_TRUE(r.ok) << r.detail;
    if (r.op == "summary") return;
    ++rows;
    for (const Figure& figure : r.figures) EXPECT_GT(figure.value, 0) << figure.key;
  });
  EXPECT_GE(rows, 2);
}

}  // namespace weft::ops::cases
