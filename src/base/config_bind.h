// Ties C++ members to config nodes. Included by base/config.h; only bind() is called by hand.
#pragma once
#include <array>
#include <concepts>
#include <map>
#include <type_traits>
#include <utility>
#include <variant>

#include "base/config_node.h"

namespace weft::config {

template <class T> std::unique_ptr<Node> bind(T& value);  // of a struct with fields, or of any member type

class Binder {  // the visitor that `fields` is called with
 public:
  std::vector<Member> out;

  template <class T, class... Tag>
  void operator()(const char* name, T& value, const char* help, const Tag&... tag) {
    Member m{name, help, {}, bind(value)};
    (apply(m.tags, tag), ...);
    out.push_back(std::move(m));
  }

 private:
  static void apply(Tags& t, const Range& r) { t.range = r; }
  static void apply(Tags& t, const Unit& u) { t.unit = u.name; }
  static void apply(Tags& t, const Alias& a) { t.aliases.emplace_back(a.name); }
  static void apply(Tags& t, const Live&) { t.live = true; }
};

template <class T>
concept Table = requires(T& t, Binder& b) { T::fields(t, b); };

// Leaves, by width: config_leaf.cpp.
std::unique_ptr<Node> leaf(bool&);
std::unique_ptr<Node> leaf(std::string&);
std::unique_ptr<Node> leaf(float&);
std::unique_ptr<Node> leaf(double&);
std::unique_ptr<Node> integer_leaf(void* value, size_t bytes, bool is_signed);
std::unique_ptr<Node> enum_leaf(void* value, size_t bytes, std::vector<std::string> names);

// Shared by the templates below: config_read.cpp.
void read_members(std::vector<Member> members, const Json& value, const std::string& path, const char* skip,
                  std::vector<Problem>& out);
Json write_members(const std::vector<Member>& members);
bool want_object(const Json& value, const std::string& path, std::vector<Problem>& out);
bool want_array(const Json& value, const std::string& path, std::vector<Problem>& out);
std::string choose_kind(const Json& value, const std::string& path, const std::string& held, const std::vector<std::string>& kinds,
                        std::vector<Problem>& out);  // "" after a problem
std::string join_path(const std::string& parent, const std::string& key);
bool read_key(const std::string& text, std::string& key, const std::string& path, std::vector<Problem>& out);
bool read_key(const std::string& text, char& key, const std::string& path, std::vector<Problem>& out);  // one character
inline std::string key_text(const std::string& key) { return key; }
inline std::string key_text(char key) { return std::string(1, key); }
bool needs_kind(const Node& fresh, const Json& value, const std::string& path, std::vector<Problem>& out);  // a new variant without

template <class T>
class TableNode final : public Node {
 public:
  explicit TableNode(T& value) : value_(value) {}
  Shape shape() const override { return kTable; }
  std::string type() const override { return "table"; }
  Json write() const override { return write_members(bound()); }
  void read(const Json& v, const std::string& path, std::vector<Problem>& out) override {
    if (want_object(v, path, out)) read_members(bound(), v, path, nullptr, out);
  }
  std::vector<Member> members() override { return bound(); }
  void derive() override {
    if constexpr (requires(T& t) { t.derive(); }) value_.derive();
  }
  void check(std::vector<Problem>& out) const override {
    if constexpr (requires(const T& t, std::vector<Problem>& p) { t.check(p); }) std::as_const(value_).check(out);
  }

 private:
  std::vector<Member> bound() const {
    Binder b;
    T::fields(value_, b);
    return std::move(b.out);
  }
  T& value_;
};

template <class T> class ListNode;  // config_nodes.h
template <class K, class T> class MapNode;
template <class... T> class VariantNode;  // config_variant.h
template <class T> struct NodeOf { using type = TableNode<T>; };
template <class T> struct NodeOf<std::vector<T>> { using type = ListNode<T>; };
template <class K, class T> struct NodeOf<std::map<K, T>> { using type = MapNode<K, T>; };
template <class... T> struct NodeOf<std::variant<T...>> { using type = VariantNode<T...>; };

template <class T>
std::unique_ptr<Node> bind(T& value) {
  if constexpr (std::is_enum_v<T>) {
    constexpr auto all = names(T{});
    return enum_leaf(&value, sizeof(T), {all.begin(), all.end()});
  } else if constexpr (std::same_as<T, bool> || std::same_as<T, std::string> || std::floating_point<T>) {
    return leaf(value);
  } else if constexpr (std::integral<T>) {
    return integer_leaf(&value, sizeof(T), std::is_signed_v<T>);
  } else {
    return std::make_unique<typename NodeOf<T>::type>(value);
  }
}

}  // namespace weft::config
