#include "base/text.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/json.h"

namespace weft {

TEST(Text, EditDistanceCountsASwapOnce) {
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("train", "trian"), 1u);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
}

TEST(Text, NearestIsSilentWhenNothingIsNear) {
  const std::vector<std::string> known{"train", "prepare", "inspect"};
  EXPECT_EQ(nearest("trian", known), "train");
  EXPECT_EQ(nearest("prepair", known), "prepare");
  EXPECT_EQ(nearest("xyz", known), "");
}

TEST(Text, SizesBothWays) {
  EXPECT_EQ(human_bytes(512), "512 B");
  EXPECT_EQ(human_bytes(1536), "1.50 KiB");
  EXPECT_EQ(human_bytes(uint64_t{3} << 30), "3.00 GiB");
  EXPECT_EQ(human_count(124e6), "124 M");
  EXPECT_EQ(human_seconds(0.0125), "12 ms");
  EXPECT_EQ(human_seconds(245), "4 min 05 s");
  EXPECT_EQ(parse_bytes("1 GiB"), uint64_t{1} << 30);
  EXPECT_EQ(parse_bytes("1.5k"), 1536u);
  EXPECT_EQ(parse_bytes("64"), 64u);
  EXPECT_EQ(parse_bytes("-1"), std::nullopt);
  EXPECT_EQ(parse_bytes("12 parsecs"), std::nullopt);
  EXPECT_EQ(parse_bytes("99999999P"), std::nullopt);
}

TEST(Text, SplitJoinTrimGlob) {
  EXPECT_EQ(split("a,,b", ','), (std::vector<std::string>{"a", "", "b"}));
  EXPECT_EQ(join(split("a/b/c", '/'), " "), "a b c");
  EXPECT_EQ(trim(" \t x y\n"), "x y");
  EXPECT_TRUE(glob_match("layers.*.moe", "layers.17.moe"));
  EXPECT_TRUE(glob_match("*", ""));
  EXPECT_FALSE(glob_match("layers.?.moe", "layers.17.moe"));
}

TEST(Text, GlobsMatchWithinAndAcrossParts) {
  const auto matches = [](std::string_view glob, std::string_view path) { return glob_match(glob, path, '.'); };
  EXPECT_TRUE(matches("layers.*", "layers.3"));
  EXPECT_FALSE(matches("layers.*", "layers.3.moe"));
  EXPECT_TRUE(matches("layers.*.moe", "layers.12.moe"));
  EXPECT_TRUE(matches("**.fc1", "layers.12.moe.fc1"));
  EXPECT_FALSE(matches("*.fc1", "layers.12.fc1"));
  EXPECT_TRUE(matches("**", "") && matches("**", "a.b"));
  EXPECT_TRUE(matches("**.*b.c", "x.ab.d.bb.c"));
  EXPECT_FALSE(matches("**.*b.c", "x.ab.d.c"));
  EXPECT_TRUE(matches("a*c*e", "abcde") && matches("layers.?", "layers.3"));
  EXPECT_FALSE(matches("layers?3", "layers.3"));
}

TEST(Json, RefusesWhatOthersRead) {
  EXPECT_EQ(parse_json("{\"b\": 1, \"a\": [true]}", "x").dump(), "{\"b\":1,\"a\":[true]}");
  EXPECT_THROW(parse_json("{\"a\": 1, \"a\": 2}", "x"), InputError);
  EXPECT_NO_THROW(parse_json("{\"a\": {\"a\": 2}}", "x"));
  EXPECT_THROW(parse_json("{} {}", "x"), InputError);
  EXPECT_THROW(parse_json(std::string(100000, '['), "x"), InputError);
  try {
    parse_json("{\n  \"a\": tru\n}", "f.json");
    FAIL();
  } catch (const InputError& e) {
    EXPECT_TRUE(std::string(e.what()).starts_with("f.json: line 2, column ")) << e.what();
  }
}

}  // namespace weft
