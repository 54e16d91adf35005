// Config nodes of lists and maps. Included by base/config.h.
#pragma once
#include "base/config_bind.h"

namespace weft::config {

template <class T>
class Held final : public Node {  // a fresh value with its node, for help and docs
 public:
  Shape shape() const override { return node_->shape(); }
  std::string type() const override { return node_->type(); }
  Json write() const override { return node_->write(); }
  void read(const Json& v, const std::string& path, std::vector<Problem>& out) override { node_->read(v, path, out); }
  std::vector<Member> members() override { return node_->members(); }
  std::vector<Member> kinds() const override { return node_->kinds(); }

 private:
  std::unique_ptr<T> value_ = std::make_unique<T>();
  std::unique_ptr<Node> node_ = bind(*value_);
};

template <class T>
std::vector<Member> fresh_element() {
  std::vector<Member> out;
  out.push_back({"", "", {}, std::make_unique<Held<T>>()});
  return out;
}

template <class T>
class ListNode final : public Node {
 public:
  explicit ListNode(std::vector<T>& value) : value_(value) {}
  Shape shape() const override { return kList; }
  std::string type() const override { return "list of " + Held<T>().type(); }
  Json write() const override {
    Json out = Json::array();
    for (T& v : value_) out.push_back(bind(v)->write());
    return out;
  }
  void read(const Json& v, const std::string& path, std::vector<Problem>& out) override {
    if (!want_array(v, path, out)) return;
    std::vector<T> fresh(v.size());
    for (size_t i = 0; i < v.size(); ++i) bind(fresh[i])->read(v[i], path + "[" + std::to_string(i) + "]", out);
    value_ = std::move(fresh);
  }
  void check_range(const Range& range, const std::string& path, std::vector<Problem>& out) const override {
    for (size_t i = 0; i < value_.size(); ++i) bind(value_[i])->check_range(range, path + "[" + std::to_string(i) + "]", out);
  }
  std::vector<Member> children() override {
    std::vector<Member> out;
    for (size_t i = 0; i < value_.size(); ++i) out.push_back({"[" + std::to_string(i) + "]", "", {}, bind(value_[i])});
    return out;
  }
  std::vector<Member> kinds() const override { return fresh_element<T>(); }

 private:
  std::vector<T>& value_;
};

template <class K, class T>
class MapNode final : public Node {
 public:
  explicit MapNode(std::map<K, T>& value) : value_(value) {}
  Shape shape() const override { return kMap; }
  std::string type() const override { return "table of " + Held<T>().type(); }
  Json write() const override {
    Json out = Json::object();
    for (auto& [key, v] : value_) out[key_text(key)] = bind(v)->write();
    return out;
  }
  void read(const Json& v, const std::string& path, std::vector<Problem>& out) override {
    if (!want_object(v, path, out)) return;
    for (const auto& [key, item] : v.items()) {
      const std::string at = join_path(path, key);
      K k{};
      if (!read_key(key, k, at, out)) continue;
      const bool fresh = !value_.contains(k);
      if (fresh && needs_kind(*kinds()[0].node, item, at, out)) continue;
      bind(value_[k])->read(item, at, out);
    }
  }
  void check_range(const Range& r, const std::string& path, std::vector<Problem>& out) const override {
    for (auto& [key, v] : value_) bind(v)->check_range(r, join_path(path, key_text(key)), out);
  }
  std::vector<Member> children() override {
    std::vector<Member> out;
    for (auto& [key, v] : value_) out.push_back({key_text(key), "", {}, bind(v)});
    return out;
  }
  std::vector<Member> kinds() const override { return fresh_element<T>(); }

 private:
  std::map<K, T>& value_;
};

}  // namespace weft::config
