// Unicode normalization forms (UAX 15) as Hugging Face's normalizers give them, with how each character came to be.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "text/pieces.h"

namespace weft::text {

enum class Form : uint8_t { kNfc, kNfd, kNfkc, kNfkd };

// True when the form leaves the text as it is, found without building it; false may be a false alarm.
bool surely_in_form(std::string_view text, Form form);
// The characters of the text in that form. A bad byte counts as U+FFFD.
void to_form(std::string_view text, Form form, std::vector<Change>& out);

// Lower case of one character: one or two code points; `second` is 0 when there is one.
uint32_t lower_case(uint32_t code, uint32_t& second);

}  // namespace weft::text
