// Runs a parsed template.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat_template.h"
#include "text/template_ast.h"

namespace weft::text::jinja {

// Arguments of a call: by place, then by name.
struct Arguments {
  Values place;
  Pairs name;
  // The argument at `index` or called `key`; null when it was not given.
  const Value* get(size_t index, std::string_view key) const;
  int64_t integer(size_t index, std::string_view key, int64_t fallback) const;
  std::string string(size_t index, std::string_view key, const char* fallback) const;
};

class Runner {
 public:
  Runner(const nlohmann::ordered_json& variables, const TemplateLimits& limits);
  RenderedChat run(const Node& root);

  // For the built-in functions (template_builtin.cpp).
  void spend(int64_t operations, int line = 0);
  Value text(std::string s);                    // a string, within the output limit
  const Values items_of(const Value&);          // what a for loop sees; Error when it cannot be walked
  Value attribute(const Value& object, const std::string& name);
  Value item(const Value& object, const Value& key);
  Value apply_filter(const std::string& name, Value value, const Arguments&);
  bool apply_test(const std::string& name, const Value& value, const Arguments&);
  Value call_method(const Value& object, const std::string& name, const Arguments&);
  Value call_builtin(const std::string& name, const Arguments&);

 private:
  using Scope = std::map<std::string, Value, std::less<>>;
  enum Flow : uint8_t { kOn, kBreak, kContinue };
  Flow statement(const Node&);
  Flow loop(const Node&);
  Value member(const Value& from, const std::string& path);  // the value itself, or the attribute that a path names ("function.name")
  Value filter_list(const std::string& name, const Value& value, const Arguments&);  // filters that walk a list
  Value expression(const Node&);
  Value binary(const Node&);
  Value slice(const Node&);
  Value call(const Node&);
  Value call_macro(const Macro&, const Arguments&);
  Arguments arguments(const Node&, size_t first);
  const Value* find(std::string_view name) const;
  void assign(const std::vector<std::string>& names, const Value& value, int line);
  void emit(std::string_view s);
  std::string captured(const Node& body);

  TemplateLimits limits_;
  int64_t left_;
  int calls_ = 0;
  int line_ = 0;
  std::vector<Scope> scopes_;      // [0] variables of the call, [1] of the template
  size_t visible_ = 0;             // scopes from here on, and the first two, can be seen
  std::string* out_ = nullptr;
  std::string root_;
  std::vector<RenderedChat::Range> generated_;
};

}  // namespace weft::text::jinja
