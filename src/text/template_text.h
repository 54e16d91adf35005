// What Python does to strings, for the filters and methods of templates.
#pragma once
#include <string>
#include <string_view>

#include "text/template_run.h"

namespace weft::text::jinja {

const std::string& want_text(const Value& v, const char* op);  // Error when it is no string
inline bool is_list(const Value& v) { return v.kind == Value::kList || v.kind == Value::kTuple; }
std::string upper(std::string s);  // ASCII letters
std::string lower(std::string_view s);
// Takes characters of `set` (null: white space) off the ends.
std::string strip(const std::string& s, const std::string* set, bool left, bool right);
std::string escape(const std::string& s);  // & < > " ' as HTML writes them
// At most `times` (negative: all). Error when the result is longer than `limit`.
std::string replace(const std::string& s, const std::string& from, const std::string& to, int64_t times, size_t limit);
// Python's "..." % values: %s %d %i %r %f %.2f %x %%.
std::string percent(const std::string& format, const Values& values);
// "{} {0} {name}".format(...)
std::string braces(const std::string& format, const Arguments& args);

}  // namespace weft::text::jinja
