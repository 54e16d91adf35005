// JSON from files that nobody vouches for: depth, count and size limits, duplicate keys refused, errors with place and rule.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace weft::text {

using Json = nlohmann::json;

constexpr size_t kMaxJsonDepth = 64;
constexpr size_t kMaxJsonBytes = size_t{1} << 30;

// Throws InputError `where: offset N: what`.
Json read_json(std::string_view text, const std::string& where);

// One object of a file with its name for errors: "tokenizer.json: model.vocab". Typed reads that name what is wrong.
class Node {
 public:
  Node(const Json& json, std::string where) : json_(&json), where_(std::move(where)) {}
  const Json& json() const { return *json_; }
  const std::string& where() const { return where_; }
  [[noreturn]] void fail(const std::string& what) const;  // InputError: `where: what`
  bool has(const char* key) const;                        // present and not null
  Node at(const char* key) const;                         // must be there
  Node at(size_t index) const;
  size_t size() const;                                    // of an array; fails otherwise
  std::string text(const char* key) const;
  std::string text(const char* key, const char* fallback) const;  // when absent or null
  bool flag(const char* key, bool fallback) const;
  int64_t integer(const char* key) const;
  std::string as_text() const;
  int64_t as_integer(int64_t low, int64_t high) const;
  double as_number() const;
  // Fails when the object has a key that is not listed.
  void only(std::initializer_list<const char*> keys) const;

 private:
  const Json* json_;
  std::string where_;
};

}  // namespace weft::text
