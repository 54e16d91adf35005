#include "ops/aten.h"

#include "nn/precision.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "nn/decoder.h"
#include "nn/init.h"

namespace weft::nn {
namespace {

std::unique_ptr<Decoder> mlp_model() {
  ModelConfig c;
  c.model_dim = 32, c.vocab_size = 64;
  c.symbols = {{'-', MlpConfig{}}};
  auto model = std::make_unique<Decoder>(c, std::vector<BranchConfig>{MlpConfig{}, MlpConfig{}});
  materialize(*model, {at::kCPU, at::kFloat, 7});
  model->visit_params([](Param& p) { p.weight.main_grad = at::zeros(p.weight.value.sizes()); });
  return model;
}

struct Step {
  at::Tensor y;
  std::vector<at::Tensor> grads;
};
Step run(Decoder& model) {
  at::manual_seed(3);
  auto ctx = std::make_shared<Ctx>();
  ctx->ops.device = ops::this_cpu();
  Step r;
  model.visit("layers.*.mlp", [&](Module& m) {
    const at::Tensor x = at::randn({48, 32}).requires_grad_();
    const at::Tensor y = m(x, ctx);
    y.backward(at::randn(y.sizes()));
    r.y = y.detach(), r.grads.push_back(x.grad());
  });
  model.visit_params([&](Param& p) { r.grads.push_back(p.weight.main_grad.clone()); });
  return r;
}

double distance(const at::Tensor& a, const at::Tensor& b) { return ((a - b).norm() / b.norm().clamp_min(1e-12)).item<double>(); }

}  // namespace

TEST(Precision, EveryRecipeIsCloseToTheExactProductAndNotEqual) {
  const Step exact = run(*mlp_model());
  for (const auto kind : {ops::GemmRecipe::kF8Tensor, ops::GemmRecipe::kF8Row, ops::GemmRecipe::kF8Block}) {
    auto model = mlp_model();
    const auto chosen = choose_precision(*model, {kind, {"layers.*"}});
    ASSERT_EQ(chosen.size(), 4u);
    EXPECT_EQ(chosen[0].path, "layers.0.mlp.fc1");
    const Step f8 = run(*model);
    EXPECT_GT(distance(f8.y, exact.y), 1e-3) << names(kind)[kind];
    EXPECT_LT(distance(f8.y, exact.y), 0.1) << names(kind)[kind];
    for (size_t i = 0; i < exact.grads.size(); ++i) {
      if (exact.grads[i].abs().max().item<double>() > 0) {
        EXPECT_LT(distance(f8.grads[i], exact.grads[i]), 0.2) << names(kind)[kind] << " " << i;
      }
    }
  }
}

TEST(Precision, WeightCopiesFollowTheVersion) {
  auto model = mlp_model();
  choose_precision(*model, {ops::GemmRecipe::kF8Block, {"layers.0"}});
  const at::Tensor before = run(*model).y;
  model->visit_params([](Param& p) { p.weight.value.mul_(2); });
  EXPECT_TRUE(run(*model).y.defined());
  model->visit("layers.0.mlp.fc1", [&](Module& m) {
    auto& linear = dynamic_cast<Linear&>(m);
    auto ctx = std::make_shared<Ctx>();
    ctx->ops.device = ops::this_cpu();
    const at::NoGradGuard no_grad;
    const at::Tensor x = at::randn({16, 32}), stale = m(x, ctx);
    ++linear.weight().version;
    const at::Tensor fresh = m(x, ctx);
    EXPECT_LT(distance(fresh, 2 * stale), 1e-6);  // powers of two scale exactly
  });
}

TEST(Precision, RefusesWhatItCannotDo) {
  auto model = mlp_model();
  EXPECT_THROW(choose_precision(*model, {ops::GemmRecipe::kF8Row, {"nowhere.*"}}), ConfigError);
  EXPECT_TRUE(choose_precision(*model, {ops::GemmRecipe::kBf16, {"nowhere.*"}}).empty());
  ModelConfig c;
  c.model_dim = 40, c.vocab_size = 64;
  Decoder odd(c, {MlpConfig{}});
  EXPECT_THROW(choose_precision(odd, {ops::GemmRecipe::kF8Row, {"layers.*"}}), ConfigError);
}

}  // namespace weft::nn
