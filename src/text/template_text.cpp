#include "text/template_text.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/forms.h"
#include "text/unicode.h"

namespace weft::text::jinja {

const std::string& want_text(const Value& v, const char* op) {
  if (v.kind != Value::kString) throw Error{std::string(op) + ": want a string, got " + type_name(v)};
  return *v.text;
}

std::string upper(std::string s) {
  for (char& c : s) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c;
  return s;
}
std::string lower(std::string_view s) {
  std::string out;
  for (const uint32_t c : code_points(s)) {
    uint32_t second = 0;
    append_utf8(out, lower_case(c, second));
    if (second != 0) append_utf8(out, second);
  }
  return out;
}

std::string strip(const std::string& s, const std::string* set, bool left, bool right) {
  const std::vector<uint32_t> codes = code_points(s), marks = set ? code_points(*set) : std::vector<uint32_t>();
  const auto goes = [&](uint32_t c) { return set ? std::find(marks.begin(), marks.end(), c) != marks.end() : is_space(c) || (c >= 0x1C && c <= 0x1F); };
  size_t begin = 0, end = codes.size();
  while (left && begin < end && goes(codes[begin])) ++begin;
  while (right && end > begin && goes(codes[end - 1])) --end;
  std::string out;
  for (size_t i = begin; i < end; ++i) append_utf8(out, codes[i]);
  return out;
}

std::string escape(const std::string& s) {
  std::string out;
  for (const char c : s) out += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '"' ? "&#34;" : c == '\'' ? "&#39;" : std::string(1, c);
  return out;
}

std::string replace(const std::string& s, const std::string& from, const std::string& to, int64_t times, size_t limit) {
  std::string out;
  size_t at = 0;
  if (from.empty()) throw Error{"replace: the old string is empty"};
  for (size_t hit; times != 0 && (hit = s.find(from, at)) != std::string::npos; at = hit + from.size(), --times) {
    out.append(s, at, hit - at);
    out += to;
    if (out.size() > limit) throw Error{"replace: the result is too long"};
  }
  return out.append(s, at);
}

std::string percent(const std::string& format, const Values& values) {
  std::string out;
  size_t next = 0;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    std::string spec = "%";
    while (++i < format.size() && (std::isdigit(static_cast<unsigned char>(format[i])) || format[i] == '.' || format[i] == '-' || format[i] == '+')) spec += format[i];
    if (i >= format.size() || spec.size() > 8) throw Error{"format: unfinished or too long a %"};
    if (format[i] == '%') {
      out += '%';
      continue;
    }
    if (next >= values.size()) throw Error{"format: not enough values"};
    const Value& v = values[next++];
    char buffer[512];
    switch (format[i]) {
      case 's': out += str(v); break;
      case 'r': out += repr(v); break;
      case 'd': case 'i': case 'x':
        if (!v.is_number()) throw Error{"format: want a number"};
        std::snprintf(buffer, sizeof buffer, (spec + (format[i] == 'x' ? "llx" : "lld")).c_str(), static_cast<long long>(v.kind == Value::kFloat ? static_cast<int64_t>(v.real) : v.as_int()));
        out += buffer;
        break;
      case 'f': case 'e': case 'g':
        if (!v.is_number() || std::abs(v.as_double()) > 1e200) throw Error{"format: want a number"};
        std::snprintf(buffer, sizeof buffer, (spec + format[i]).c_str(), v.as_double());
        out += buffer;
        break;
      default: throw Error{std::string("format: %") + format[i] + " is not supported"};
    }
  }
  return out;
}

std::string braces(const std::string& format, const Arguments& args) {
  std::string out;
  int64_t next = 0;
  for (size_t i = 0; i < format.size(); ++i) {
    if ((format[i] == '{' || format[i] == '}') && i + 1 < format.size() && format[i + 1] == format[i]) {
      out += format[i++];
    } else if (format[i] == '{') {
      const size_t end = format.find('}', i);
      if (end == std::string::npos) throw Error{"format: { without }"};
      const std::string key = format.substr(i + 1, end - i - 1);
      if (key.find_first_of(".[:!") != std::string::npos) throw Error{"format: '{" + key + "}' is not supported"};
      int64_t place = next;
      const bool number = key.empty() || std::from_chars(key.data(), key.data() + key.size(), place).ptr == key.data() + key.size();
      if (key.empty()) ++next;
      const Value* v = number ? args.get(static_cast<size_t>(place), "") : args.get(SIZE_MAX, key);
      if (v == nullptr) throw Error{"format: no value for '{" + key + "}'"};
      out += str(*v);
      i = end;
    } else {
      out += format[i];
    }
  }
  return out;
}

}  // namespace weft::text::jinja
