// One member of a JSON object, without building the rest: the whole line is checked, only what is asked for is kept.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace weft::data {

struct JsonText {
  bool found = false;
  std::string text;          // unescaped, valid UTF-8
  int64_t replacements = 0;  // ill-formed UTF-8 and lone surrogates that became U+FFFD
};
// The string value of `key` in the object that `line` is. At most 64 levels, no duplicate keys on the top level.
// InputError `where, column N: ...` for bad JSON, a line that is no object, a duplicate, a value that is no string.
JsonText json_text_member(std::string_view line, std::string_view key, const std::string& where);
// The raw JSON of the member (for structured values), empty when absent. Same checks.
std::string_view json_raw_member(std::string_view line, std::string_view key, const std::string& where);

}  // namespace weft::data
