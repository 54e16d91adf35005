#include "tiny_model.h"

#include "train/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <mutex>
#include <thread>

#include "../ckpt/folder.h"
#include "base/error.h"
#include "comm/threads.h"
#include "train/checkpoint.h"
#include "train/evaluate.h"
#include "train/watch.h"

namespace weft::train {
namespace {

struct Kit {
  TrainerOptions options;
  TinyModel model;
  std::unique_ptr<Trainer> trainer;
  explicit Kit(TrainConfig train, const Mesh& mesh = Mesh::single()) {
    options.train = train;
    options.schedule = {.decay = optim::Decay::kCosine, .lr = 0.02, .warmup_steps = 3};
    options.policy.device = ops::this_cpu();
    const at::ScalarType dtype = train.precision == Precision::kBf16 ? at::kBFloat16 : at::kFloat;
    fill(model, dtype, train.seed);
    trainer = std::make_unique<Trainer>(model, mesh, options);
  }
  // Every weight, as doubles in a row.
  at::Tensor weights() {
    std::vector<at::Tensor> all;
    model.visit_params([&](nn::Param& p) { all.push_back(p.weight.value.reshape({-1}).to(at::kDouble)); });
    return at::cat(all);
  }
};

TrainConfig config(int64_t batch, int64_t micro_batch, LossMode mode = LossMode::kToken) {
  TrainConfig c;
  c.steps = 40, c.batch = batch, c.micro_batch = micro_batch, c.loss_mode = mode, c.precision = Precision::kFp32;
  return c;
}

double distance(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

}  // namespace

TEST(Trainer, LearnsInBothPrecisionsAndBothModes) {
  for (Precision p : {Precision::kFp32, Precision::kBf16})
    for (LossMode mode : {LossMode::kToken, LossMode::kMean}) {
      TrainConfig c = config(8, 4, mode);
      c.precision = p;
      Kit s(c);
      auto stream = tiny_stream(4);
      const double first = s.trainer->step(*stream).loss;
      StepReport last;
      while (s.trainer->state().step < 40) last = s.trainer->step(*stream);
      EXPECT_NEAR(first, std::log(kVocab), 1.0);
      EXPECT_LT(last.loss, 0.6 * first);
      EXPECT_EQ(last.consumed_samples, 320);
      EXPECT_EQ(last.consumed_tokens, 320 * kSeq);
    }
}

TEST(Trainer, TokenModeDoesNotDependOnTheCutIntoMicroBatches) {
  Kit whole(config(8, 8)), parts(config(8, 2)), other(config(8, 2, LossMode::kMean));
  auto a = tiny_stream(8), b = tiny_stream(2), c = tiny_stream(2);
  for (int i = 0; i < 3; ++i) {
    const StepReport x = whole.trainer->step(*a), y = parts.trainer->step(*b), z = other.trainer->step(*c);
    EXPECT_NEAR(x.loss, y.loss, 1e-6);
    EXPECT_NEAR(x.grad_norm, y.grad_norm, 1e-5);
    if (i == 0) { EXPECT_GT(std::fabs(x.grad_norm - z.grad_norm), 1e-4) << "the mean of means is another objective: samples have different weights"; }
  }
  EXPECT_LT(distance(whole.weights(), parts.weights()), 1e-4);
}

TEST(Trainer, GradientsAreThoseOfTheObjectiveWrittenOut) {
  for (LossMode mode : {LossMode::kToken, LossMode::kMean}) {
    TrainConfig c = config(8, 2, mode);
    Kit s(c), look(c);
    // The same forward with plain ATen and autograd, in fp64.
    std::vector<at::Tensor> w;
    look.model.visit_params([&](nn::Param& p) { w.push_back(p.weight.value.to(at::kDouble).detach().requires_grad_(true)); });
    at::Tensor total = at::zeros({}, at::kDouble);
    double weight = 0;
    auto stream = tiny_stream(2);
    for (int m = 0; m < 4; ++m) {
      const data::Batch b = stream->next();
      at::Tensor x = w[0].index_select(0, b.tokens);
      x = x * (x.square().mean(-1, true) + 1e-5).rsqrt() * w[1];
      const at::Tensor nll = -at::log_softmax(x.matmul(w[2].t()), -1).gather(1, b.targets.clamp_min(0).unsqueeze(1)).squeeze(1);
      const double n = b.loss_weights.sum().item<double>();
      const at::Tensor sum = (nll * b.loss_weights.to(at::kDouble)).sum();
      total = total + (mode == LossMode::kMean ? sum / (n * 4) : sum);
      weight += n;
    }
    if (mode == LossMode::kToken) total = total / weight;
    total.backward();
    double norm = 0;
    for (const at::Tensor& t : w) norm += t.grad().square().sum().item<double>();
    auto again = tiny_stream(2);
    EXPECT_NEAR(s.trainer->step(*again).grad_norm, std::sqrt(norm), 1e-5 * std::sqrt(norm));
  }
}

TEST(Trainer, DataParallelRanksTakeTheStepsOfOneRank) {
  for (LossMode mode : {LossMode::kToken, LossMode::kMean}) {
    Kit one(config(8, 2, mode));
    auto stream = tiny_stream(2);
    std::vector<double> losses;
    for (int i = 0; i < 4; ++i) losses.push_back(one.trainer->step(*stream).loss);
    std::mutex mutex;
    run_ranks(4, [&](World& world) {
      const Mesh mesh = Mesh::build({.dp = 4}, world);
      Kit s(config(8, 2, mode), mesh);
      auto mine = tiny_stream(2, 0, mesh.coord(Axis::kDp), 4);
      for (int i = 0; i < 4; ++i) {
        const StepReport r = s.trainer->step(*mine);
        std::lock_guard lock(mutex);
        EXPECT_NEAR(r.loss, losses[static_cast<size_t>(i)], 1e-5);
        EXPECT_EQ(r.consumed_samples, 8 * (i + 1));
      }
      std::lock_guard lock(mutex);
      EXPECT_LT(distance(s.weights(), one.weights()), 1e-4);
    });
  }
}

TEST(Trainer, ASavedAndLoadedRunGivesTheBitsOfAnUnbrokenOne) {
  for (Precision p : {Precision::kFp32, Precision::kBf16}) {
    TrainConfig c = config(8, 4);
    c.precision = p;
    Kit unbroken(c), first(c);
    auto stream = tiny_stream(4);
    std::vector<double> losses;
    for (int i = 0; i < 20; ++i) losses.push_back(unbroken.trainer->step(*stream).loss);
    const TempFolder dir;
    const ckpt::Store store(dir.path);
    auto self = self_comm();
    auto before = tiny_stream(4);
    for (int i = 0; i < 10; ++i) first.trainer->step(*before);
    store.save(*self, state_manifest(*first.trainer, this_process(), Json::object(), c.seed, Json::object()), state_sources(*first.trainer, Mesh::single()), 1);

    c.seed = 99;  // other initial weights: the load must replace them all
    Kit second(c);
    load_state(*second.trainer, Mesh::single(), *store.newest_valid());
    EXPECT_EQ(second.trainer->state().step, 10);
    auto after = tiny_stream(4, second.trainer->state().consumed_samples);
    for (size_t i = 10; i < 20; ++i) ASSERT_EQ(second.trainer->step(*after).loss, losses[i]) << i;
    EXPECT_TRUE(at::equal(second.weights(), unbroken.weights()));
    second.model.visit_buffers([](const std::string&, at::Tensor& t) { EXPECT_EQ(t[0].item<float>(), 20); });

    Kit read(c);
    load_model(read.model, Mesh::single(), *store.newest_valid());
    EXPECT_TRUE(at::equal(read.weights(), first.weights()));
  }
}

TEST(Trainer, AnInfOrNanIsNamedAndTheWeightsStayAsTheyWere) {
  const auto message = [](Kit& s) -> std::string {
    auto stream = tiny_stream(4);
    try {
      s.trainer->step(*stream);
    } catch (const NonFiniteError& e) {
      return e.what();
    }
    return "no error";
  };
  Kit a(config(8, 4));
  a.model.visit_params([](nn::Param& p) {
    if (p.weight.name == "norm") p.weight.value[3] = std::numeric_limits<float>::quiet_NaN();
  });
  EXPECT_NE(message(a).find("first bad tensor: weight norm (1 of 8 elements)"), std::string::npos) << message(a);

  Kit b(config(8, 4));  // finite weights, but a product that is not
  b.model.visit_params([](nn::Param& p) {
    if (p.weight.name == "norm") p.weight.value.fill_(3e38f);
  });
  const at::Tensor before = b.weights().clone();
  EXPECT_NE(message(b).find("output"), std::string::npos) << message(b);
  EXPECT_TRUE(at::equal(b.weights(), before));

  TrainConfig c = config(8, 4);
  c.on_non_finite = OnNonFinite::kSkip;
  Kit d(c);
  auto stream = tiny_stream(4);
  d.trainer->step(*stream);
  at::Tensor norm;
  d.model.visit_params([&](nn::Param& p) {
    if (p.weight.name == "norm") norm = p.weight.value;
  });
  const at::Tensor good = norm.clone();
  norm[0] = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(d.trainer->step(*stream).skipped);
  EXPECT_EQ(d.trainer->state().updates, 1);
  EXPECT_EQ(d.trainer->state().step, 2);
  norm.copy_(good);
  EXPECT_FALSE(d.trainer->step(*stream).skipped);
}

TEST(Trainer, RehearsalLeavesNoTrace) {
  Kit a(config(8, 4)), b(config(8, 4));
  auto x = tiny_stream(4), y = tiny_stream(4), z = tiny_stream(4);
  b.trainer->rehearse(z->next());
  for (int i = 0; i < 3; ++i) ASSERT_EQ(a.trainer->step(*x).loss, b.trainer->step(*y).loss);
  EXPECT_TRUE(at::equal(a.weights(), b.weights()));
}

TEST(Evaluate, IsTheMeanOverTokensWhateverTheMicroBatch) {
  Kit s(config(8, 4));
  auto set = std::make_shared<TinySet>();
  const EvalReport a = evaluate(s.model, set, {.samples = 50, .micro_batch = 8, .bytes_per_token = 3, .policy = s.options.policy}, 0);
  const EvalReport b = evaluate(s.model, set, {.samples = 50, .micro_batch = 1, .bytes_per_token = 3, .policy = s.options.policy}, 0);
  EXPECT_NEAR(a.loss, b.loss, 1e-6);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.tokens, 50 * kSeq - 10 * (0 + 1 + 2 + 3 + 4));
  EXPECT_NEAR(a.bits_per_byte, a.loss / std::log(2.0) / 3, 1e-12);
  EXPECT_EQ(evaluate(s.model, set, {.micro_batch = 100, .policy = s.options.policy}, 0).samples, 1000);
}

TEST(Watch, SpikesAreCountedAndDoNotMoveTheMean) {
  Spikes spikes({.spike_factor = 8, .spike_half_life = 5});
  StepReport r;
  for (int i = 1; i <= 100; ++i) {
    r.step = i, r.loss = 3 + 0.05 * std::sin(i);
    if (i == 60 || i == 61) r.loss = 4;
    EXPECT_EQ(spikes.on_step(r), Verdict::kGoOn);
  }
  EXPECT_EQ(spikes.seen(), 2);
  Spikes calm({.spike_factor = 8, .spike_half_life = 5});
  for (int i = 1; i <= 300; ++i) r.step = i, r.loss = 10.0 / std::sqrt(i) + 0.02 * std::sin(7 * i), calm.on_step(r);
  EXPECT_EQ(calm.seen(), 0) << "a falling loss has no spikes";
}

TEST(Watch, TheStopperSavesAtItsStepsAndStopsWhenTimeIsUp) {
  Stopper s({.every = 10}, 0);
  StepReport r;
  r.total_steps = 30;
  for (int64_t i = 1; i <= 30; ++i) {
    r.step = i;
    EXPECT_EQ(s.on_step(r), i == 10 || i == 20 ? Verdict::kSave : Verdict::kGoOn) << "the end saves by itself";
  }
  Stopper late({.every = 0}, 1e-9);
  r.step = 3;
  std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(late.on_step(r), Verdict::kSaveAndStop);
  EXPECT_NE(late.why().find("time limit"), std::string::npos);
}

}  // namespace weft::train
