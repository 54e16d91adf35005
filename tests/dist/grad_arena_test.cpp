#include "ops/aten.h"

#include "dist/grad_arena.h"

#include <gtest/gtest.h>

#include <deque>

#include "base/error.h"
#include "comm/threads.h"

namespace weft {
namespace {

std::deque<ops::Weight> some_weights() {
  std::deque<ops::Weight> w;
  for (int64_t n : {3, 70, 5, 64, 9}) w.push_back({"w" + std::to_string(n), at::ones({n}, at::kBFloat16)});
  return w;
}
std::vector<ops::Weight*> pointers(std::deque<ops::Weight>& w) {
  std::vector<ops::Weight*> out;
  for (ops::Weight& x : w) out.push_back(&x);
  return out;
}

}  // namespace

TEST(GradArena, GradsAreViewsInReverseOrderAndSumInFp32) {
  auto weights = some_weights();
  weights[2].trainable = false;
  auto self = self_comm();
  GradArena arena(pointers(weights), *self, {.bucket_elements = 100});
  EXPECT_EQ(arena.slots().size(), 4u);
  EXPECT_EQ(arena.slots()[0].weight, &weights[4]);
  EXPECT_EQ(arena.buckets().size(), 3u);
  EXPECT_FALSE(weights[2].main_grad.defined());
  EXPECT_EQ(weights[1].main_grad.scalar_type(), at::kFloat);
  EXPECT_EQ(weights[1].main_grad.storage().data(), arena.flat().storage().data());
  for (int i = 0; i < 257; ++i) weights[0].accumulate(at::ones({3}, at::kBFloat16));  // in bf16 the sum would stop at 256
  EXPECT_EQ(weights[0].main_grad.sum().item<float>(), 3 * 257);
  arena.zero();
  EXPECT_EQ(arena.flat().abs().sum().item<float>(), 0);
}

TEST(GradArena, ABucketIsReducedOnceWhenItsLastUseIsDone) {
  run_ranks(4, [](World& world) {
    auto comm = world.group(std::vector<int>{0, 1, 2, 3}, "dp");
    auto weights = some_weights();
    GradArena arena(pointers(weights), *comm, {.bucket_elements = 64});
    const int r = comm->rank();
    for (int step = 0; step < 3; ++step) {
      arena.zero();
      for (int micro = 0; micro < 2; ++micro) {
        arena.begin_backward(micro == 1);
        for (int i = 4; i >= 0; --i) weights[static_cast<size_t>(i)].accumulate(at::full({weights[static_cast<size_t>(i)].value.numel()}, r + 1.0));
        weights[0].accumulate(at::ones({3}));  // used twice, such as a tied embedding
        if (micro == 0) { EXPECT_TRUE(arena.reduced_order().empty()); }
        if (step > 0 && micro == 1) { EXPECT_EQ(arena.reduced_order().size(), arena.buckets().size()) << "all before finish()"; }
      }
      arena.finish();
      EXPECT_EQ(arena.reduced_order().size(), arena.buckets().size());
      EXPECT_EQ(weights[1].main_grad.min().item<float>(), 20);
      EXPECT_EQ(weights[1].main_grad.max().item<float>(), 20);
      EXPECT_EQ(weights[0].main_grad.max().item<float>(), 28);
    }
  });
}

TEST(GradArena, AnotherNumberOfUsesThanInTheFirstStepIsABug) {
  auto weights = some_weights();
  auto self = self_comm();
  GradArena arena(pointers(weights), *self);
  const auto step = [&](int skip) {
    arena.zero();
    arena.begin_backward(true);
    for (int i = 0; i < 5; ++i)
      if (i != skip) weights[static_cast<size_t>(i)].done();
    arena.finish();
  };
  step(-1);
  step(-1);
  EXPECT_THROW(step(3), InternalError);
  EXPECT_THROW(GradArena(pointers(weights), *self), InternalError) << "a weight belongs to one arena";
}

}  // namespace weft
