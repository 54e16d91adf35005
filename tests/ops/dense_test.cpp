#include "ops/aten.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "ops/activation.h"
#include "ops/bias.h"
#include "ops/embedding.h"
#include "ops/linear.h"
#include "ops/rmsnorm.h"
#include "cpu.h"

namespace weft::ops {
namespace {

template <class F>
std::string shape_error(F&& f) {
  try {
    f();
  } catch (const ShapeError& e) {
    return e.what();
  }
  return "no ShapeError";
}

void expect_got_want(const std::string& text, const std::string& op) {
  EXPECT_EQ(text.rfind(op + ": ", 0), 0u) << text;
  EXPECT_NE(text.find(": got "), std::string::npos) << text;
  EXPECT_NE(text.find(", want "), std::string::npos) << text;
}

}  // namespace

TEST(Dense, EveryBrokenContractIsAShapeErrorWithGotAndWant) {
  const Policy p = cpu();
  Weight w{"w", at::ones({3, 4}), at::zeros({3, 4})}, v{"v", at::ones({4}), at::zeros({4})};
  Weight w16{"w16", at::ones({3, 4}, at::kBFloat16), at::zeros({3, 4})};
  const at::Tensor x = at::ones({2, 4}), wrong = at::ones({2, 5}), strided = at::ones({4, 2}).t(), x16 = x.to(at::kBFloat16);
  expect_got_want(shape_error([&] { linear(wrong, w, {}, nullptr, p); }), "linear");
  expect_got_want(shape_error([&] { linear(strided, w, {}, nullptr, p); }), "linear");
  expect_got_want(shape_error([&] { linear(x, w16, {}, nullptr, p); }), "linear");
  expect_got_want(shape_error([&] { linear(x, v, {}, nullptr, p); }), "linear");
  expect_got_want(shape_error([&] { add_bias(wrong, v, p); }), "add_bias");
  expect_got_want(shape_error([&] { add_bias(x16, v, p); }), "add_bias");
  expect_got_want(shape_error([&] { embedding(at::tensor({3}, at::kLong), w, p); }), "embedding");
  expect_got_want(shape_error([&] { embedding(at::tensor({-1}, at::kLong), w, p); }), "embedding");
  expect_got_want(shape_error([&] { embedding(at::tensor({1}, at::kInt), w, p); }), "embedding");
  expect_got_want(shape_error([&] { add_rms_norm(x, wrong, v, 1e-5, p); }), "add_rms_norm");
  expect_got_want(shape_error([&] { add_rms_norm(strided, strided, v, 1e-5, p); }), "add_rms_norm");
  expect_got_want(shape_error([&] { gated_rms_norm(x, x, v, 3, 1e-5, p); }), "gated_rms_norm");
  expect_got_want(shape_error([&] { gated_rms_norm(x, wrong, v, 1, 1e-5, p); }), "gated_rms_norm");
  expect_got_want(shape_error([&] { swiglu(wrong, {}, p); }), "glu");
  expect_got_want(shape_error([&] { gelu(strided, p); }), "activation");
  expect_got_want(shape_error([&] { activation(x, Act::kGeluExact, p, at::ones({3})); }), "activation");
  expect_got_want(shape_error([&] { linear(x, w, {GemmRecipe::kF8Row}, nullptr, p); }), "linear_f8");
}

TEST(Dense, GradientsOfManyMicroBatchesAddUpInFp32) {
  const Policy p = cpu();
  Weight w{"w", at::zeros({1, 1}, at::kBFloat16), at::zeros({1, 1})};
  for (int i = 0; i < 257; ++i) linear(at::ones({1, 1}, at::kBFloat16), w, {}, nullptr, p).backward(at::ones({1, 1}, at::kBFloat16));
  EXPECT_EQ(w.main_grad.item<float>(), 257);  // in bf16 it would stay at 256
}

TEST(Dense, AQueuedGradientComesWithTheDrainAndCountsOnce) {
  struct Count final : GradSink {
    int uses = 0;
    void used(Weight&) override { ++uses; }
  } sink;
  const Policy p = cpu();
  Weight w{"w", at::randn({3, 4}), at::zeros({3, 4})};
  w.sink = &sink;
  WgradQueue queue;
  const at::Tensor x = at::randn({5, 4}).requires_grad_(true);
  linear(x, w, {}, &queue, p).sum().backward();
  EXPECT_TRUE(x.grad().defined());
  EXPECT_EQ(w.main_grad.abs().max().item<float>(), 0);
  EXPECT_EQ(sink.uses, 0);
  queue.drain();
  EXPECT_EQ(sink.uses, 1);
  EXPECT_TRUE(at::allclose(w.main_grad, x.detach().sum(0).expand({3, 4}), 1e-5, 1e-5));
}

TEST(Dense, AFrozenWeightGetsNoGradientAndItsInputDoes) {
  const Policy p = cpu();
  Weight w{"w", at::randn({3, 4}), at::zeros({3, 4}), 0, false};
  const at::Tensor x = at::randn({5, 4}).requires_grad_(true);
  linear(x, w, {}, nullptr, p).sum().backward();
  EXPECT_EQ(w.main_grad.abs().max().item<float>(), 0);
  EXPECT_TRUE(at::allclose(x.grad(), w.value.sum(0).expand({5, 4}), 1e-5, 1e-5));
}

TEST(Dense, ElementaryFunctionsHoldTheirTails) {
  const Policy p = cpu();
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor x = at::tensor({-200.0f, -90.0f, -12.0f, -5.0f, -1e-3f, 0.0f, 1e-3f, 5.0f, 90.0f, 200.0f});
  for (const Act kind : {Act::kGeluExact, Act::kGeluTanh, Act::kQuickGelu, Act::kSilu, Act::kRelu, Act::kReluSquared}) {
    const at::Tensor want = reference::activation_and_slope(x.to(at::kDouble), kind).first;
    EXPECT_TRUE(at::allclose(activation(x, kind, p).to(at::kDouble), want, 2e-6, 1e-6)) << static_cast<int>(kind);
    EXPECT_TRUE(activation(at::full({1}, nan), kind, p).isnan().item<bool>());
    EXPECT_EQ(activation(at::full({1}, inf), kind, p).item<float>(), inf);
  }
}

TEST(Dense, ThreadCountDoesNotChangeAGradient) {
  const Policy p = cpu();
  const int before = at::get_num_threads();
  std::vector<at::Tensor> grads[2];
  for (const int threads : {1, 2}) {
    at::set_num_threads(threads);
    at::manual_seed(3);
    Weight e{"e", at::randn({50, 130}), at::zeros({50, 130})}, n{"n", at::randn({130}), at::zeros({130})}, b{"b", at::randn({130}), at::zeros({130})};
    const at::Tensor ids = at::randint(50, {1500}, at::kLong);
    const at::Tensor y = add_bias(gated_rms_norm(embedding(ids, e, p), at::randn({1500, 130}), n, 2, 1e-5, p), b, p);
    y.backward(at::randn({1500, 130}));
    grads[threads - 1] = {e.main_grad, n.main_grad, b.main_grad};
  }
  at::set_num_threads(before);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(grads[0][i].equal(grads[1][i]));
}

}  // namespace weft::ops
