// Settings. A config struct is plain members with defaults plus one static `fields`, the only place that names them:
//
//   struct MoeConfig {
//     int num_experts = 8, top_k = 2;
//     template <class Self, class Visitor>
//     static void fields(Self& self, Visitor& visit) {
//       visit("num_experts", self.num_experts, "Routed experts in one layer.", Range{1, 4096});
//       visit("top_k", self.top_k, "Experts that each token goes to.", Range{1, 64}, Live{});
//     }
//     void derive();                                // optional: fills members from others, after all ranges hold
//     void check(std::vector<Problem>& out) const;  // optional: rules between members; paths are relative to the struct
//   };
//
// Members: bool, integers, float, double, std::string, enums with an ADL function `constexpr std::array<const char*, N> names(E)`
// (enumerators 0..N-1), config structs, std::vector, std::map (keys std::string or char), and std::variant of config structs that
// each have `static constexpr const char* kKind` (in files: kind = "mamba2"). Files, --set, help, docs, JSON and diff follow.
// Problems are collected, never thrown one by one. Reading a table or a map changes only the keys it names; a list is replaced.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "base/config_bind.h"
#include "base/config_nodes.h"
#include "base/config_variant.h"

namespace weft::config {

// -- reading; every function adds to `out` and goes on ------------------------------------------------------------------
void read_json(Node& root, const Json& value, std::vector<Problem>& out);
void read_toml(Node& root, std::string_view text, const std::string& file, std::vector<Problem>& out);  // paths get FILE:LINE
void read_toml_file(Node& root, const std::string& file, std::vector<Problem>& out);  // InputError when it cannot be read
void set(Node& root, std::string_view assignment, std::vector<Problem>& out);         // "moe.top_k=4"; TOML value or bare word

// Ranges of everything; then, if all hold, derive() from the root down and every check(). The config is const after this.
void resolve(Node& root, std::vector<Problem>& out);
void throw_if_any(const std::vector<Problem>& problems, const std::string& where);  // ConfigError with one line a problem

// -- writing --------------------------------------------------------------------------------------------------------------
std::string to_toml(Node& root);                            // every value; read_toml of it gives the same config
std::string recipe(Node& root);                             // commented: every key with meaning, unit, range and default
std::string help(Node& root, std::string_view prefix = "");  // one line a key, of those below `prefix`
std::string markdown(Node& root);                           // docs/config.md

struct Change { std::string path, before, after; bool live; };  // values as TOML; "" where absent
std::vector<Change> diff(Node& before, Node& after);
std::vector<std::string> keys(Node& root);                  // every path of a leaf, for hints and completion

template <Table T>
Json to_json(const T& value) { return bind(const_cast<T&>(value))->write(); }  // write() changes nothing

template <Table T>
T from_json(const Json& json, const std::string& where) {  // ConfigError with every problem
  T value;
  std::vector<Problem> problems;
  const auto node = bind(value);
  read_json(*node, json, problems);
  resolve(*node, problems);
  throw_if_any(problems, where);
  return value;
}

}  // namespace weft::config
