#include "ops/aten.h"

#include "ops/linear_cross_entropy.h"

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "ops/loss_chunks.h"

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

// What a promise may and may not be: kept to rounding, of every token, and of the loss alone. On every candidate, and on the reference in fp64.
TEST(LinearCrossEntropy, ABrokenPromiseIsCaught) {
  for (const char* only : {"", "reference"})
    for (const auto t : {at::kFloat, at::kBFloat16, at::kDouble}) {
      if (t == at::kDouble && only[0] == 0) continue;  // no candidate takes fp64
      const auto told = [&](const std::function<void(const TokenLoss&, const at::Tensor& g)>& backward) {
        Fixture f(t, 20, 31, 8);
        f.policy.only = only;
        if (t == at::kDouble) f.w.main_grad = f.w.main_grad.to(at::kDouble);
        LossOptions o;
        o.weights_are_cotangents = true;
        const TokenLoss loss = linear_cross_entropy(f.x, f.w, f.targets, f.g, o, f.policy);
        backward(loss, f.g.to(loss.loss_T.scalar_type()));
      };
      EXPECT_NO_THROW(told([](const TokenLoss& l, const at::Tensor& g) { l.loss_T.backward(g * (1 + 1e-6)); }));
      EXPECT_NO_THROW(told([](const TokenLoss& l, const at::Tensor& g) { at::dot(l.loss_T, g).backward(); }));
      EXPECT_THROW(told([](const TokenLoss& l, const at::Tensor& g) { at::dot(l.loss_T, g).backward(at::full({}, 0.5, g.options())); }), InternalError);
      EXPECT_THROW(told([](const TokenLoss& l, const at::Tensor& g) { l.loss_T.backward(at::where(at::arange(20) == 11, g + 1e-3, g)); }), InternalError);
      EXPECT_THROW(told([](const TokenLoss& l, const at::Tensor& g) { l.loss_T.backward(at::where(at::arange(20) == 2, g * NAN, g)); }), InternalError);
      EXPECT_THROW(told([](const TokenLoss& l, const at::Tensor& g) { (at::dot(l.loss_T, g) + l.lse_T.sum()).backward(); }), InternalError);
      EXPECT_THROW(told([](const TokenLoss& l, const at::Tensor&) { l.lse_T.sum().backward(); }), InternalError);
    }
}

// A token without a target, or of weight 0, gives nothing, whatever stands there; one that counts and is NaN shows.
TEST(LinearCrossEntropy, WhatGivesNothingIsNotReadAndNanThatCountsShows) {
  for (const bool at_once : {false, true})
    for (const char* only : {"", "reference"}) {
      const auto gradients = [&](int64_t poisoned) {
        Fixture f(at::kFloat, 20, 31, 8);
        f.policy.only = only;
        at::Tensor x = f.x.detach().clone();
        if (poisoned >= 0) x[poisoned].fill_(std::numeric_limits<float>::quiet_NaN());
        x.requires_grad_();
        LossOptions o;
        o.weights_are_cotangents = at_once;
        linear_cross_entropy(x, f.w, f.targets, f.g, o, f.policy).loss_T.backward(f.g);
        return std::pair{x.grad(), f.w.main_grad};
      };
      const auto clean = gradients(-1);
      for (const int64_t nothing : {int64_t{3}, int64_t{7}}) {  // ignored; weight 0
        const auto got = gradients(nothing);
        EXPECT_TRUE(got.first.equal(clean.first) && got.second.equal(clean.second)) << at_once << only << nothing;
      }
      const auto bad = gradients(8);
      EXPECT_TRUE(bad.first[8].isnan().all().item<bool>() && bad.second.isnan().any().item<bool>()) << at_once << only;
    }
}

TEST(LinearCrossEntropy, OnlyTheGradientsThatAreWantedAreMade) {
  Fixture f(at::kFloat, 20, 31, 8), all(at::kFloat, 20, 31, 8);
  LossOptions o;
  o.weights_are_cotangents = true;
  linear_cross_entropy(all.x, all.w, all.targets, all.g, o, all.policy).loss_T.backward(all.g);
  f.w.trainable = false;
  linear_cross_entropy(f.x, f.w, f.targets, f.g, o, f.policy).loss_T.backward(f.g);
  EXPECT_TRUE(f.x.grad().equal(all.x.grad()));
  EXPECT_EQ(f.w.main_grad.abs().max().item<float>(), 0);
  f.w.trainable = true;
  linear_cross_entropy(f.x.detach(), f.w, f.targets, f.g, o, f.policy).loss_T.backward(f.g);
  EXPECT_TRUE(f.w.main_grad.equal(all.w.main_grad));
  {
    const at::NoGradGuard no_grad;  // nothing is promised where no backward can follow
    linear_cross_entropy(f.x, f.w, f.targets, f.g, o, f.policy);
  }
  EXPECT_TRUE(f.w.main_grad.equal(all.w.main_grad));
  f.targets.fill_(-1);
  f.w.main_grad.zero_();
  f.x.mutable_grad() = at::Tensor();
  linear_cross_entropy(f.x, f.w, f.targets, f.g, o, f.policy).loss_T.backward(f.g);
  EXPECT_EQ(f.x.grad().abs().max().item<float>() + f.w.main_grad.abs().max().item<float>(), 0);
}

namespace {

class Watcher final : public c10::MemoryReportingInfoBase {  // tensor memory of this thread and those it starts
 public:
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device) override { peak = std::max(peak, live += size); }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t live = 0, peak = 0;
};

}  // namespace

// The count is what a call allocates, and the goals' shapes stay under the limit with chunks that fill whole rounds.
TEST(LinearCrossEntropy, ChunksFitTheirMemory) {
  for (const int64_t vocab : {65536, 131072}) {
    const LossShape s{32768, vocab, 4096};
    const int64_t rows = loss_chunk_rows(s), tiles = rows / 128 * 16;
    EXPECT_EQ(rows % 128, 0);
    EXPECT_LE(loss_extra_bytes(s, rows), 1'000'000'000) << vocab;
    EXPECT_GE(static_cast<double>(tiles), 0.96 * static_cast<double>((tiles + 131) / 132 * 132)) << vocab << " rows " << rows;
    EXPECT_LE((32768 + rows - 1) / rows, vocab == 65536 ? 6 : 11);
  }
  EXPECT_EQ(loss_chunk_rows({100, 50304, 768}), 128);
  EXPECT_EQ(loss_chunk_rows({32768, 65536, 4096}, 1 << 20), 128);  // nothing fits: the least
  EXPECT_LT(loss_chunk_rows({32768, 65536, 4096}, 200'000'000), loss_chunk_rows({32768, 65536, 4096}));

  Fixture f(at::kFloat, 512, 4096, 64);
  LossOptions o;
  o.weights_are_cotangents = true, o.chunk = 128 * 4096;
  const auto watcher = std::make_shared<Watcher>();
  {
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, watcher);
    linear_cross_entropy(f.x, f.w, f.targets, f.g, o, f.policy);
  }
  const int64_t dx = static_cast<int64_t>(f.x.nbytes()), logits = 128 * 4096 * 4;
  EXPECT_GT(watcher->peak, dx + logits);
  EXPECT_LE(watcher->peak - dx, loss_extra_bytes({512, 4096, 64, 4}, 128) - (32 << 20));  // no product's workspace here
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
