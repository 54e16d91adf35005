#include "pattern/pattern.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/error.h"

namespace weft::pattern {
namespace {

std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "";
}

std::string stages(const std::string& text, const Split& how) {
  std::string out;
  for (const Stage& s : split(parse(text), how)) out += std::to_string(s.rank) + "." + std::to_string(s.chunk) + ":" + s.layers + "@" + std::to_string(s.offset) + " ";
  return out;
}

}  // namespace

TEST(Pattern, ParsesAndPrintsTheTable) {
  struct Row { const char *text, *layers, *mtp; int segments, depths; };
  const Row rows[] = {
      {"M*M*", "M*M*", "", 1, 0},
      {"M", "M", "", 1, 0},
      {"", "", "", 1, 0},
      {"GEGEGE*E", "GEGEGE*E", "", 1, 0},
      {"MDMD", "MDMD", "", 1, 0},
      {"M+D-ECHW", "M+D-ECHW", "", 1, 0},
      {"M-M-|M-M*-", "M-M-M-M*-", "", 2, 0},
      {"M|M|M|M", "MMMM", "", 4, 0},
      {"||M", "M", "", 3, 0},
      {"M*|", "M*", "", 2, 0},
      {"M*M*/MM", "M*M*", "MM", 1, 1},
      {"M*M*/MM/MM", "M*M*", "MM", 1, 2},
      {"M*/*/*/*", "M*", "*", 1, 3},
      {"M/M/M/M/M", "M", "M", 1, 4},
      {"M-M-|M-M*-/MM/MM", "M-M-M-M*-", "MM", 2, 2},
      {"/MM/MM", "", "MM", 1, 2},
      {"MDMD/MD/MD", "MDMD", "MD", 1, 2},
      {"*EME*EME*EMM*|EME*EME*EMM*E|ME*EME*EMM*EM|E*EME*EMM*EME/*-/*-", "*EME*EME*EMM*EME*EME*EMM*EME*EME*EMM*EME*EME*EMM*EME", "*-", 4, 2},
  };
  for (const Row& row : rows) {
    const Pattern p = parse(row.text);
    EXPECT_EQ(p.layers(), row.layers) << row.text;
    EXPECT_EQ(p.mtp, row.mtp) << row.text;
    EXPECT_EQ(static_cast<int>(p.segments.size()), row.segments) << row.text;
    EXPECT_EQ(p.mtp_depths, row.depths) << row.text;
    EXPECT_EQ(print(p), row.text);
    EXPECT_EQ(parse(print(p)), p);
  }
  for (const char* text : {"M*M*/", "M*M*//", "M*M*///"}) {  // separators with nothing behind them
    EXPECT_EQ(parse(text).mtp_depths, 0);
    EXPECT_EQ(print(parse(text)), "M*M*");
  }
}

TEST(Pattern, EachRuleHasItsMessage) {
  struct Row { const char *text, *what; };
  const Row rows[] = {
      {"M*X*", "unknown letter 'X', want one of M G * + D - E C H W: \"M*X*\" at character 3"},
      {"MaMM", "unknown letter 'a'"},
      {"M M", "unknown letter ' '"},
      {"M\x01", "unknown letter '\\x01'"},
      {"M[M*]", "unknown letter '['"},
      {"M*M*/MX", "unknown letter 'X'"},
      {"M*M*/MM/Ma", "unknown letter 'a'"},
      {"M*M*/M|M/M|M", "a pipeline boundary | stands in a prediction depth"},
      {"M*M*/MM/M*", "prediction depths differ: \"MM\" and \"M*\""},
      {"M*M*/MM/MM/M", "prediction depths differ: \"MM\" and \"M\""},
      {"M/M/", "prediction depths differ: \"M\" and \"\""},
      {"M//M", "prediction depths differ: \"\" and \"M\""},
      {"MDM*-", "'*' and 'D' may not be mixed"},
      {"M+|M*", "'*' and '+' may not be mixed"},
      {"M*/W", "'*' and 'W' may not be mixed"},
      {"*C", "may not be mixed"},
      {"H*", "may not be mixed"},
  };
  for (const Row& row : rows) EXPECT_NE(error_of([&] { parse(row.text); }).find(row.what), std::string::npos) << row.text << ": " << error_of([&] { parse(row.text); });
}

TEST(Pattern, ARecipeMayBindOtherLetters) {
  Alphabet bound;
  bound.letters += 'R';
  EXPECT_EQ(parse("MRM*", bound).count('R'), 1);
  bound.attention.clear();  // it bound '*' to something else
  EXPECT_EQ(parse("M*D", bound).num_layers(), 3);
}

TEST(Pattern, CountsMainAndEveryDepth) {
  const Pattern p = parse("M-M-|M-M*-/MM/MM");
  EXPECT_EQ(p.count('M'), 8);
  EXPECT_EQ(p.count('-'), 4);
  EXPECT_EQ(p.count('*'), 1);
  EXPECT_EQ(p.num_layers(), 9);
}

TEST(Pattern, TilesToDepth) {
  EXPECT_EQ(print(tile(parse("*EME*EME*EMM/*-/*-"), 52)), "*EME*EME*EMM*EME*EME*EMM*EME*EME*EMM*EME*EME*EMM*EME/*-/*-");
  EXPECT_EQ(print(tile(parse("M*"), 1)), "M");
  EXPECT_NE(error_of([] { tile(parse("M|*"), 4); }), "");
  EXPECT_NE(error_of([] { tile(parse("/M"), 4); }), "");
  EXPECT_NE(error_of([] { tile(parse("M"), 0); }), "");
}

TEST(Pattern, BuildsTheFlagshipFromItsUnitItsDepthAndTwoRankSets) {
  // Source letters: A attention, E MoE, M Mamba-3, R M2RNN. The attention at nine of thirteen ranks is sparse.
  const std::string unit = translate("AEMEAEMEAEMR", {{'A', '+'}, {'E', 'E'}, {'M', 'M'}, {'R', 'R'}});
  Alphabet letters;
  letters.letters += 'R';
  const Pattern p = tile(parse(unit, letters), 52);
  const std::string all = with_ranks(p.layers(), '+', {1, 2, 3, 5, 6, 7, 9, 10, 11}, 'D');
  EXPECT_EQ(all, "+EMEDEMEDEMRDEME+EMEDEMRDEMEDEME+EMRDEMEDEMEDEMR+EME");
  std::vector<int> moe;
  for (size_t i = 0; i < all.size(); ++i)
    if (all[i] == 'E') moe.push_back(static_cast<int>(i) + 1);
  EXPECT_EQ(moe.size(), 22u);
  EXPECT_NE(error_of([] { translate("AX", {{'A', '*'}}); }), "");
  EXPECT_NE(error_of([] { with_ranks("*E*", '*', {2}, 'D'); }), "");
  EXPECT_NE(error_of([] { with_ranks("*E*", '*', {1, 1}, 'D'); }), "");
}

TEST(Pattern, SplitsIntoStagesByTheTable) {
  EXPECT_EQ(stages("M*M*", {1}), "0.0:M*M*@0 ");
  EXPECT_EQ(stages("M-M-|M-M*-", {2}), "0.0:M-M-@0 1.0:M-M*-@4 ");
  EXPECT_EQ(stages("M-M-|M-M*-", {1}), "0.0:M-M-@0 0.1:M-M*-@4 ");
  EXPECT_EQ(stages("MM|M*|M-|ME", {2}), "0.0:MM@0 1.0:M*@2 0.1:M-@4 1.1:ME@6 ");
  EXPECT_EQ(stages("MM|M*|M-|ME", {2, 2}), "0.0:MM@0 1.0:M*@2 0.1:M-@4 1.1:ME@6 ");
  EXPECT_EQ(stages("||M*", {3}), "0.0:@0 1.0:@0 2.0:M*@0 ");
  EXPECT_EQ(stages("MMM|M|MMMMM", {3}), "0.0:MMM@0 1.0:M@3 2.0:MMMMM@4 ");
  EXPECT_EQ(stages("M*M-", {2}), "0.0:M*@0 1.0:M-@2 ");
  EXPECT_EQ(stages("M*M*M*", {4, 1, 3}), "0.0:M*M@0 1.0:*@3 2.0:M@4 3.0:*@5 ");
  EXPECT_EQ(stages("M*M*M*", {4, 1, -1, 3}), "0.0:M@0 1.0:*@1 2.0:M@2 3.0:*M*@3 ");
  EXPECT_EQ(stages("M*M*M*M*", {4, 1, 1, 1}), "0.0:M@0 1.0:*M*@1 2.0:M*M@4 3.0:*@7 ");
  EXPECT_EQ(stages("M*M*M*M*", {2, 1, 3, 5}), "0.0:M*M@0 1.0:*M*M*@3 ");
  EXPECT_EQ(stages("", {2}), "0.0:@0 1.0:@0 ");
  struct Row { const char* text; Split how; const char* what; };
  const Row rows[] = {
      {"M*M*M*", {4}, "6 layers do not divide among 4 pipeline ranks"},
      {"M*M*M*M*M", {4, 1, 2}, "7 layers do not divide among 3"},
      {"M|M|M", {2}, "3 segments do not divide among 2 pipeline ranks"},
      {"M|M|M|M", {2, 4}, "4 segments on 2 ranks are 2 chunks each: got 4"},
      {"M*|M*", {2, 1, 1}, "the pattern has boundaries"},
      {"M*|M*", {2, 1, -1, 1}, "the pattern has boundaries"},
      {"M*M*", {2, 2}, "several chunks a rank need boundaries"},
      {"M*", {2, 1, 3}, "do not divide"},
      {"M*", {1, 1, 1, 1}, "do not divide"},
      {"M*", {0}, "want 1 or more"},
  };
  for (const Row& row : rows) EXPECT_NE(error_of([&] { split(parse(row.text), row.how); }).find(row.what), std::string::npos) << row.text;
}

TEST(Pattern, RatiosSpreadLayersAsTheOldFlagsDid) {
  EXPECT_EQ(from_ratios(8, 0), "MMMMMMMM");
  EXPECT_EQ(from_ratios(1, 1), "*");
  EXPECT_EQ(from_ratios(1, 0), "M");
  EXPECT_EQ(from_ratios(10, 0.3), "MM*MM*M*MM");
  EXPECT_EQ(from_ratios(10, 0.5), "M*M*M**M*M");
  for (const int layers : {4, 10, 24, 52})
    for (const double attention : {0.0, 0.1, 0.3, 0.5})
      for (const double mlp : {0.0, 0.1, 0.3, 0.5}) {
        const std::string p = from_ratios(layers, attention, mlp);
        EXPECT_EQ(std::count(p.begin(), p.end(), '*'), std::nearbyint(layers * attention)) << p;
        EXPECT_EQ(std::count(p.begin(), p.end(), '-'), std::nearbyint(layers * mlp)) << p;
        EXPECT_EQ(static_cast<int>(p.size()), layers);
      }
  EXPECT_NE(error_of([] { from_ratios(4, 0.8, 0.8); }), "");
}

}  // namespace weft::pattern
