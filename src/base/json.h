// JSON values with their keys in order, read strictly: one value, no duplicate keys, at most 256 levels.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace weft {

using Json = nlohmann::ordered_json;

Json parse_json(std::string_view text, const std::string& where);  // InputError `where: line 3, column 7: ...`
Json read_json_file(const std::string& path);                      // InputError
void write_json_file(const std::string& path, const Json& value);  // atomic, ends with a newline; IoError

}  // namespace weft
