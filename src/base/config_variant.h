// The config node of a variant: a table whose `kind` says which alternative it holds. Included by base/config.h.
#pragma once
#include "base/config_nodes.h"

namespace weft::config {

template <class... T>
class VariantNode final : public Node {
 public:
  explicit VariantNode(std::variant<T...>& value) : value_(value) {}
  Shape shape() const override { return kVariant; }
  std::string type() const override { return "table with a kind"; }
  Json write() const override {
    Json out = Json::object();
    std::visit([&](auto& v) { out["kind"] = std::decay_t<decltype(v)>::kKind; out.update(bind(v)->write()); }, value_);
    return out;
  }
  void read(const Json& v, const std::string& path, std::vector<Problem>& out) override {
    if (!want_object(v, path, out)) return;
    const std::string held = std::visit([](auto& x) { return std::string(std::decay_t<decltype(x)>::kKind); }, value_);
    const std::string kind = choose_kind(v, path, held, {T::kKind...}, out);
    if (kind.empty()) return;
    if (kind != held) ((kind == T::kKind ? void(value_.template emplace<T>()) : void()), ...);
    read_members(members(), v, path, "kind", out);
  }
  std::vector<Member> members() override { return std::visit([](auto& v) { return bind(v)->members(); }, value_); }
  std::vector<Member> kinds() const override {
    std::vector<Member> out;
    (out.push_back({T::kKind, "", {}, std::make_unique<Held<T>>()}), ...);
    return out;
  }
  void derive() override { std::visit([](auto& v) { bind(v)->derive(); }, value_); }
  void check(std::vector<Problem>& out) const override { std::visit([&](auto& v) { bind(v)->check(out); }, value_); }

 private:
  std::variant<T...>& value_;
};

}  // namespace weft::config
