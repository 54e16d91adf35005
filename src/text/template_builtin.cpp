// Filters, tests, methods and functions of templates.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <ctime>

#include "text/forms.h"
#include "text/template_run.h"
#include "text/unicode.h"

namespace weft::text::jinja {
namespace {

const std::string& want_text(const Value& v, const char* op) {
  if (v.kind != Value::kString) throw Error{std::string(op) + ": want a string, got " + type_name(v)};
  return *v.text;
}
bool is_list(const Value& v) { return v.kind == Value::kList || v.kind == Value::kTuple; }

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

// Takes characters of `set` (null: white space) off the ends.
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

// Python's "..." % values: %s %d %i %r %f %.2f %x %%.
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

// "{} {0} {name}".format(...)
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

}  // namespace

Value Runner::item(const Value& object, const Value& key) {
  switch (object.kind) {
    case Value::kUndefined: throw Error{"'" + *object.text + "' is undefined"};
    case Value::kDict:
      if (key.kind == Value::kString || key.kind == Value::kInt) {
        if (const Value* v = object.find(dict_key(key))) return *v;
      }
      return Value::undefined(key.kind == Value::kUndefined ? "key" : str(key));
    case Value::kNamespace:
      for (const auto& [k, v] : *object.space) {
        if (key.kind == Value::kString && k == *key.text) return v;
      }
      return Value::undefined("attribute");
    case Value::kList: case Value::kTuple: case Value::kString: {
      if (key.kind != Value::kInt && key.kind != Value::kBool) return Value::undefined("item");
      const Values items = items_of(object);
      const int64_t size = static_cast<int64_t>(items.size()), i = key.as_int() < 0 ? key.as_int() + size : key.as_int();
      return i >= 0 && i < size ? items[static_cast<size_t>(i)] : Value::undefined("item " + std::to_string(key.as_int()));
    }
    default: return Value::undefined("item");
  }
}

Value Runner::attribute(const Value& object, const std::string& name) {
  if (object.kind == Value::kUndefined) throw Error{"'" + *object.text + "' is undefined, and has no '" + name + "'"};
  if (is_list(object) && !name.empty() && std::isdigit(static_cast<unsigned char>(name[0])) && name.size() < 10) return item(object, Value::of(int64_t{std::stoll(name)}));
  if (object.kind == Value::kDict || object.kind == Value::kNamespace) return item(object, Value::of(name));
  return Value::undefined(name);
}

bool Runner::apply_test(const std::string& name, const Value& v, const Arguments& args) {
  const auto other = [&]() -> const Value& {
    const Value* o = args.get(0, "other");
    if (o == nullptr) throw Error{"test '" + name + "' wants a value"};
    return *o;
  };
  if (name == "defined") return v.kind != Value::kUndefined;
  if (name == "undefined") return v.kind == Value::kUndefined;
  if (name == "none") return v.kind == Value::kNone;
  if (name == "string") return v.kind == Value::kString;
  if (name == "mapping") return v.kind == Value::kDict;
  if (name == "sequence") return v.kind == Value::kString || v.kind == Value::kDict || is_list(v) || v.kind == Value::kUndefined;
  if (name == "iterable") return v.kind == Value::kString || v.kind == Value::kDict || is_list(v) || v.kind == Value::kUndefined;
  if (name == "number") return v.is_number();
  if (name == "integer") return v.kind == Value::kInt;
  if (name == "float") return v.kind == Value::kFloat;
  if (name == "boolean") return v.kind == Value::kBool;
  if (name == "true") return v.kind == Value::kBool && v.boolean;
  if (name == "false") return v.kind == Value::kBool && !v.boolean;
  if (name == "callable") return v.kind == Value::kMacro || v.kind == Value::kBuiltin || v.kind == Value::kUndefined;
  if (name == "odd" || name == "even") {
    if (v.kind != Value::kInt) throw Error{"test '" + name + "': want a whole number"};
    return (v.integer % 2 != 0) == (name == "odd");
  }
  if (name == "divisibleby") return other().as_int() != 0 && v.as_int() % other().as_int() == 0;
  if (name == "eq" || name == "equalto") return equal(v, other());
  if (name == "ne") return !equal(v, other());
  if (name == "lt" || name == "lessthan") return compare(v, other()) < 0;
  if (name == "le") return compare(v, other()) <= 0;
  if (name == "gt" || name == "greaterthan") return compare(v, other()) > 0;
  if (name == "ge") return compare(v, other()) >= 0;
  if (name == "sameas") return v.kind == other().kind && equal(v, other());
  if (name == "upper") return v.kind == Value::kString && upper(*v.text) == *v.text && lower(*v.text) != *v.text;
  if (name == "lower") return v.kind == Value::kString && lower(*v.text) == *v.text && upper(*v.text) != *v.text;
  if (name == "in") {
    const Value& where = other();
    if (where.kind == Value::kString) return where.text->find(want_text(v, "in")) != std::string::npos;
    if (where.kind == Value::kDict) return (v.kind == Value::kString || v.kind == Value::kInt) && where.find(dict_key(v)) != nullptr;
    if (where.kind == Value::kUndefined) return false;
    if (!is_list(where)) throw Error{std::string("in: a ") + type_name(where) + " holds nothing"};
    spend(static_cast<int64_t>(where.list->size()));
    return std::any_of(where.list->begin(), where.list->end(), [&](const Value& e) { return equal(e, v); });
  }
  throw Error{"test '" + name + "' is not supported"};
}

Value Runner::call_method(const Value& object, const std::string& name, const Arguments& args) {
  if (object.kind == Value::kDict) {
    if (name == "get") {
      const Value* key = args.get(0, "key");
      if (key == nullptr) throw Error{"get: want a key"};
      const Value* found = key->kind == Value::kString || key->kind == Value::kInt ? object.find(dict_key(*key)) : nullptr;
      const Value* fallback = args.get(1, "default");
      return found != nullptr ? *found : fallback != nullptr ? *fallback : Value::none();
    }
    if (name == "items" || name == "keys" || name == "values") {
      Values out;
      for (const auto& [k, v] : *object.dict) {
        if (name == "items") out.push_back(Value::of(Values{from_dict_key(k), v}, Value::kTuple));
        else out.push_back(name == "keys" ? from_dict_key(k) : v);
      }
      spend(static_cast<int64_t>(out.size()));
      return Value::of(std::move(out));
    }
    if (name == "copy") return object;
  }
  if (object.kind == Value::kString) {
    const std::string& s = *object.text;
    spend(1 + static_cast<int64_t>(s.size() / 64));
    const auto set = [&]() -> const std::string* {
      const Value* v = args.get(0, "chars");
      return v == nullptr || v->kind == Value::kNone ? nullptr : &want_text(*v, name.c_str());
    };
    if (name == "strip" || name == "lstrip" || name == "rstrip") return text(strip(s, set(), name != "rstrip", name != "lstrip"));
    if (name == "upper") return text(upper(s));
    if (name == "lower") return text(lower(s));
    if (name == "capitalize" || name == "title") return apply_filter(name, object, {});
    if (name == "replace") return text(replace(s, args.string(0, "old", ""), args.string(1, "new", ""), args.integer(2, "count", -1), limits_.output_bytes));
    if (name == "startswith" || name == "endswith") {
      const Value* with = args.get(0, "prefix");
      if (with == nullptr) throw Error{name + ": want a string"};
      const Values all = with->kind == Value::kTuple ? *with->list : Values{*with};
      return Value::of(std::any_of(all.begin(), all.end(), [&](const Value& v) {
        const std::string& part = want_text(v, name.c_str());
        return name == "startswith" ? s.starts_with(part) : s.ends_with(part);
      }));
    }
    if (name == "find" || name == "index" || name == "count") {
      const std::string part = args.string(0, "sub", "");
      if (name == "count") {
        int64_t n = 0;
        for (size_t at = 0; !part.empty() && (at = s.find(part, at)) != std::string::npos; at += part.size()) ++n;
        return Value::of(n);
      }
      const size_t at = s.find(part);
      if (at == std::string::npos && name == "index") throw Error{"index: substring not found"};
      return Value::of(at == std::string::npos ? int64_t{-1} : static_cast<int64_t>(code_points(s.substr(0, at)).size()));
    }
    if (name == "split" || name == "rsplit" || name == "splitlines") {
      Values out;
      if (name == "splitlines") {
        for (size_t at = 0; at < s.size();) {
          const size_t end = std::min(s.find('\n', at), s.size());
          out.push_back(Value::of(s.substr(at, end - at)));
          at = end + 1;
        }
        return Value::of(std::move(out));
      }
      const Value* by = args.get(0, "sep");
      int64_t times = args.integer(1, "maxsplit", -1);
      if (by == nullptr || by->kind == Value::kNone) {
        const std::vector<uint32_t> codes = code_points(s);
        std::string word;
        for (size_t i = 0; i < codes.size(); ++i) {
          if (!is_space(codes[i])) {
            if (word.empty() && times == 0) {
              for (; i < codes.size(); ++i) append_utf8(word, codes[i]);
              word = strip(word, nullptr, false, true);
              break;
            }
            append_utf8(word, codes[i]);
          } else if (!word.empty()) {
            out.push_back(Value::of(std::exchange(word, {})));
            --times;
          }
        }
        if (!word.empty()) out.push_back(Value::of(std::move(word)));
      } else {
        const std::string& part = want_text(*by, "split");
        if (part.empty()) throw Error{"split: empty separator"};
        if (name == "split") {
          size_t at = 0;
          for (size_t hit; times != 0 && (hit = s.find(part, at)) != std::string::npos; at = hit + part.size(), --times) out.push_back(Value::of(s.substr(at, hit - at)));
          out.push_back(Value::of(s.substr(at)));
        } else {
          size_t end = s.size();
          for (size_t hit; times != 0 && end >= part.size() && (hit = s.rfind(part, end - part.size())) != std::string::npos; --times) {
            out.push_back(Value::of(s.substr(hit + part.size(), end - hit - part.size())));
            end = hit;
          }
          out.push_back(Value::of(s.substr(0, end)));
          std::reverse(out.begin(), out.end());
        }
      }
      spend(static_cast<int64_t>(out.size()));
      return Value::of(std::move(out));
    }
    if (name == "join") {
      Arguments with;
      with.place.push_back(object);
      const Value* list = args.get(0, "iterable");
      if (list == nullptr) throw Error{"join: want a list"};
      return apply_filter("join", *list, with);
    }
    if (name == "format") return text(braces(s, args));
    if (name == "isdigit" || name == "isnumeric" || name == "isdecimal") {
      return Value::of(!s.empty() && std::all_of(s.begin(), s.end(), [](char c) { return c >= '0' && c <= '9'; }));
    }
    if (name == "isalpha") {
      const auto codes = code_points(s);
      return Value::of(!codes.empty() && std::all_of(codes.begin(), codes.end(), [](uint32_t c) { return *category_of(c) == 'L'; }));
    }
    if (name == "isspace") {
      const auto codes = code_points(s);
      return Value::of(!codes.empty() && std::all_of(codes.begin(), codes.end(), is_space));
    }
    if (name == "isupper" || name == "islower") return Value::of(apply_test(name.substr(2), object, {}));
  }
  if (is_list(object) && (name == "index" || name == "count")) {
    int64_t n = 0;
    for (size_t i = 0; i < object.list->size(); ++i) {
      if (args.place.empty() || !equal((*object.list)[i], args.place[0])) continue;
      if (name == "index") return Value::of(static_cast<int64_t>(i));
      ++n;
    }
    if (name == "index") throw Error{"index: value not found"};
    return Value::of(n);
  }
  throw Error{std::string("a ") + type_name(object) + " has no method '" + name + "' here"};
}

Value Runner::call_builtin(const std::string& name, const Arguments& args) {
  if (name == "raise_exception") throw Error{"the template refuses: " + (args.place.empty() ? std::string() : str(args.place[0]))};
  if (name == "namespace" || name == "dict") {
    Pairs pairs;
    if (!args.place.empty()) {
      if (args.place[0].kind != Value::kDict) throw Error{name + ": want a dict"};
      pairs = *args.place[0].dict;
    }
    for (const auto& [k, v] : args.name) pairs.emplace_back(k, v);
    Value v = Value::of(pairs);
    if (name == "dict") return v;
    v.kind = Value::kNamespace;
    v.dict = nullptr;
    v.space = std::make_shared<Pairs>(std::move(pairs));
    return v;
  }
  if (name == "range") {
    const int64_t a = args.integer(0, "", 0);
    const int64_t start = args.place.size() > 1 ? a : 0, stop = args.place.size() > 1 ? args.integer(1, "", 0) : a, step = args.integer(2, "", 1);
    if (step == 0) throw Error{"range: step is zero"};
    Values out;
    for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
      spend(1);
      if (out.size() >= 100000) throw Error{"range: more than 100000 numbers"};
      out.push_back(Value::of(i));
      if (__builtin_add_overflow(i, step, &i)) break;
    }
    return Value::of(std::move(out));
  }
  if (name == "strftime_now") {
    const std::time_t now = limits_.now != 0 ? limits_.now : std::time(nullptr);
    std::tm parts{};
    localtime_r(&now, &parts);
    const std::string format = args.string(0, "format", "");
    if (format.size() > 200) throw Error{"strftime_now: the format is longer than 200 bytes"};
    char buffer[4096];
    const size_t n = std::strftime(buffer, sizeof buffer, format.c_str(), &parts);
    return text(std::string(buffer, n));
  }
  throw Error{"'" + name + "' is undefined, or a function that is not supported"};
}

Value Runner::apply_filter(const std::string& name, Value v, const Arguments& args) {
  spend(1);
  // The value itself, or the attribute of it that an argument names ("function.name").
  const auto member = [&](const Value& from, const std::string& path) {
    Value out = from;
    for (size_t at = 0; at <= path.size();) {
      const size_t dot = std::min(path.find('.', at), path.size());
      out = out.kind == Value::kUndefined ? out : attribute(out, path.substr(at, dot - at));
      at = dot + 1;
    }
    return out;
  };
  if (name == "tojson") {
    const auto on = [&](size_t index, const char* key) { return args.get(index, key) != nullptr && args.get(index, key)->truth(); };
    const int64_t indent = std::clamp<int64_t>(args.integer(1, "indent", -1), -1, 16);
    std::string between = indent >= 0 ? "," : ", ", behind_key = ": ";
    if (const Value* s = args.get(2, "separators"); s != nullptr && is_list(*s) && s->list->size() == 2) between = str((*s->list)[0]), behind_key = str((*s->list)[1]);
    return text(to_json(v, static_cast<int>(indent), on(3, "sort_keys"), on(0, "ensure_ascii"), between, behind_key));
  }
  if (name == "default" || name == "d") {
    const Value* strict = args.get(1, "boolean");
    const bool falsy = strict != nullptr && strict->truth();
    if (v.kind != Value::kUndefined && (!falsy || v.truth())) return v;
    const Value* other = args.get(0, "default_value");
    return other != nullptr ? *other : Value::of(std::string());
  }
  if (name == "length" || name == "count") {
    if (v.kind == Value::kUndefined) return Value::of(int64_t{0});
    if (v.kind == Value::kString) return Value::of(static_cast<int64_t>(code_points(*v.text).size()));
    if (v.kind == Value::kDict) return Value::of(static_cast<int64_t>(v.dict->size()));
    if (!is_list(v) || v.lazy) throw Error{std::string("length: a ") + type_name(v) + " has none"};
    return Value::of(static_cast<int64_t>(v.list->size()));
  }
  if (name == "string" || name == "safe") return v.kind == Value::kString ? v : text(str(v));
  if (name == "trim") {
    const Value* set = args.get(0, "chars");
    return text(strip(str(v), set && set->kind == Value::kString ? set->text.get() : nullptr, true, true));
  }
  if (name == "upper") return text(upper(str(v)));
  if (name == "lower") return text(lower(str(v)));
  if (name == "capitalize") {
    std::string s = lower(str(v));
    if (!s.empty()) s[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(s[0])));
    return text(std::move(s));
  }
  if (name == "title") {
    std::string s = lower(str(v));
    bool start = true;
    for (char& c : s) {
      if (start) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
      start = !(std::isalnum(static_cast<unsigned char>(c)) || static_cast<uint8_t>(c) >= 0x80 || c == '\'');
    }
    return text(std::move(s));
  }
  if (name == "replace") return text(replace(str(v), args.string(0, "old", ""), args.string(1, "new", ""), args.integer(2, "count", -1), limits_.output_bytes));
  if (name == "format") return text(percent(want_text(v, "format"), args.place));
  if (name == "indent") {
    const Value* by = args.get(0, "width");
    const std::string pad = by != nullptr && by->kind == Value::kString ? *by->text : std::string(static_cast<size_t>(std::clamp<int64_t>(args.integer(0, "width", 4), 0, 1000)), ' ');
    const Value* first = args.get(1, "first");
    const Value* blank = args.get(2, "blank");
    const std::string s = str(v);
    std::string out = first != nullptr && first->truth() ? pad : "";
    for (size_t at = 0; at <= s.size();) {
      const size_t end = std::min(s.find('\n', at), s.size());
      if (at > 0) {
        out += '\n';
        if (end > at || (blank != nullptr && blank->truth())) out += pad;
      }
      out.append(s, at, end - at);
      if (out.size() > limits_.output_bytes) throw Error{"indent: the result is too long"};
      at = end + 1;
    }
    return text(std::move(out));
  }
  if (name == "escape" || name == "e") {
    std::string out;
    for (const char c : str(v)) out += c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '"' ? "&#34;" : c == '\'' ? "&#39;" : std::string(1, c);
    return text(std::move(out));
  }
  if (name == "int") {
    if (v.kind == Value::kFloat && std::abs(v.real) < 9e18) return Value::of(static_cast<int64_t>(v.real));
    if (v.is_number()) return Value::of(v.as_int());
    if (v.kind == Value::kString) {
      const std::string s = strip(*v.text, nullptr, true, true);
      int64_t i = 0;
      if (!s.empty() && std::from_chars(s.data() + (s[0] == '+'), s.data() + s.size(), i).ptr == s.data() + s.size()) return Value::of(i);
    }
    return Value::of(args.integer(0, "default", 0));
  }
  if (name == "float") {
    if (v.is_number()) return Value::of(v.as_double());
    double d = 0;
    if (v.kind == Value::kString) std::from_chars(v.text->data(), v.text->data() + v.text->size(), d);
    return Value::of(d);
  }
  if (name == "abs") return v.kind == Value::kFloat ? Value::of(std::abs(v.real)) : Value::of(v.as_int() < 0 ? -v.as_int() : v.as_int());
  if (name == "round") {
    const double scale = std::pow(10.0, static_cast<double>(std::clamp<int64_t>(args.integer(0, "precision", 0), -15, 15)));
    return Value::of(std::nearbyint(v.as_double() * scale) / scale);
  }
  if (name == "items") return v.kind == Value::kUndefined ? Value::of(Values{}) : call_method(v, "items", {});
  if (name == "dictsort") {
    if (v.kind != Value::kDict) throw Error{"dictsort: want a dict"};
    std::vector<std::pair<std::string, Value>> pairs(*v.dict);
    const bool by_value = args.string(1, "by", "key") == "value";
    spend(static_cast<int64_t>(pairs.size()));
    std::stable_sort(pairs.begin(), pairs.end(), [&](const auto& a, const auto& b) { if (by_value) return compare(a.second, b.second) < 0;
      const Value x = from_dict_key(a.first), y = from_dict_key(b.first);
      return x.kind == Value::kString && y.kind == Value::kString ? lower(*x.text) < lower(*y.text) : compare(x, y) < 0;
    });
    if (const Value* reverse = args.get(2, "reverse"); reverse != nullptr && reverse->truth()) std::reverse(pairs.begin(), pairs.end());
    Values out;
    for (auto& [k, e] : pairs) out.push_back(Value::of(Values{from_dict_key(k), e}, Value::kTuple));
    return Value::of(std::move(out));
  }
  if (name == "wordcount") return Value::of(static_cast<int64_t>(call_method(v, "split", {}).list->size()));
  // From here on: lists.
  if (name == "join") {
    const std::string between = args.string(0, "d", "");
    const std::string path = args.string(1, "attribute", "");
    std::string out;
    bool first = true;
    for (const Value& e : items_of(v)) {
      if (!first) out += between;
      out += str(path.empty() ? e : member(e, path));
      if (out.size() > limits_.output_bytes) throw Error{"join: the result is too long"};
      first = false;
    }
    return text(std::move(out));
  }
  Values items;
  const bool known = name == "list" || name == "first" || name == "last" || name == "reverse" || name == "sort" || name == "unique" || name == "min" || name == "max" || name == "sum" ||
                     name == "map" || name == "select" || name == "reject" || name == "selectattr" || name == "rejectattr";
  if (!known) throw Error{"filter '" + name + "' is not supported"};
  const bool lenient = name == "map" || name.starts_with("select") || name.starts_with("reject");  // as upstream: nothing in, nothing out
  if (!lenient || v.truth()) items = items_of(v);
  const auto path = args.get(SIZE_MAX, "attribute") != nullptr ? str(*args.get(SIZE_MAX, "attribute")) : std::string();
  const auto key = [&](const Value& e) { return path.empty() ? e : member(e, path); };
  const auto order = [&](const Value& a, const Value& b) {
    const Value x = key(a), y = key(b);
    if (x.kind == Value::kString && y.kind == Value::kString) return lower(*x.text) < lower(*y.text);
    return compare(x, y) < 0;
  };
  if (name == "list") return Value::of(std::move(items));
  if (name == "first") return items.empty() ? Value::undefined("first") : items.front();
  if (name == "last") return items.empty() ? Value::undefined("last") : items.back();
  if (name == "reverse") {
    std::reverse(items.begin(), items.end());
    if (v.kind != Value::kString) return Value::of(std::move(items));
    std::string out;
    for (const Value& e : items) out += *e.text;
    return text(std::move(out));
  }
  if (name == "sort") {
    spend(static_cast<int64_t>(items.size()) * 4);
    std::stable_sort(items.begin(), items.end(), order);
    if (const Value* reverse = args.get(0, "reverse"); reverse != nullptr && reverse->truth()) std::reverse(items.begin(), items.end());
    return Value::of(std::move(items));
  }
  if (name == "min" || name == "max") {
    if (items.empty()) return Value::undefined(name);
    return name == "min" ? *std::min_element(items.begin(), items.end(), order) : *std::max_element(items.begin(), items.end(), order);
  }
  if (name == "sum") {
    Value total = Value::of(int64_t{0});
    for (const Value& e : items) {
      const Value k = key(e);
      if (!k.is_number()) throw Error{"sum: want numbers"};
      total = total.kind == Value::kFloat || k.kind == Value::kFloat ? Value::of(total.as_double() + k.as_double()) : Value::of(total.as_int() + k.as_int());
    }
    return total;
  }
  if (name == "unique") {
    Values out;
    for (const Value& e : items) {
      spend(static_cast<int64_t>(out.size()));
      const bool seen = std::any_of(out.begin(), out.end(), [&](const Value& o) {
        const Value a = key(o), b = key(e);
        return a.kind == Value::kString && b.kind == Value::kString ? lower(*a.text) == lower(*b.text) : equal(a, b);
      });
      if (!seen) out.push_back(e);
    }
    return Value::of(std::move(out));
  }
  Values out;
  if (name == "map") {
    const Value* fallback = args.get(SIZE_MAX, "default");
    if (path.empty() && args.place.empty()) throw Error{"map: want a filter or an attribute"};
    Arguments rest;
    if (path.empty()) rest.place.assign(args.place.begin() + 1, args.place.end()), rest.name = args.name;
    for (const Value& e : items) {
      Value r = path.empty() ? apply_filter(want_text(args.place[0], "map"), e, rest) : member(e, path);
      out.push_back(r.kind == Value::kUndefined && fallback != nullptr ? *fallback : std::move(r));
    }
    Value result = Value::of(std::move(out));
    result.lazy = true;
    return result;
  }
  const bool by_attribute = name.ends_with("attr"), keep = name.starts_with("select");
  const size_t at = by_attribute ? 1 : 0;
  if (by_attribute && args.place.empty()) throw Error{name + ": want an attribute"};
  Arguments rest;
  if (args.place.size() > at + 1) rest.place.assign(args.place.begin() + static_cast<std::ptrdiff_t>(at) + 1, args.place.end());
  for (const Value& e : items) {
    spend(1);
    const Value subject = by_attribute ? member(e, want_text(args.place[0], name.c_str())) : e;
    const bool ok = args.place.size() > at ? apply_test(want_text(args.place[at], name.c_str()), subject, rest) : subject.truth();
    if (ok == keep) out.push_back(e);
  }
  Value result = Value::of(std::move(out));
  result.lazy = true;
  return result;
}

}  // namespace weft::text::jinja
