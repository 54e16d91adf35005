// Text exactly as Python's json.dumps(x, indent=4) and hashlib.md5 make it: the names of Megatron's cache files depend on it.
#pragma once
#include <string>
#include <string_view>

#include "base/json.h"

namespace weft::data {

std::string python_float(double);              // repr: shortest digits, "1.0", "1e-05", "1e+16"
std::string python_json(const Json& value);    // indent 4, ASCII only
std::string md5_hex(std::string_view bytes);   // RFC 1321

}  // namespace weft::data
