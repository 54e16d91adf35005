// Tests, methods and functions of templates.
#include <algorithm>
#include <ctime>

#include "text/forms.h"
#include "text/template_text.h"
#include "text/unicode.h"

namespace weft::text::jinja {

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

}  // namespace weft::text::jinja
