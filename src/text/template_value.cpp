#include "text/template_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/unicode.h"

namespace weft::text::jinja {

Value Value::undefined(std::string name) {
  Value v;
  v.text = std::make_shared<const std::string>(std::move(name));
  return v;
}
Value Value::of(std::string s) {
  Value v;
  v.kind = kString;
  v.text = std::make_shared<const std::string>(std::move(s));
  return v;
}
static void deepen(Value& v, const Value& child) {
  if (child.kind == Value::kNamespace) throw Error{"a namespace inside another value is not supported"};
  v.depth = std::max(v.depth, child.depth + 1);
  if (v.depth > kMaxValueDepth) throw Error{"values nest deeper than 100"};
}
Value Value::of(Values values, Kind kind) {
  Value v;
  v.kind = kind;
  for (const Value& child : values) deepen(v, child);
  v.list = std::make_shared<const Values>(std::move(values));
  return v;
}
Value Value::of(Pairs pairs) {
  Value v;
  v.kind = kDict;
  for (const auto& [key, child] : pairs) deepen(v, child);
  v.dict = std::make_shared<const Pairs>(std::move(pairs));
  return v;
}

Value Value::from_json(const nlohmann::ordered_json& j) {
  using T = nlohmann::ordered_json::value_t;
  switch (j.type()) {
    case T::null: return none();
    case T::boolean: return of(j.get<bool>());
    case T::number_integer: return of(j.get<int64_t>());
    case T::number_unsigned:
      if (j.get<uint64_t>() > uint64_t{INT64_MAX}) return of(static_cast<double>(j.get<uint64_t>()));
      return of(static_cast<int64_t>(j.get<uint64_t>()));
    case T::number_float: return of(j.get<double>());
    case T::string: return of(j.get<std::string>());
    case T::array: {
      Values out;
      for (const auto& e : j) out.push_back(from_json(e));
      return of(std::move(out));
    }
    case T::object: {
      Pairs out;
      for (const auto& [key, e] : j.items()) out.emplace_back(key, from_json(e));
      return of(std::move(out));
    }
    default: return undefined("value");
  }
}

bool Value::truth() const {
  switch (kind) {
    case kUndefined: case kNone: return false;
    case kBool: return boolean;
    case kInt: return integer != 0;
    case kFloat: return real != 0;
    case kString: return !text->empty();
    case kList: case kTuple: return !list->empty();
    case kDict: return !dict->empty();
    default: return true;
  }
}

const Value* Value::find(std::string_view key) const {
  for (const auto& [k, v] : *dict) {
    if (k == key) return &v;
  }
  return nullptr;
}

std::string dict_key(const Value& v) {
  if (v.kind == Value::kString) return *v.text;
  if (v.kind == Value::kInt || v.kind == Value::kBool) return "\x01" + std::to_string(v.as_int());
  throw Error{std::string("dict: want strings or whole numbers as keys, got ") + type_name(v)};
}
Value from_dict_key(const std::string& key) {
  return !key.empty() && key[0] == '\x01' ? Value::of(int64_t{std::stoll(key.substr(1))}) : Value::of(key);
}

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.kind != Value::kFloat && b.kind != Value::kFloat) return a.as_int() == b.as_int();
    return a.as_double() == b.as_double();
  }
  if (a.kind != b.kind) return false;
  switch (a.kind) {
    case Value::kUndefined: case Value::kNone: return true;
    case Value::kString: return *a.text == *b.text;
    case Value::kList: case Value::kTuple: return std::equal(a.list->begin(), a.list->end(), b.list->begin(), b.list->end(), equal);
    case Value::kDict:
      if (a.dict->size() != b.dict->size()) return false;
      return std::all_of(a.dict->begin(), a.dict->end(), [&](const auto& pair) {
        const Value* other = b.find(pair.first);
        return other != nullptr && equal(pair.second, *other);
      });
    case Value::kNamespace: return a.space == b.space;
    case Value::kMacro: return a.macro == b.macro;
    default: return false;
  }
}

int compare(const Value& a, const Value& b) {
  const auto sign = [](auto x, auto y) { return x < y ? -1 : x > y ? 1 : 0; };
  if (a.is_number() && b.is_number()) {
    if (a.kind != Value::kFloat && b.kind != Value::kFloat) return sign(a.as_int(), b.as_int());
    return sign(a.as_double(), b.as_double());
  }
  if (a.kind == Value::kString && b.kind == Value::kString) return sign(*a.text, *b.text);  // UTF-8 keeps the order of code points
  if (a.kind == b.kind && (a.kind == Value::kList || a.kind == Value::kTuple)) {
    for (size_t i = 0; i < a.list->size() && i < b.list->size(); ++i) {
      if (!equal((*a.list)[i], (*b.list)[i])) return compare((*a.list)[i], (*b.list)[i]);
    }
    return sign(a.list->size(), b.list->size());
  }
  throw Error{std::string("cannot order ") + type_name(a) + " and " + type_name(b)};
}

const char* type_name(const Value& v) {
  constexpr const char* names[] = {"undefined", "None", "bool", "int", "float", "str", "list", "tuple", "dict", "namespace", "macro", "function", "method"};
  return names[v.kind];
}

std::string float_repr(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, d, std::chars_format::scientific).ptr;
  const std::string s(buffer, end);
  const int exponent = std::stoi(s.substr(s.find('e') + 1));
  if (exponent >= -4 && exponent < 16) {
    const auto fixed = std::to_chars(buffer, buffer + sizeof buffer, d, std::chars_format::fixed).ptr;
    std::string out(buffer, fixed);
    return out.find('.') == std::string::npos ? out + ".0" : out;
  }
  return s;
}

std::string repr(const Value& v) {
  if (v.kind != Value::kString) return str(v);
  const bool single = v.text->find('\'') != std::string::npos && v.text->find('"') == std::string::npos;
  const char quote = single ? '"' : '\'';
  std::string out(1, quote);
  for (size_t at = 0; at < v.text->size();) {
    const Decoded d = decode_utf8(*v.text, at);
    const std::string_view bytes = std::string_view(*v.text).substr(at, d.length);
    at += d.length;
    char hex[16];
    if (d.code == '\\' || d.code == static_cast<uint32_t>(quote)) out += '\\', out += bytes;
    else if (d.code == '\n') out += "\\n";
    else if (d.code == '\r') out += "\\r";
    else if (d.code == '\t') out += "\\t";
    else if (d.code < 0x20 || d.code == 0x7F || (d.code >= 0x80 && d.code < 0xA1)) std::snprintf(hex, sizeof hex, "\\x%02x", d.code), out += hex;
    else if (d.code > 0x7F && (*category_of(d.code) == 'C' || (*category_of(d.code) == 'Z'))) {
      std::snprintf(hex, sizeof hex, d.code > 0xFFFF ? "\\U%08x" : "\\u%04x", d.code), out += hex;
    } else out += bytes;
  }
  return out + quote;
}

std::string str(const Value& v) {
  switch (v.kind) {
    case Value::kUndefined: return "";
    case Value::kNone: return "None";
    case Value::kBool: return v.boolean ? "True" : "False";
    case Value::kInt: return std::to_string(v.integer);
    case Value::kFloat: return float_repr(v.real);
    case Value::kString: return *v.text;
    case Value::kList: case Value::kTuple: {
      std::string out = v.kind == Value::kList ? "[" : "(";
      for (size_t i = 0; i < v.list->size(); ++i) out += (i > 0 ? ", " : "") + repr((*v.list)[i]);
      if (v.kind == Value::kTuple && v.list->size() == 1) out += ",";
      return out + (v.kind == Value::kList ? "]" : ")");
    }
    case Value::kDict: {
      std::string out = "{";
      for (size_t i = 0; i < v.dict->size(); ++i) out += (i > 0 ? ", " : "") + repr(from_dict_key((*v.dict)[i].first)) + ": " + repr((*v.dict)[i].second);
      return out + "}";
    }
    default: throw Error{std::string("cannot print a ") + type_name(v)};
  }
}

static void dump(const Value& v, int indent, int level, bool sort_keys, bool ascii, std::string_view item, std::string_view key, std::string& out) {
  const auto line = [&](int l) {
    if (indent >= 0) out += '\n', out.append(static_cast<size_t>(indent * l), ' ');
  };
  switch (v.kind) {
    case Value::kNone: out += "null"; return;
    case Value::kBool: out += v.boolean ? "true" : "false"; return;
    case Value::kInt: case Value::kFloat: out += v.kind == Value::kFloat && std::isnan(v.real) ? "NaN" : str(v); return;
    case Value::kString: out += nlohmann::json(*v.text).dump(-1, ' ', ascii, nlohmann::json::error_handler_t::replace); return;
    case Value::kList: case Value::kTuple:
      if (v.lazy) throw Error{"tojson: the result of map or select has no JSON form\n  try: a list filter before it"};
      if (v.list->empty()) return void(out += "[]");
      out += '[';
      for (size_t i = 0; i < v.list->size(); ++i) {
        if (i > 0) out += item;
        line(level + 1);
        dump((*v.list)[i], indent, level + 1, sort_keys, ascii, item, key, out);
      }
      line(level);
      out += ']';
      return;
    case Value::kDict: {
      if (v.dict->empty()) return void(out += "{}");
      std::vector<const std::pair<std::string, Value>*> order;
      for (const auto& pair : *v.dict) order.push_back(&pair);
      if (sort_keys) std::stable_sort(order.begin(), order.end(), [](auto a, auto b) { return a->first < b->first; });
      out += '{';
      for (size_t i = 0; i < order.size(); ++i) {
        if (i > 0) out += item;
        line(level + 1);
        dump(Value::of(str(from_dict_key(order[i]->first))), indent, level + 1, sort_keys, ascii, item, key, out);
        out += key;
        dump(order[i]->second, indent, level + 1, sort_keys, ascii, item, key, out);
      }
      line(level);
      out += '}';
      return;
    }
    default: throw Error{std::string("tojson: a ") + type_name(v) + " has no JSON form"};
  }
}

std::string to_json(const Value& v, int indent, bool sort_keys, bool ascii, std::string_view item, std::string_view key) {
  std::string out;
  dump(v, indent, 0, sort_keys, ascii, item, key, out);
  return out;
}

}  // namespace weft::text::jinja
