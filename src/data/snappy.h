// Snappy blocks (the format description of google/snappy): a length, then literals and copies of what was already written.
#pragma once
#include <string>
#include <string_view>

namespace weft::data {

// Exactly `bytes` bytes are wanted. InputError with `where` for anything else.
std::string snappy_unpack(std::string_view packed, size_t bytes, const std::string& where);

}  // namespace weft::data
