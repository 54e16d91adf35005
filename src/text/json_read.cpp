#include "text/json_read.h"

#include <cmath>

#include "base/error.h"

namespace weft::text {
namespace {

// Builds the value without recursion.
class Builder : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(const std::string& where) : where_(where) {}
  Json root;

  bool null() override { return put(nullptr); }
  bool boolean(bool v) override { return put(v); }
  bool number_integer(number_integer_t v) override { return put(v); }
  bool number_unsigned(number_unsigned_t v) override { return put(v); }
  bool number_float(number_float_t v, const string_t&) override { return put(v); }
  bool string(string_t& v) override { return put(std::move(v)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& k) override {
    auto& object = open_.back()->get_ref<Json::object_t&>();
    const auto [it, added] = object.try_emplace(k, nullptr);
    if (!added) throw InputError(where_ + ": key '" + k.substr(0, 100) + "' stands twice in one object");
    slot_ = &it->second;
    return true;
  }
  bool parse_error(size_t offset, const std::string&, const nlohmann::detail::exception& e) override {
    std::string what = e.what();
    if (const size_t at = what.find("] "); at != std::string::npos) what = what.substr(at + 2);
    throw InputError(where_ + ": offset " + std::to_string(offset) + ": " + what.substr(0, 300));
  }

 private:
  template <class V>
  Json* place(V&& value) {
    if (open_.empty()) return &(root = std::forward<V>(value));
    if (open_.back()->is_array()) return &open_.back()->get_ref<Json::array_t&>().emplace_back(std::forward<V>(value));
    return &(*slot_ = std::forward<V>(value));
  }
  template <class V>
  bool put(V&& value) {
    place(std::forward<V>(value));
    return true;
  }
  bool open(Json&& value) {
    if (open_.size() >= kMaxJsonDepth) throw InputError(where_ + ": JSON nests deeper than 64");
    open_.push_back(place(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }
  const std::string& where_;
  std::vector<Json*> open_;
  Json* slot_ = nullptr;
};

}  // namespace

Json read_json(std::string_view text, const std::string& where) {
  if (text.size() > kMaxJsonBytes) throw InputError(where + ": got " + std::to_string(text.size()) + " bytes, want at most 1 GiB");
  Builder builder(where);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return std::move(builder.root);
}

void Node::fail(const std::string& what) const { throw InputError(where_ + ": " + what); }

bool Node::has(const char* key) const {
  if (!json_->is_object()) fail(std::string("got ") + json_->type_name() + ", want an object");
  const auto it = json_->find(key);
  return it != json_->end() && !it->is_null();
}

Node Node::at(const char* key) const {
  if (!has(key)) fail(std::string("has no '") + key + "'");
  return Node((*json_)[key], where_ + "." + key);
}

Node Node::at(size_t index) const { return Node((*json_)[index], where_ + "[" + std::to_string(index) + "]"); }

size_t Node::size() const {
  if (!json_->is_array()) fail(std::string("got ") + json_->type_name() + ", want an array");
  return json_->size();
}

std::string Node::as_text() const {
  if (!json_->is_string()) fail(std::string("got ") + json_->type_name() + ", want a string");
  return json_->get<std::string>();
}
std::string Node::text(const char* key) const { return at(key).as_text(); }
std::string Node::text(const char* key, const char* fallback) const { return has(key) ? at(key).as_text() : fallback; }

bool Node::flag(const char* key, bool fallback) const {
  if (!has(key)) return fallback;
  const Node node = at(key);
  if (!node.json().is_boolean()) node.fail(std::string("got ") + node.json().type_name() + ", want true or false");
  return node.json().get<bool>();
}

int64_t Node::as_integer(int64_t low, int64_t high) const {
  if (!json_->is_number_integer() || (json_->is_number_unsigned() && json_->get<uint64_t>() > uint64_t{INT64_MAX}) ||
      json_->get<int64_t>() < low || json_->get<int64_t>() > high) {
    fail("got " + json_->dump().substr(0, 40) + ", want a whole number from " + std::to_string(low) + " to " + std::to_string(high));
  }
  return json_->get<int64_t>();
}
int64_t Node::integer(const char* key) const { return at(key).as_integer(INT32_MIN, INT32_MAX); }

double Node::as_number() const {
  if (!json_->is_number() || !std::isfinite(json_->get<double>())) fail("got " + json_->dump().substr(0, 40) + ", want a finite number");
  return json_->get<double>();
}

void Node::only(std::initializer_list<const char*> keys) const {
  for (const auto& [key, value] : json_->items()) {
    bool known = false;
    for (const char* k : keys) known |= key == k;
    if (!known) fail("unknown key '" + key.substr(0, 100) + "'");
  }
}

}  // namespace weft::text
