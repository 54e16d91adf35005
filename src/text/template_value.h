// Values of a template, as Python has them.
#pragma once
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace weft::text::jinja {

struct Macro;
struct Value;
using Values = std::vector<Value>;
using Pairs = std::vector<std::pair<std::string, Value>>;  // dict: keys are strings, in order

constexpr int kMaxValueDepth = 100;

struct Value {
  enum Kind : uint8_t { kUndefined, kNone, kBool, kInt, kFloat, kString, kList, kTuple, kDict, kNamespace, kMacro, kBuiltin, kMethod } kind = kUndefined;
  union {
    bool boolean;
    int64_t integer = 0;
    double real;
  };
  bool markup = false;                      // kString behind `safe` or `escape`: what is added to it with + is escaped
  bool lazy = false;                        // kList that upstream makes step by step: it has no length and no JSON
  int depth = 0;                            // of what it holds: bounded, so that nothing recurses without end
  std::shared_ptr<const std::string> text;  // kString; kUndefined, kBuiltin, kMethod: the name
  std::shared_ptr<const Values> list;       // kList, kTuple; kMethod: its object
  std::shared_ptr<const Pairs> dict;
  std::shared_ptr<Pairs> space;             // kNamespace: the one value that can change
  std::shared_ptr<const Macro> macro;

  static Value undefined(std::string name);
  static Value none() { Value v; v.kind = kNone; return v; }
  static Value of(bool b) { Value v; v.kind = kBool; v.boolean = b; return v; }
  static Value of(int64_t i) { Value v; v.kind = kInt; v.integer = i; return v; }
  static Value of(double d) { Value v; v.kind = kFloat; v.real = d; return v; }
  static Value of(std::string s);
  static Value of(const char*) = delete;
  static Value of(Values values, Kind kind = kList);  // Error when too deep
  static Value of(Pairs pairs);
  static Value from_json(const nlohmann::ordered_json&);

  bool is_number() const { return kind == kInt || kind == kFloat || kind == kBool; }
  double as_double() const { return kind == kFloat ? real : kind == kBool ? boolean : static_cast<double>(integer); }
  int64_t as_int() const { return kind == kBool ? boolean : integer; }
  bool truth() const;
  const Value* find(std::string_view key) const;  // of a dict
};

// Keys of a dict are strings; whole numbers are kept as marked strings.
std::string dict_key(const Value&);  // Error for other kinds
Value from_dict_key(const std::string&);

struct Error {  // becomes an InputError with the line
  std::string text;
};

bool equal(const Value&, const Value&);
int compare(const Value&, const Value&);  // Error when Python cannot order them
std::string str(const Value&);            // Python's str()
std::string repr(const Value&);
std::string float_repr(double);
const char* type_name(const Value&);
// json.dumps: indent < 0 is one line.
std::string to_json(const Value&, int indent, bool sort_keys, bool ascii, std::string_view item = ", ", std::string_view key = ": ");

}  // namespace weft::text::jinja
