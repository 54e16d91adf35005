#include "ops/aten.h"

#include "optim/adamw.h"

#include <gtest/gtest.h>

#include <deque>

#include "comm/threads.h"
#include "optim/clip.h"

namespace weft::optim {
namespace {

struct Model {  // a few weights with their arena
  std::deque<ops::Weight> weights;
  std::unique_ptr<Comm> comm = self_comm();
  std::unique_ptr<GradArena> arena;
  explicit Model(at::ScalarType dtype) {
    at::manual_seed(3);
    for (auto shape : std::vector<std::vector<int64_t>>{{7, 9}, {9}, {5, 3}}) weights.push_back({"w" + std::to_string(weights.size()), at::randn(shape, at::kFloat).to(dtype)});
    std::vector<ops::Weight*> all;
    for (auto& w : weights) all.push_back(&w);
    arena = std::make_unique<GradArena>(all, *comm);
  }
  static bool decays(const ops::Weight& w) { return w.value.dim() > 1; }
};

at::Tensor one() { return at::ones({1}); }
at::Tensor go() { return at::zeros({1}, at::kInt); }

}  // namespace

TEST(AdamW, FollowsTheEquationInFp64For100Steps) {
  for (Kind kind : {Kind::kAdamW, Kind::kAdam}) {
    Model m(at::kFloat);
    OptimizerConfig c{.kind = kind, .beta1 = 0.9, .beta2 = 0.95, .weight_decay = 0.1};
    std::vector<at::Tensor> p, mean, square;
    for (auto& w : m.weights) p.push_back(w.value.to(at::kDouble)), mean.push_back(at::zeros_like(p.back())), square.push_back(at::zeros_like(p.back()));
    AdamW opt(c, *m.arena, Model::decays, {});
    for (int t = 1; t <= 100; ++t) {
      m.arena->zero();
      for (size_t i = 0; i < p.size(); ++i) {
        at::Tensor g = at::randn(m.weights[i].value.sizes(), at::kFloat) + 0.1;
        m.weights[i].main_grad.copy_(g);
        g = g.to(at::kDouble) * 0.5;
        const double decay = i == 1 ? 0 : 0.1;
        if (kind == Kind::kAdam) g = g + decay * p[i];
        mean[i] = 0.9 * mean[i] + 0.1 * g;
        square[i] = 0.95 * square[i] + 0.05 * g * g;
        at::Tensor u = (mean[i] / (1 - std::pow(0.9, t))) / ((square[i] / (1 - std::pow(0.95, t))).sqrt() + 1e-8);
        if (kind == Kind::kAdamW) u = u + decay * p[i];
        p[i] = p[i] - 1e-2 * u;
      }
      opt.step(1e-2, t, one() * 0.5, go());
    }
    for (size_t i = 0; i < p.size(); ++i) EXPECT_LT((m.weights[i].value.to(at::kDouble) - p[i]).abs().max().item<double>(), 2e-6) << i;
  }
}

TEST(AdamW, Bf16WeightsAreTheirMastersRoundedAndSmallUpdatesAreNotLost) {
  Model m(at::kBFloat16);
  const at::Tensor before = m.weights[0].value.clone();
  const uint64_t version = m.weights[0].version;
  AdamW opt({.weight_decay = 0}, *m.arena, Model::decays, {});
  EXPECT_TRUE(at::equal(m.weights[0].value, before));
  at::Tensor master;
  opt.visit_state([&](const char* kind, const ops::Weight& w, const at::Tensor& t) {
    if (std::string(kind) == "master" && &w == &m.weights[0]) master = t;
  });
  ASSERT_TRUE(master.defined());
  for (int t = 1; t <= 200; ++t) {
    m.arena->zero();
    m.weights[0].main_grad.fill_(1);
    opt.step(1e-5, t, one(), go());
    ASSERT_TRUE(at::equal(m.weights[0].value, master.to(at::kBFloat16)));
  }
  EXPECT_TRUE(at::allclose(before.to(at::kFloat) - master, at::full({7, 9}, 200 * 1e-5), 1e-3, 1e-6)) << "each step is below bf16's resolution";
  EXPECT_GT(m.weights[0].version, version);
}

TEST(AdamW, ASkippedStepWritesNothing) {
  Model m(at::kFloat);
  AdamW opt({}, *m.arena, Model::decays, {});
  const at::Tensor before = m.weights[0].value.clone();
  m.weights[0].main_grad.fill_(std::numeric_limits<float>::quiet_NaN());
  const Clip c = clip(*m.arena, 1, 1, *m.comm, {});
  EXPECT_EQ(c.skip.item<int32_t>(), 1);
  EXPECT_EQ(c.grad_scale.item<float>(), 0);
  opt.step(1, 1, c.grad_scale, c.skip);
  EXPECT_TRUE(at::equal(m.weights[0].value, before));
  opt.visit_state([](const char*, const ops::Weight&, const at::Tensor& t) { EXPECT_TRUE(at::isfinite(t).all().item<bool>()); });
  EXPECT_EQ(first_non_finite(*m.arena), "w0 (63 of 63 elements)");
}

TEST(Clip, TheNormIsOfAllGradientsAndOnlyLargeOnesAreScaled) {
  Model m(at::kBFloat16);
  m.weights[0].main_grad.fill_(3), m.weights[2].main_grad[4][2] = -4;
  const double norm = std::sqrt(63 * 9 + 16.0);
  Clip c = clip(*m.arena, 0.5, 1, *m.comm, {});
  EXPECT_NEAR(c.norm.item<double>(), norm / 2, 1e-5);
  EXPECT_NEAR(c.grad_scale.item<double>(), 0.5 / (norm / 2 + 1e-6), 1e-6);
  EXPECT_EQ(clip(*m.arena, 0.5, 100, *m.comm, {}).grad_scale.item<float>(), 0.5f);
  EXPECT_EQ(clip(*m.arena, 1, 0, *m.comm, {}).grad_scale.item<float>(), 1.0f);
  EXPECT_EQ(first_non_finite(*m.arena), "");
  m.weights[1].main_grad[2] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(first_non_finite(*m.arena), "w1 (1 of 9 elements)");
}

TEST(Clip, ShardsOfAGradientHaveTheNormOfTheWhole) {
  std::array<double, 2> norms{};
  run_ranks(2, [&](World& world) {
    auto comm = world.group(std::vector<int>{0, 1}, "shards");
    Model m(at::kFloat);
    m.weights[0].main_grad.fill_(world.rank() == 0 ? 3 : 4);
    norms[static_cast<size_t>(world.rank())] = clip(*m.arena, 1, 0, *comm, {}).norm.item<double>();
  });
  EXPECT_NEAR(norms[0], std::sqrt(63.0) * 5, 1e-5);
  EXPECT_EQ(norms[0], norms[1]);
}

}  // namespace weft::optim
