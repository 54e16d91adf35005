#include "base/rng.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace weft::rng {

TEST(Rng, PhiloxGivesThePublishedVectors) {  // Random123's known answers for philox4x32-10
  EXPECT_EQ(philox({0, 0, 0, 0}, 0), (Block{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
  EXPECT_EQ(philox({0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu}, ~0ull),
            (Block{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
  EXPECT_EQ(philox({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, 0x299f31d0a4093822ull),
            (Block{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}));
}

TEST(Rng, AnyCutOfTheIndexRangeGivesTheSameBits) {
  constexpr size_t n = 10007;
  const uint64_t key = mix(7, "layers.3.mlp.up");
  std::vector<float> whole(n), parts(n);
  fill_normal(key, 0, std::span(whole));
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 7; ++t)
    threads.emplace_back([&, t] {
      const size_t begin = n * t / 7, end = n * (t + 1) / 7;
      fill_normal(key, begin, std::span(parts).subspan(begin, end - begin));
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(whole, parts);
  EXPECT_EQ(static_cast<float>(normal(key, 5001)), whole[5001]);
}

TEST(Rng, MomentsAreThoseOfTheLaw) {
  constexpr int n = 200000;
  double sum = 0, square = 0, fourth = 0, lag = 0, last = 0, mean = 0;
  for (int i = 0; i < n; ++i) {
    const double v = normal(3, static_cast<uint64_t>(i));
    sum += v, square += v * v, fourth += v * v * v * v, lag += v * last, last = v;
    mean += uniform(3, static_cast<uint64_t>(i));
  }
  EXPECT_NEAR(sum / n, 0, 0.01);
  EXPECT_NEAR(square / n, 1, 0.015);
  EXPECT_NEAR(fourth / n, 3, 0.1);
  EXPECT_NEAR(lag / n, 0, 0.01);
  EXPECT_NEAR(mean / n, 0.5, 0.003);
}

TEST(Rng, NamesAndNumbersGiveOtherKeys) {
  EXPECT_NE(mix(1, "a"), mix(1, "b"));
  EXPECT_NE(mix(1, "a"), mix(2, "a"));
  EXPECT_NE(mix(1, "a"), mix(1, std::string_view("a\0", 2)));
  EXPECT_NE(mix(1, "layers.1.ab"), mix(1, "layers.11.b"));
}

TEST(Rng, PermuteVisitsEachIndexOnce) {
  for (const uint64_t n : {1u, 2u, 3u, 16u, 1000u, 4097u}) {
    std::vector<int> seen(n);
    uint64_t fixed = 0;
    for (uint64_t i = 0; i < n; ++i) {
      const uint64_t j = permute(42, i, n);
      ++seen[j];
      fixed += j == i;
    }
    EXPECT_EQ(seen, std::vector<int>(n, 1)) << n;
    if (n >= 1000) {
      EXPECT_LT(fixed, 10u);
    }
  }
  EXPECT_NE(permute(42, 0, 1u << 20), permute(43, 0, 1u << 20));
}

}  // namespace weft::rng
