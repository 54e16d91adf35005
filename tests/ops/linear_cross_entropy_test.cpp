#include "ops/aten.h"

#include "ops/linear_cross_entropy.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace weft::ops {
namespace {

struct Fixture {
  at::Tensor x, targets, g;
  Weight w;
  Policy policy;
  explicit Fixture(at::ScalarType t, int64_t tokens = 200, int64_t vocab = 301, int64_t dim = 48) {
    at::manual_seed(5);
    policy.device = this_cpu();
    x = at::randn({tokens, dim}).to(t).requires_grad_(true);
    targets = at::randint(vocab, {tokens}, at::kLong);
    targets.narrow(0, 0, 7).fill_(-1);  // an ignored row first: a gradient scaled by row 0's would vanish
    g = at::randn({tokens});
    g[7] = 0, g[8] = -3;
    w = {"w", (at::randn({vocab, dim}) / 4).to(t), at::zeros({vocab, dim})};
  }
};

double relative(const at::Tensor& got, const at::Tensor& want) { return ((got.to(at::kDouble) - want).norm() / want.norm()).item<double>(); }

}  // namespace

TEST(LinearCrossEntropy, AnyGradientOfEachTokenAgreesWithFp64) {
  for (const auto& [t, tol] : {std::pair{at::kFloat, 1e-5}, std::pair{at::kBFloat16, 1e-2}}) {
    for (const double z_loss : {0.0, 1e-2}) {
      Fixture f(t);
      LossOptions o;
      o.z_loss = z_loss, o.chunk = 64 * 100;
      const TokenLoss loss = linear_cross_entropy(f.x, f.w, f.targets, {}, o, f.policy);
      loss.loss_T.backward(f.g);
      const at::Tensor x64 = f.x.detach().to(at::kDouble), w64 = f.w.value.to(at::kDouble);
      auto [dx, dw] = reference::linear_cross_entropy_bwd(f.g.to(at::kDouble), {}, x64, w64, f.targets, o);
      EXPECT_LT(relative(loss.loss_T, reference::linear_cross_entropy(x64, w64, f.targets, o).loss_T), tol);
      EXPECT_LT(relative(f.x.grad(), dx), tol);
      EXPECT_LT(relative(f.w.main_grad, dw), tol);
      EXPECT_EQ(f.x.grad().narrow(0, 0, 8).abs().max().item<float>(), 0);  // ignored, and g = 0
    }
  }
}

TEST(LinearCrossEntropy, GradientsMadeInForwardAreThoseOfBackward) {
  for (const auto t : {at::kFloat, at::kBFloat16}) {
    Fixture f(t), h(t);
    LossOptions o;
    o.z_loss = 1e-3, o.chunk = 64 * 300;
    linear_cross_entropy(f.x, f.w, f.targets, {}, o, f.policy).loss_T.backward(f.g);
    o.weights_are_cotangents = true;
    const TokenLoss loss = linear_cross_entropy(h.x, h.w, h.targets, h.g, o, h.policy);
    EXPECT_GT(h.w.main_grad.abs().max().item<float>(), 0);
    (loss.loss_T * h.g).sum().backward();
    const double tol = t == at::kFloat ? 1e-5 : 1e-2;
    EXPECT_LT(relative(h.x.grad(), f.x.grad().to(at::kDouble)), tol);
    EXPECT_LT(relative(h.w.main_grad, f.w.main_grad.to(at::kDouble)), tol);
  }
  Fixture f(at::kFloat);
  LossOptions o;
  o.weights_are_cotangents = true;
  const TokenLoss loss = linear_cross_entropy(f.x, f.w, f.targets, f.g, o, f.policy);
  EXPECT_THROW(loss.loss_T.backward(f.g * 2), InternalError);
}

TEST(LinearCrossEntropy, CountsCorrectTokensAndGivesLogProbs) {
  Fixture f(at::kFloat);
  at::Tensor correct;
  LossOptions o;
  o.correct_T = &correct;
  const TokenLoss loss = linear_cross_entropy(f.x, f.w, f.targets, {}, o, f.policy);
  const at::Tensor logp = at::log_softmax(at::linear(f.x.detach(), f.w.value), -1);
  EXPECT_TRUE(correct.equal((logp.argmax(-1) == f.targets).to(at::kByte)));
  const at::Tensor want = logp.gather(1, f.targets.clamp_min(0).unsqueeze(1)).squeeze(1);
  EXPECT_TRUE(at::allclose(-loss.loss_T.narrow(0, 7, 100), want.narrow(0, 7, 100), 1e-5, 1e-5));
}

TEST(LinearCrossEntropy, LargeLogitsAndNanAreHeld) {
  Fixture f(at::kFloat, 10, 20, 4);
  Weight big{"big", f.w.value * 1e4, at::zeros({20, 4})};
  const TokenLoss loss = linear_cross_entropy(f.x, big, f.targets, {}, {}, f.policy);
  EXPECT_TRUE(at::isfinite(loss.loss_T).all().item<bool>());
  at::Tensor x = f.x.detach().clone();
  x[9][1] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor bad = linear_cross_entropy(x, f.w, f.targets, {}, {}, f.policy).loss_T;
  EXPECT_TRUE(bad[9].isnan().item<bool>());
  EXPECT_TRUE(at::isfinite(bad.narrow(0, 0, 9)).all().item<bool>());
}

TEST(LinearCrossEntropy, RefusesWhatBreaksTheContract) {
  Fixture f(at::kFloat, 10, 20, 4);
  EXPECT_THROW(linear_cross_entropy(f.x, f.w, f.targets.narrow(0, 0, 9), {}, {}, f.policy), ShapeError);
  EXPECT_THROW(linear_cross_entropy(f.x, f.w, f.targets + 20, {}, {}, f.policy), ShapeError);
  EXPECT_THROW(linear_cross_entropy(f.x, f.w, f.targets - 5, {}, {}, f.policy), ShapeError);
  EXPECT_THROW(linear_cross_entropy(f.x.to(at::kBFloat16), f.w, f.targets, {}, {}, f.policy), ShapeError);
  LossOptions o;
  o.weights_are_cotangents = true;
  EXPECT_THROW(linear_cross_entropy(f.x, f.w, f.targets, {}, o, f.policy), ShapeError);
}

}  // namespace weft::ops
