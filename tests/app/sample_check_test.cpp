#include "app/sample_check.h"

#include <gtest/gtest.h>

namespace weft::app {

TEST(SampleCheck, IdentifiersAreRunsWithFourLettersThatDoNotBeginWithADigit) {
  using List = std::vector<std::string>;
  EXPECT_EQ(identifiers("std::vector<_Tp> __x1 = a12bcd(0x1fabc, foo4);", false), (List{"vector", "a12bcd"}));
  EXPECT_EQ(identifiers("operator operat", true), (List{"operator"})) << "what breaks off is not judged";
  EXPECT_EQ(identifiers("operator operat ", true), (List{"operator", "operat"}));
  EXPECT_EQ(identifiers("", true), List{});
  EXPECT_EQ(identifiers("\xc3\xa4nder", false), List{"nder"});
}

TEST(SampleCheck, ALoopIsWhatRepeatsAtOneDistance) {
  EXPECT_EQ(longest_loop({}), 0);
  EXPECT_EQ(longest_loop({1, 2, 3, 4}), 0);
  EXPECT_EQ(longest_loop({7, 7, 7, 7}), 3);
  EXPECT_EQ(longest_loop({9, 1, 2, 3, 1, 2, 3, 1, 2, 8}), 5);
  std::vector<int32_t> twice;
  for (int round = 0; round < 2; ++round)
    for (int32_t t = 0; t < 32; ++t) twice.push_back(t);
  EXPECT_EQ(longest_loop(twice), 32);
}

TEST(SampleCheck, CountsEachTimeAndNamesWhatIsUnknownOnce) {
  SampleCheck c;
  const std::set<std::string> corpus{"known", "other"};
  c.add("known known strange strange", false, {1, 1, 1}, corpus);
  c.add("other stra", true, {1, 2}, corpus);
  EXPECT_EQ(c.written, 5);
  EXPECT_EQ(c.known, 3);
  EXPECT_DOUBLE_EQ(c.known_fraction(), 0.6);
  EXPECT_EQ(c.unknown, std::vector<std::string>{"strange"});
  EXPECT_EQ(c.longest_loop, 2);
}

}  // namespace weft::app
