#include "text/regex.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"

namespace weft::text {
namespace {

std::vector<std::string> all(const std::string& pattern, const std::string& text) {
  const Regex regex(pattern);
  Matcher matcher(regex);
  matcher.start(text);
  std::vector<std::string> out;
  size_t begin = 0, end = 0;
  while (matcher.next(begin, end)) out.push_back(text.substr(begin, end - begin));
  return out;
}
using V = std::vector<std::string>;

TEST(Regex, UnicodeSetsComeFromOurTables) {
  EXPECT_EQ(all("\\p{L}+", "ab\xC3\xA9 \xE4\xB8\xAD\xE6\x96\x87!"), (V{"ab\xC3\xA9", "\xE4\xB8\xAD\xE6\x96\x87"}));
  EXPECT_EQ(all("\\p{Lu}", "\xF0\x90\xB5\x90"), (V{"\xF0\x90\xB5\x90"}));  // U+10D50, new in Unicode 16
  EXPECT_EQ(all("[\\p{Han}&&[^\xE4\xB8\xAD]]", "\xE4\xB8\xAD\xE6\x96\x87"), (V{"\xE6\x96\x87"}));
  EXPECT_EQ(all("\\s", "a\xC2\x85\x62\xE3\x80\x80"), (V{"\xC2\x85", "\xE3\x80\x80"}));
}

TEST(Regex, CaseFoldsTheLongSAndTheKelvinSign) {
  EXPECT_EQ(all("(?i:'s)", "'s'S'\xC5\xBF"), (V{"'s", "'S", "'\xC5\xBF"}));
  EXPECT_EQ(all("(?i)k", "kK\xE2\x84\xAA"), (V{"k", "K", "\xE2\x84\xAA"}));
}

TEST(Regex, LookAheadAndRepeats) {
  EXPECT_EQ(all("\\s+(?!\\S)|\\s+|\\S+", "a   b  "), (V{"a", "  ", " ", "b", "  "}));
  EXPECT_EQ(all("\\d{1,3}+", "12345"), (V{"12345"}));  // not possessive: the whole repeats
  EXPECT_EQ(all("(?<=a)b{2,}", "abbb bb"), (V{"bbb"}));
}

TEST(Regex, BadBytesAreOneByteReplacementCharacters) {
  EXPECT_EQ(all("\\P{L}+", "a\xFF\xFE" "b\xE4\xB8"), (V{"\xFF\xFE", "\xE4\xB8"}));
}

TEST(Regex, EmptyMatchesAdvance) { EXPECT_EQ(all("x*", "axb"), (V{"", "x", ""})); }

TEST(Regex, WrongPatternsAreRefusedByName) {
  for (const char* pattern : {"(", "[a", "a{99999999}", "\\p{Nope}", "*a", "\\X", "a)", "(?z:a)", "[z-a]", "\\", "[[:nope:]]"}) {
    EXPECT_THROW(Regex(pattern, "f.json: pattern"), InputError) << pattern;
  }
  EXPECT_THROW(Regex(std::string(70, '(') + std::string(70, ')')), InputError);
  EXPECT_THROW(Regex(std::string(70000, 'a')), InputError);
}

TEST(Regex, EndlessBacktrackingIsCutOff) { EXPECT_THROW(all("(?:a+a+)+[bc]", std::string(60, 'a')), InputError); }

}  // namespace
}  // namespace weft::text
