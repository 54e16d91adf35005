// Reads an Oniguruma pattern into PCRE2 text with holes, one hole a set of code points.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "text/unicode.h"

namespace weft::text {

struct PatternPart {
  std::string text;  // PCRE2 syntax
  int set = -1;      // after the text comes one code point of sets[set], when not negative
};
struct ParsedPattern {
  std::vector<PatternPart> parts;
  std::vector<CodeSet> sets;
};
// Throws InputError: `where: pattern offset N: what`.
ParsedPattern parse_pattern(std::string_view pattern, const std::string& where);

}  // namespace weft::text
