// Filters of templates.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/template_text.h"
#include "text/unicode.h"

namespace weft::text::jinja {

Value Runner::member(const Value& from, const std::string& path) {
  Value out = from;
  for (size_t at = 0; at <= path.size();) {
    const size_t dot = std::min(path.find('.', at), path.size());
    out = out.kind == Value::kUndefined ? out : attribute(out, path.substr(at, dot - at));
    at = dot + 1;
  }
  return out;
}

Value Runner::apply_filter(const std::string& name, Value v, const Arguments& args) {
  spend(1);
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
  if (name == "string" || name == "safe") {
    Value out = v.kind == Value::kString ? v : text(str(v));
    out.markup |= name == "safe";
    return out;
  }
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
    Value out = v.kind == Value::kString && v.markup ? v : text(escape(str(v)));
    out.markup = true;
    return out;
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
  return filter_list(name, v, args);
}

Value Runner::filter_list(const std::string& name, const Value& v, const Arguments& args) {
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
