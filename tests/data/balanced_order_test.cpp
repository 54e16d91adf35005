// Samples of a step over data-parallel ranks: the same step for any number of ranks, and the position one integer.
#include "data/balanced_order.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "data/mock.h"
#include "data/open.h"

namespace weft::data {
namespace {

using Shape = BalancedOrder::Shape;

std::shared_ptr<const Dataset> samples_of_many_lengths() {
  MockConfig m;
  m.vocab_size = 100, m.size = 1000, m.seq_len = 512, m.mean = 120, m.sigma = 1.5, m.min_length = 2, m.max_length = 512, m.seed = 3;
  return std::make_shared<MockDataset>(m);
}

std::vector<int64_t> places(const SampleOrder& order, int64_t from, int64_t count) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < count; ++i) out.push_back(order.at(from + i));
  return out;
}

TEST(BalancedOrder, AStepHoldsTheSameSamplesForAnyNumberOfRanks) {
  const auto set = samples_of_many_lengths();
  const auto plain = std::make_shared<EpochOrder>(set->size(), 11, true);
  for (int64_t ranks : {1, 2, 4, 8}) {
    for (int64_t micro_batch : {1, 2}) {
      const BalancedOrder order(plain, set, {16, micro_batch, ranks}, 0);
      for (int64_t step = 0; step < 5; ++step) {
        std::vector<int64_t> want = places(*plain, step * 16, 16), got = places(order, step * 16, 16);
        std::sort(want.begin(), want.end()), std::sort(got.begin(), got.end());
        EXPECT_EQ(got, want) << ranks << " ranks, step " << step;
      }
    }
  }
}

TEST(BalancedOrder, RanksHaveEvenWorkAndSoHaveTheirMicroBatches) {
  const auto set = samples_of_many_lengths();
  const auto plain = std::make_shared<EpochOrder>(set->size(), 11, true);
  const Shape shape{64, 2, 4};
  const auto order = std::make_shared<BalancedOrder>(plain, set, shape, 0);
  double before = 0, after = 0;
  for (int64_t step = 0; step < 10; ++step) before += imbalance(*plain, *set, shape, 64 * step) / 10, after += imbalance(*order, *set, shape, 64 * step) / 10;
  EXPECT_GT(before, 1.05);
  EXPECT_LT(after, 1.02);
  // What runs at one time: the micro-batches of one number on all ranks. Heaviest first.
  std::vector<double> rounds;
  for (int64_t round = 0; round < 8; ++round) rounds.push_back(attention_work(set->starts(order->at(8 * round))));
  EXPECT_TRUE(std::is_sorted(rounds.rbegin(), rounds.rend()));
}

TEST(BalancedOrder, ThePositionIsOneInteger) {
  const auto set = samples_of_many_lengths();
  const auto plain = std::make_shared<EpochOrder>(set->size(), 11, true);
  const std::vector<int64_t> whole = places(BalancedOrder(plain, set, {8, 2, 4}, 0), 0, 80);
  const BalancedOrder later(plain, set, {8, 2, 4}, 40);  // stopped after five steps, and begun again
  EXPECT_EQ(places(later, 40, 40), std::vector<int64_t>(whole.begin() + 40, whole.end()));
  EXPECT_EQ(later.at(3), plain->at(3));
  // The run goes on with two ranks and another batch: nothing is read twice, nothing left out.
  const BalancedOrder other(plain, set, {12, 3, 2}, 40);
  std::vector<int64_t> got = places(other, 40, 24), want = places(*plain, 40, 24);
  std::sort(got.begin(), got.end()), std::sort(want.begin(), want.end());
  EXPECT_EQ(got, want);
  // Any order of asking gives the same answers.
  const BalancedOrder again(plain, set, {8, 2, 4}, 0);
  for (int64_t place : {79, 0, 41, 7, 78, 1}) EXPECT_EQ(again.at(place), whole[static_cast<size_t>(place)]);
}

TEST(BalancedOrder, PastTheEndComesPadding) {
  const auto set = samples_of_many_lengths();
  const BalancedOrder order(std::make_shared<OnceOrder>(10), set, {8, 1, 4}, 0);
  const std::vector<int64_t> last = places(order, 8, 8);
  EXPECT_EQ(std::count(last.begin(), last.end(), -1), 6);
  EXPECT_EQ(places(order, 16, 8), std::vector<int64_t>(8, -1));
  EXPECT_THROW(BalancedOrder(std::make_shared<OnceOrder>(10), set, {10, 1, 4}, 0), ConfigError);
}

TEST(BalancedOrder, ARecipeTurnsItOn) {
  DataConfig c = config::from_json<DataConfig>({{"seq_len", 64}, {"balance", true}, {"source", {{"kind", "mock"}, {"size", 500}, {"mean", 20}, {"min_length", 2}, {"max_length", 64}}}}, "test");
  const RunShape shape{.steps = 10, .batch = 16, .micro_batch = 2, .ranks = 4, .seed = 7};
  const OpenedData d = open_data(c, shape);
  const auto order = train_order(c, d, shape, 32);
  ASSERT_NE(order, d.order);
  const Shape b{16, 2, 4};
  EXPECT_LT(imbalance(*order, *d.train, b, 32), imbalance(*d.order, *d.train, b, 32));
  EXPECT_EQ(train_order(c, d, {.steps = 10, .batch = 16, .micro_batch = 2, .ranks = 1}, 32), d.order);
  c.balance = false;
  EXPECT_EQ(train_order(c, d, shape, 32), d.order);
}

}  // namespace
}  // namespace weft::data
