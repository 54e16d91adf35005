// Sets of code points that regular expressions name, beside \p{...}.
#pragma once
#include <string_view>

#include "text/regex_parse.h"

namespace weft::text {

CodeSet with_cases(const CodeSet&);  // and the other cases of its letters
CodeSet digit_set();                 // \d
CodeSet hex_digit_set();             // \h
bool posix_set(std::string_view name, CodeSet& out);  // [:name:]; false when there is none

}  // namespace weft::text
