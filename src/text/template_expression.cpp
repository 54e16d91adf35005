// Expressions of a template: operators, calls, slices.
#include <algorithm>
#include <cmath>

#include "text/template_text.h"

namespace weft::text::jinja {

const Value* Arguments::get(size_t index, std::string_view key) const {
  if (index < place.size()) return &place[index];
  for (const auto& [k, v] : name) {
    if (k == key) return &v;
  }
  return nullptr;
}
int64_t Arguments::integer(size_t index, std::string_view key, int64_t fallback) const {
  const Value* v = get(index, key);
  if (v == nullptr || v->kind == Value::kNone) return fallback;
  if (v->kind != Value::kInt && v->kind != Value::kBool) throw Error{std::string("want a whole number, got ") + type_name(*v)};
  return v->as_int();
}
std::string Arguments::string(size_t index, std::string_view key, const char* fallback) const {
  const Value* v = get(index, key);
  if (v == nullptr) return fallback;
  if (v->kind != Value::kString) throw Error{std::string("want a string, got ") + type_name(*v)};
  return *v->text;
}

Arguments Runner::arguments(const Node& n, size_t first) {
  Arguments out;
  for (size_t i = 0; i < n.words.size(); ++i) {
    Value v = expression(*n.children[first + i]);
    if (n.words[i].empty()) out.place.push_back(std::move(v));
    else out.name.emplace_back(n.words[i], std::move(v));
  }
  return out;
}

Value Runner::call_macro(const Macro& macro, const Arguments& args) {
  if (++calls_ > limits_.calls) throw Error{"macros call each other deeper than " + std::to_string(limits_.calls)};
  const Node& n = *macro.node;
  if (args.place.size() > n.words.size()) throw Error{"macro '" + n.name + "' takes " + std::to_string(n.words.size()) + " arguments, got " + std::to_string(args.place.size())};
  for (const auto& [key, value] : args.name) {
    if (std::find(n.words.begin(), n.words.end(), key) == n.words.end()) throw Error{"macro '" + n.name + "' has no argument '" + key + "'"};
  }
  const size_t visible = visible_;
  visible_ = scopes_.size();  // a macro sees the template's own variables, not its caller's
  scopes_.emplace_back();
  for (size_t i = 0; i < n.words.size(); ++i) {
    const Value* given = args.get(i, n.words[i]);
    Value v = given != nullptr ? *given : n.children[1 + i] ? expression(*n.children[1 + i]) : Value::undefined(n.words[i]);
    scopes_.back().insert_or_assign(n.words[i], std::move(v));
  }
  Value result = text(captured(*n.children[0]));
  scopes_.pop_back();
  visible_ = visible;
  --calls_;
  return result;
}

Value Runner::call(const Node& n) {
  const Node& callee = *n.children[0];
  const Arguments args = arguments(n, 1);
  if (callee.kind == Node::kAttribute) {
    const Value object = expression(*callee.children[0]);
    if (object.kind == Value::kUndefined) throw Error{"'" + *object.text + "' is undefined"};
    if (object.kind == Value::kNamespace || object.kind == Value::kDict) {
      const Value member = attribute(object, callee.name);
      if (member.kind == Value::kMacro) return call_macro(*member.macro, args);
    }
    return call_method(object, callee.name, args);
  }
  if (callee.kind == Node::kName) {
    const Value* v = find(callee.name);
    if (v == nullptr) return call_builtin(callee.name, args);
    if (v->kind == Value::kMacro) return call_macro(*v->macro, args);
    throw Error{"'" + callee.name + "' is a " + type_name(*v) + ", which cannot be called"};
  }
  const Value v = expression(callee);
  if (v.kind != Value::kMacro) throw Error{std::string("a ") + type_name(v) + " cannot be called"};
  return call_macro(*v.macro, args);
}

Value Runner::slice(const Node& n) {
  const Value object = expression(*n.children[0]);
  const auto part = [&](size_t i, bool& given) {
    given = n.children[i] != nullptr;
    if (!given) return int64_t{0};
    const Value v = expression(*n.children[i]);
    given = v.kind != Value::kNone;
    if (given && v.kind != Value::kInt && v.kind != Value::kBool) throw Error{std::string("slice: want whole numbers, got ") + type_name(v)};
    return given ? v.as_int() : int64_t{0};
  };
  bool has_start, has_stop, has_step;
  int64_t start = part(1, has_start), stop = part(2, has_stop), step = part(3, has_step);
  if (!has_step) step = 1;
  if (step == 0) throw Error{"slice: step is zero"};
  if (object.kind != Value::kString && object.kind != Value::kList && object.kind != Value::kTuple) {
    if (object.kind == Value::kUndefined) return object;
    throw Error{std::string("a ") + type_name(object) + " has no slices"};
  }
  const Values items = items_of(object);
  const int64_t size = static_cast<int64_t>(items.size());
  const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? size : size - 1;
  const auto clip = [&](int64_t i) { return std::clamp(i < 0 ? i + size : i, low, high); };
  start = has_start ? clip(start) : step > 0 ? 0 : size - 1;
  stop = has_stop ? clip(stop) : step > 0 ? size : -1;
  Values out;
  for (int64_t i = start; step > 0 ? i < stop : i > stop; i += step) out.push_back(items[static_cast<size_t>(i)]);
  if (object.kind != Value::kString) return Value::of(std::move(out), object.kind);
  std::string joined;
  for (const Value& v : out) joined += *v.text;
  return text(std::move(joined));
}

Value Runner::binary(const Node& n) {
  const Value a = expression(*n.children[0]), b = expression(*n.children[1]);
  const std::string& op = n.name;
  if (op == "~") return text(str(a) + str(b));
  for (const Value* v : {&a, &b}) {
    if (v->kind == Value::kUndefined) throw Error{"'" + *v->text + "' is undefined"};
  }
  if (op == "+") {
    if (a.kind == Value::kString && b.kind == Value::kString) {
      if (!a.markup && !b.markup) return text(*a.text + *b.text);
      Value out = text((a.markup ? *a.text : escape(*a.text)) + (b.markup ? *b.text : escape(*b.text)));
      out.markup = true;
      return out;
    }
    if ((a.kind == Value::kList || a.kind == Value::kTuple) && a.kind == b.kind) {
      Values out = *a.list;
      out.insert(out.end(), b.list->begin(), b.list->end());
      spend(static_cast<int64_t>(out.size()));
      return Value::of(std::move(out), a.kind);
    }
  }
  if (op == "*" && a.is_number() != b.is_number()) {
    const Value& many = a.is_number() ? b : a;
    const int64_t times = std::max<int64_t>(0, (a.is_number() ? a : b).as_int());
    if (many.kind == Value::kString) {
      if (times > 0 && many.text->size() > limits_.output_bytes / static_cast<size_t>(times)) throw Error{"a string is longer than the limit"};
      std::string out;
      for (int64_t i = 0; i < times; ++i) out += *many.text;
      return text(std::move(out));
    }
    if (many.kind == Value::kList) {
      Values out;
      for (int64_t i = 0; i < times; ++i) {
        spend(1 + static_cast<int64_t>(many.list->size()));
        out.insert(out.end(), many.list->begin(), many.list->end());
      }
      return Value::of(std::move(out));
    }
  }
  if (op == "%" && a.kind == Value::kString) {
    Arguments args;
    args.place = b.kind == Value::kTuple ? *b.list : Values{b};
    return apply_filter("format", a, args);
  }
  if (!a.is_number() || !b.is_number()) throw Error{"cannot do " + std::string(type_name(a)) + " " + op + " " + type_name(b)};
  if (op == "/") {
    if (b.as_double() == 0) throw Error{"division by zero"};
    return Value::of(a.as_double() / b.as_double());
  }
  if (a.kind == Value::kFloat || b.kind == Value::kFloat) {
    const double x = a.as_double(), y = b.as_double();
    if (op == "+") return Value::of(x + y);
    if (op == "-") return Value::of(x - y);
    if (op == "*") return Value::of(x * y);
    if (op == "**") return Value::of(std::pow(x, y));
    if (y == 0) throw Error{"division by zero"};
    if (op == "//") return Value::of(std::floor(x / y));
    return Value::of(x - y * std::floor(x / y));
  }
  const int64_t x = a.as_int(), y = b.as_int();
  int64_t r = 0;
  bool over = false;
  if (op == "+") over = __builtin_add_overflow(x, y, &r);
  else if (op == "-") over = __builtin_sub_overflow(x, y, &r);
  else if (op == "*") over = __builtin_mul_overflow(x, y, &r);
  else if (op == "**") {
    if (y < 0) return Value::of(std::pow(static_cast<double>(x), static_cast<double>(y)));
    r = 1;
    for (int64_t i = 0; i < y && !over; ++i) spend(1), over = __builtin_mul_overflow(r, x, &r);
  } else {
    if (y == 0) throw Error{"division by zero"};
    over = x == INT64_MIN && y == -1;
    if (!over) {
      const int64_t q = x / y - ((x % y != 0) && ((x < 0) != (y < 0)));
      r = op == "//" ? q : x - q * y;
    }
  }
  if (over) throw Error{"number is too large"};
  return Value::of(r);
}

Value Runner::expression(const Node& n) {
  spend(1, n.line);
  switch (n.kind) {
    case Node::kLiteral: return n.value;
    case Node::kName: {
      const Value* v = find(n.name);
      if (v != nullptr) return *v;
      Value missing = Value::undefined(n.name);
      for (const char* known : {"raise_exception", "strftime_now", "namespace", "range", "dict"}) {
        if (n.name == known) missing.kind = Value::kBuiltin;
      }
      return missing;
    }
    case Node::kList: case Node::kTuple: {
      Values out;
      for (const NodePtr& child : n.children) out.push_back(expression(*child));
      return Value::of(std::move(out), n.kind == Node::kList ? Value::kList : Value::kTuple);
    }
    case Node::kDict: {
      Pairs out;
      for (size_t i = 0; i < n.children.size(); i += 2) {
        const std::string key = dict_key(expression(*n.children[i]));
        Value value = expression(*n.children[i + 1]);
        bool there = false;
        for (auto& [k, v] : out) {
          if (k == key) v = value, there = true;
        }
        if (!there) out.emplace_back(key, std::move(value));
      }
      return Value::of(std::move(out));
    }
    case Node::kAttribute: return attribute(expression(*n.children[0]), n.name);
    case Node::kItem: {
      const Value object = expression(*n.children[0]);
      return item(object, expression(*n.children[1]));
    }
    case Node::kSlice: return slice(n);
    case Node::kCall: return call(n);
    case Node::kFilter: {
      Value value = expression(*n.children[0]);
      return apply_filter(n.name, std::move(value), arguments(n, 1));
    }
    case Node::kTest: {
      const Value value = expression(*n.children[0]);
      return Value::of(apply_test(n.name, value, arguments(n, 1)) != n.negated);
    }
    case Node::kNot: return Value::of(!expression(*n.children[0]).truth());
    case Node::kNegative: {
      const Value v = expression(*n.children[0]);
      if (!v.is_number() || (v.kind != Value::kFloat && v.as_int() == INT64_MIN)) throw Error{std::string("cannot negate a ") + type_name(v)};
      return v.kind == Value::kFloat ? Value::of(-v.real) : Value::of(-v.as_int());
    }
    case Node::kPlus: return expression(*n.children[0]);
    case Node::kAnd: {
      Value left = expression(*n.children[0]);
      return left.truth() ? expression(*n.children[1]) : left;
    }
    case Node::kOr: {
      Value left = expression(*n.children[0]);
      return left.truth() ? left : expression(*n.children[1]);
    }
    case Node::kIfElse:
      if (expression(*n.children[1]).truth()) return expression(*n.children[0]);
      return n.children[2] ? expression(*n.children[2]) : Value::undefined("else of an if");
    case Node::kBinary: return binary(n);
    case Node::kCompare: {
      Value left = expression(*n.children[0]);
      for (size_t i = 0; i < n.words.size(); ++i) {
        Value right = expression(*n.children[i + 1]);
        const std::string& op = n.words[i];
        bool ok = false;
        if (op == "==") ok = equal(left, right);
        else if (op == "!=") ok = !equal(left, right);
        else if (op == "in" || op == "not in") {
          Arguments args;
          args.place.push_back(right);
          ok = apply_test("in", left, args) == (op == "in");
        } else {
          const int c = compare(left, right);
          ok = op == "<" ? c < 0 : op == "<=" ? c <= 0 : op == ">" ? c > 0 : c >= 0;
        }
        if (!ok) return Value::of(false);
        left = std::move(right);
      }
      return Value::of(true);
    }
    default: throw Error{"not an expression"};
  }
}

}  // namespace weft::text::jinja
