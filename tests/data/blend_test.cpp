#include "data/blend.h"

#include <gtest/gtest.h>

#include <numeric>

#include "base/error.h"
#include "base/rng.h"
#include "folder.h"

namespace weft::data {
namespace {

class Numbered final : public Dataset {
 public:
  Numbered(int32_t set, int64_t size) : set_(set), size_(size) {}
  int64_t size() const override { return size_; }
  void read(int64_t index, Sample& out) const override { out.tokens = {set_, static_cast<int32_t>(index)}, out.loss_weights = {1}, out.document_starts = {0}; }

 private:
  int32_t set_;
  int64_t size_;
};

TEST(Blend, TheSetThatIsFurthestBehindComesNext) {
  BlendWalk walk(std::vector<double>{0.5, 0.3, 0.2});
  std::vector<int16_t> d(12);
  std::vector<int64_t> s(12);
  walk.next(d, s);
  EXPECT_EQ(d, (std::vector<int16_t>{0, 1, 2, 0, 1, 0, 2, 0, 1, 0, 0, 1}));
  EXPECT_EQ(s, (std::vector<int64_t>{0, 0, 0, 1, 1, 2, 1, 3, 2, 4, 5, 3}));
}

TEST(Blend, PlannedAndStoredGiveTheWalkInAnyOrderAndKeepLittle) {
  Folder folder;
  const std::vector<int64_t> sizes{20000, 1, 0, 7777, 31000};
  const int64_t n = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  for (const BlendWalk& walk : {BlendWalk(std::vector<double>{0.34, 0.01, 0.02, 0.13, 0.5}), BlendWalk(sizes)}) {
    std::vector<int16_t> d(static_cast<size_t>(n));
    std::vector<int64_t> s(static_cast<size_t>(n));
    BlendWalk all = walk;
    all.next(d, s);
    const PlannedBlend planned(walk, n);
    write_blend(folder / "b-", walk, n);
    const StoredBlend stored(folder / "b-");
    EXPECT_LT(planned.kept_bytes(), static_cast<size_t>(n));  // the arrays take ten bytes a sample
    ASSERT_EQ(stored.size(), n);
    EXPECT_EQ(stored.counts(5), planned.counts(5));
    EXPECT_THROW(stored.counts(4), InputError);
    for (int64_t k = 0; k < 3000; ++k) {
      const int64_t i = k < 1000 ? k * 53 % n : static_cast<int64_t>(rng::below(5, static_cast<uint64_t>(k), static_cast<uint64_t>(n)));
      const BlendOrder::From a = planned.at(i), b = stored.at(i);
      ASSERT_TRUE(a.dataset == d[static_cast<size_t>(i)] && a.sample == s[static_cast<size_t>(i)]) << i;
      ASSERT_TRUE(b.dataset == a.dataset && b.sample == a.sample) << i;
    }
  }
}

TEST(Blend, MoreThanASetHasIsRefused) {
  std::vector<std::shared_ptr<const Dataset>> parts{std::make_shared<Numbered>(0, 10), std::make_shared<Numbered>(1, 3)};
  const auto blend = [&](int64_t size) { return BlendedDataset(parts, std::make_shared<PlannedBlend>(BlendWalk(std::vector<double>{0.5, 0.5}), size)); };
  const BlendedDataset good = blend(6);
  EXPECT_EQ(good.at(1).tokens, (std::vector<int32_t>{1, 0}));
  EXPECT_THROW(good.at(6), InputError);
  EXPECT_NE(error_of<ConfigError>([&] { blend(8); }).find("the blend asks for more than set 1 has: got 4"), std::string::npos);
  EXPECT_THROW(BlendWalk(std::vector<double>{}), ConfigError);
}

}  // namespace
}  // namespace weft::data
