// One value of a config, reached without knowing its type. base/config.h says how settings are declared and read.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"

namespace weft {

struct Range { double low, high; };         // inclusive; of every element of a list
struct Unit { const char* name; };          // "tokens", "s", "MiB": shown in help
struct Alias { const char* name; };         // another accepted name, such as Megatron's
struct Live {};                             // may change when a run is resumed
struct Problem { std::string path, text; };  // "moe.top_k", "is above num_experts"

namespace config {

struct Tags {
  std::optional<Range> range;
  std::string unit;
  std::vector<std::string> aliases;
  bool live = false;
};

class Node;
struct Member {
  std::string name, help;
  Tags tags;
  std::unique_ptr<Node> node;
};

// One value of a config, reached without knowing its type. Borrows the value: the struct outlives the node.
class Node {
 public:
  enum Shape { kLeaf, kTable, kList, kMap, kVariant };
  virtual ~Node() = default;
  virtual Shape shape() const = 0;
  virtual std::string type() const = 0;  // for people: "integer", "list of numbers", "adamw | muon"
  virtual Json write() const = 0;
  virtual void read(const Json& value, const std::string& path, std::vector<Problem>& out) = 0;
  virtual void check_range(const Range&, const std::string& /*path*/, std::vector<Problem>&) const {}
  virtual std::vector<Member> members() { return {}; }             // of a table, or of the alternative that a variant holds
  virtual std::vector<Member> children() { return members(); }     // members, or elements of a list or map by key
  virtual std::vector<Member> kinds() const { return {}; }         // a fresh element of a list or map (name ""), or every alternative
  virtual void derive() {}                                         // this level only
  virtual void check(std::vector<Problem>&) const {}               // this level only, relative paths
};

}  // namespace config
}  // namespace weft
