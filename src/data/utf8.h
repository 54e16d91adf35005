// UTF-8 as it comes from the outside: what is not valid is replaced and counted, never dropped in silence.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace weft::data {

// Length of the longest valid prefix. Overlong forms, surrogates and values above U+10FFFF are not valid.
size_t valid_utf8_prefix(std::string_view text);
// Appends `text` to `out`; each maximal ill-formed part becomes U+FFFD (the Unicode standard's recommended practice).
// Returns the number of replacements.
int64_t append_clean_utf8(std::string_view text, std::string& out);
void append_utf8(uint32_t code_point, std::string& out);

}  // namespace weft::data
