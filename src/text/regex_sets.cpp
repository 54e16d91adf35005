#include "text/regex_sets.h"

#include <utf8proc.h>

namespace weft::text {
namespace {

// A code point and its other cases. The long s and the Kelvin sign fold to ASCII letters.
void add_cases(uint32_t code, std::vector<CodeRange>& out) {
  const auto add = [&](int64_t c) {
    if (c >= 0) out.push_back({static_cast<uint32_t>(c), static_cast<uint32_t>(c)});
  };
  add(code);
  const int64_t lower = utf8proc_tolower(static_cast<int32_t>(code)), upper = utf8proc_toupper(static_cast<int32_t>(code));
  add(lower), add(upper);
  if (lower == 's') add(0x17F);
  if (lower == 'k') add(0x212A);
  if (code == 0x17F) add('s'), add('S');
  if (code == 0x212A) add('k'), add('K');
}

}  // namespace

CodeSet with_cases(const CodeSet& set) {
  std::vector<CodeRange> out = set.ranges();
  for (const CodeRange& r : set.ranges()) {
    for (uint32_t c = r.first; c <= r.last; ++c) {
      if (*category_of(c) == 'L' || c == 0x2126) add_cases(c, out);
    }
  }
  return CodeSet(std::move(out));
}

CodeSet digit_set() {
  CodeSet s;
  named_set("Nd", s);
  return s;
}
CodeSet hex_digit_set() { return CodeSet({{'0', '9'}, {'a', 'f'}, {'A', 'F'}}); }

bool posix_set(std::string_view name, CodeSet& out) {
  const auto of = [&](const char* category) { CodeSet s; named_set(category, s); return s; };
  if (name == "alpha") return out = property_set(Property::kAlphabetic), true;
  if (name == "digit") return out = of("Nd"), true;
  if (name == "alnum") return out = property_set(Property::kAlphabetic) | of("Nd"), true;
  if (name == "space") return out = property_set(Property::kSpace), true;
  if (name == "word") return out = property_set(Property::kOnigWord), true;
  if (name == "punct") return out = of("P") | of("S"), true;
  if (name == "xdigit") return out = hex_digit_set(), true;
  if (name == "upper") return out = of("Lu"), true;
  if (name == "lower") return out = of("Ll"), true;
  if (name == "cntrl") return out = of("Cc"), true;
  if (name == "blank") return out = of("Zs") | CodeSet({{'\t', '\t'}}), true;
  if (name == "ascii") return out = CodeSet({{0, 127}}), true;
  return false;
}

}  // namespace weft::text
