#include "base/json.h"

#include <fmt/format.h>

#include <set>

#include "base/error.h"
#include "base/files.h"

namespace weft {
namespace {

constexpr int kMaxDepth = 256;

std::string place(std::string_view text, size_t byte) {
  size_t line = 1, column = 1;
  for (size_t i = 0; i + 1 < byte && i < text.size(); ++i) {
    ++column;
    if (text[i] == '\n') ++line, column = 1;
  }
  return fmt::format("line {}, column {}", line, column);
}

}  // namespace

Json parse_json(std::string_view text, const std::string& where) {
  std::vector<std::set<std::string>> open;  // keys of each object that is not closed yet
  const auto guard = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMaxDepth) throw InputError(fmt::format("{}: JSON is nested deeper than {} levels", where, kMaxDepth));
    if (event == Json::parse_event_t::object_start) open.emplace_back();
    if (event == Json::parse_event_t::object_end) open.pop_back();
    if (event == Json::parse_event_t::key && !open.back().insert(parsed.get<std::string>()).second)
      throw InputError(fmt::format("{}: key \"{}\" appears twice in one object", where, parsed.get<std::string>()));
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), guard);
  } catch (const Json::parse_error& e) {
    std::string what = e.what();  // "[json.exception...] parse error at line L, column C: TEXT"
    if (const size_t at = what.find(": "); at != std::string::npos) what = what.substr(at + 2);
    throw InputError(fmt::format("{}: {}: not JSON: {}", where, place(text, e.byte), what));
  } catch (const Json::exception& e) {  // a number outside double
    throw InputError(fmt::format("{}: not JSON: {}", where, e.what()));
  }
}

Json read_json_file(const std::string& path) { return parse_json(read_file(path), path); }

void write_json_file(const std::string& path, const Json& value) { write_file_atomic(path, value.dump(2) + "\n"); }

}  // namespace weft
