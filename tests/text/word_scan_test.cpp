// The hand-written scan of known patterns finds what the regular expression engine finds.
#include "text/word_scan.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/rng.h"
#include "text/byte_level.h"
#include "text/regex.h"
#include "text/unicode.h"

namespace weft::text {
namespace {

std::vector<size_t> ends(Matcher& matcher, std::string_view text) {
  std::vector<size_t> out;
  size_t begin = 0, end = 0;
  matcher.start(text);
  while (matcher.next(begin, end)) out.push_back(begin), out.push_back(end);
  return out;
}

const std::string kShort = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
std::string plain(const std::string& number) {
  return kShort + R"(|[^\r\n\p{L}\p{N}]?\p{L}+|)" + number + R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
}
std::string cased(const std::string& behind, const std::string& number) {
  const std::string lead = R"([^\r\n\p{L}\p{N}]?)", upper = R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])", lower = R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])";
  return lead + upper + "*" + lower + "+" + behind + "|" + lead + upper + "+" + lower + "*" + behind + "|" + number +
         R"(| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
}

TEST(WordScan, FindsWhatTheEngineFinds) {
  std::vector<std::string> patterns = {kByteLevelPattern};
  for (const char* number : {"\\p{N}{1,3}", "\\p{N}+", "\\p{N}"}) {
    patterns.push_back(plain(number));
    patterns.push_back(cased("", number));
    patterns.push_back(cased(kShort + "?", number));
  }
  // One or more of every kind that a pattern tells apart.
  const std::vector<std::string> letters = {"a", "B", "s", "S", "t", "e", "R", "l", "L", "v", "m", "d", "\xC5\xBF" /* long s */, "\xE2\x84\xAA" /* Kelvin */,
                                            "\xC7\x85" /* Lt */, "\xCA\xB0" /* Lm */, "\xE4\xB8\xAD" /* Lo */, "\xCC\x81" /* Mn */, "\xE2\x83\x9D" /* Me */,
                                            "1", "2", "\xD9\xA1" /* Nd */, "\xE2\x85\xA3" /* Nl */, "\xC2\xBD" /* No */, " ", "\t", "\n", "\r", "\v", "\xC2\xA0",
                                            "\xC2\x85", "\xE3\x80\x80", "\xE2\x80\xA8", "'", "'", "/", ".", "!", "_", "\xF0\x9F\x98\x80", "\xE2\x80\x8D", "\xFF",
                                            "\xED\xA0\x80", "\xEF\xBF\xBD", std::string(1, '\0'), "\xF0\x90\x90\x80" /* Lu */, "\xF0\x90\x90\xA8" /* Ll */};
  for (size_t p = 0; p < patterns.size(); ++p) {
    ASSERT_TRUE(WordScan::of_pattern(patterns[p])) << patterns[p];
    const Regex scanned(patterns[p]), reference(patterns[p], "pattern", Regex::Engine::kPcre2);
    Matcher a(scanned), b(reference);
    uint64_t n = 0;
    for (int i = 0; i < 60000; ++i) {
      std::string text;
      for (uint64_t k = 1 + rng::bits(p, n++) % 9; k > 0; --k) text += letters[rng::bits(p, n++) % letters.size()];
      ASSERT_EQ(ends(a, text), ends(b, text)) << patterns[p] << " on '" << text << "'";
    }
  }
}

TEST(WordScan, KnowsEveryCodePoint) {
  for (const std::string& pattern : {std::string(kByteLevelPattern), plain("\\p{N}{1,3}"), cased(kShort + "?", "\\p{N}{1,3}")}) {
    const Regex scanned(pattern), reference(pattern, "pattern", Regex::Engine::kPcre2);
    Matcher a(scanned), b(reference);
    std::string text;
    for (uint32_t c = 0; c <= kLastCodePoint; ++c) {
      if (c >= 0xD800 && c < 0xE000) continue;
      text += 'a', append_utf8(text, c), text += "B ", append_utf8(text, c);
      if (text.size() < 4000 && c < kLastCodePoint) continue;
      ASSERT_EQ(ends(a, text), ends(b, text)) << pattern << " before U+" << std::hex << c;
      text.clear();
    }
  }
}

TEST(WordScan, LeavesOtherPatternsAlone) { EXPECT_FALSE(WordScan::of_pattern("\\p{L}+|\\s+")); }

}  // namespace
}  // namespace weft::text
