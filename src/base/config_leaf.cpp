// Leaves: one value of a basic type.
#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/config.h"
#include "base/text.h"

namespace weft::config {
namespace {

std::string shown(const Json& v) {
  std::string text = v.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (v.is_object()) return "a table";
  if (text.size() > 40) text.resize(37), text += "...";
  return text;
}

void want(const Json& got, const std::string& path, const std::string& type, std::vector<Problem>& out) {
  out.push_back({path, fmt::format("got {}, want {}", shown(got), type)});
}

std::string number(double v) { return v == std::floor(v) && std::fabs(v) < 1e15 ? fmt::format("{:.0f}", v) : fmt::format("{:g}", v); }

void range_problem(const std::string& value, const Range& r, const std::string& path, std::vector<Problem>& out) {
  out.push_back({path, fmt::format("got {}, want {} to {}", value, number(r.low), number(r.high))});
}

class BoolLeaf final : public Node {
 public:
  explicit BoolLeaf(bool& v) : v_(v) {}
  Shape shape() const override { return kLeaf; }
  std::string type() const override { return "true | false"; }
  Json write() const override { return v_; }
  void read(const Json& v, const std::string& path, std::vector<Problem>& out) override {
    if (!v.is_boolean()) return want(v, path, type(), out);
    v_ = v.get<bool>();
  }

 private:
  bool& v_;
};

class TextLeaf final : public Node {
 public:
  explicit TextLeaf(std::string& v) : v_(v) {}
  Shape shape() const override { return kLeaf; }
  std::string type() const override { return "text"; }
  Json write() const override { return v_; }
  void read(const Json& v, const std::string& path, std::vector<Problem>& out) override {
    if (!v.is_string()) return want(v, path, type(), out);
    v_ = v.get<std::string>();
  }

 private:
  std::string& v_;
};

template <class F>
class FloatLeaf final : public Node {
 public:
  explicit FloatLeaf(F& v) : v_(v) {}
  Shape shape() const override { return kLeaf; }
  std::string type() const override { return "number"; }
  Json write() const override {  // the shortest text that reads back as the same F: 0.1f is written 0.1
    char text[40];
    const auto end = std::to_chars(text, text + sizeof text, v_).ptr;
    double wide = 0;
    std::from_chars(text, end, wide);
    return wide;
  }
  void read(const Json& v, const std::string& path, std::vector<Problem>& out) override {
    if (!v.is_number() || !std::isfinite(v.get<double>()) || std::fabs(v.get<double>()) > std::numeric_limits<F>::max())
      return want(v, path, "a finite number", out);
    v_ = static_cast<F>(v.get<double>());
  }
  void check_range(const Range& r, const std::string& path, std::vector<Problem>& out) const override {
    if (!(v_ >= static_cast<F>(r.low) && v_ <= static_cast<F>(r.high))) range_problem(fmt::format("{:g}", v_), r, path, out);
  }

 private:
  F& v_;
};

// Integers and enums live in members of 1 to 8 bytes; all of their ways go through these two.
uint64_t load(const void* at, size_t bytes, bool is_signed) {
  uint64_t v = 0;
  std::memcpy(&v, at, bytes);
  const unsigned shift = 64 - 8 * static_cast<unsigned>(bytes);
  return is_signed ? static_cast<uint64_t>(static_cast<int64_t>(v << shift) >> shift) : v;
}

void store(void* at, size_t bytes, uint64_t v) { std::memcpy(at, &v, bytes); }

class IntegerLeaf final : public Node {
 public:
  IntegerLeaf(void* at, size_t bytes, bool is_signed) : at_(at), bytes_(bytes), signed_(is_signed) {}
  Shape shape() const override { return kLeaf; }
  std::string type() const override { return "integer"; }
  Json write() const override {
    const uint64_t v = load(at_, bytes_, signed_);
    return signed_ ? Json(static_cast<int64_t>(v)) : Json(v);
  }
  void read(const Json& v, const std::string& path, std::vector<Problem>& out) override {
    uint64_t bits = 0;
    bool negative = false;
    if (v.is_number_unsigned()) {
      bits = v.get<uint64_t>();
    } else if (v.is_number_integer()) {
      bits = static_cast<uint64_t>(v.get<int64_t>());
      negative = v.get<int64_t>() < 0;
    } else if (v.is_number_float() && v.get<double>() == std::floor(v.get<double>()) && std::fabs(v.get<double>()) < 0x1p53) {
      bits = static_cast<uint64_t>(static_cast<int64_t>(v.get<double>()));  // 1e6 is a fine integer
      negative = v.get<double>() < 0;
    } else {
      return want(v, path, "an integer", out);
    }
    const unsigned width = 8 * static_cast<unsigned>(bytes_) - (signed_ ? 1 : 0);
    const uint64_t high = width == 64 ? ~0ull : (1ull << width) - 1;
    const bool fits = negative ? signed_ && ~bits <= high : bits <= high;
    if (!fits) return want(v, path, fmt::format("an integer of {}{} bits", signed_ ? "" : "unsigned ", 8 * bytes_), out);
    store(at_, bytes_, bits);
  }
  void check_range(const Range& r, const std::string& path, std::vector<Problem>& out) const override {
    const uint64_t bits = load(at_, bytes_, signed_);
    const double v = signed_ ? static_cast<double>(static_cast<int64_t>(bits)) : static_cast<double>(bits);
    if (v < r.low || v > r.high) range_problem(write().dump(), r, path, out);
  }

 private:
  void* at_;
  size_t bytes_;
  bool signed_;
};

class EnumLeaf final : public Node {
 public:
  EnumLeaf(void* at, size_t bytes, std::vector<std::string> names) : at_(at), bytes_(bytes), names_(std::move(names)) {}
  Shape shape() const override { return kLeaf; }
  std::string type() const override { return join(names_, " | "); }
  Json write() const override { return names_.at(load(at_, bytes_, false)); }
  void read(const Json& v, const std::string& path, std::vector<Problem>& out) override {
    if (v.is_string())
      for (size_t i = 0; i < names_.size(); ++i)
        if (names_[i] == v.get<std::string>()) return store(at_, bytes_, i);
    const std::string near = v.is_string() ? nearest(v.get<std::string>(), names_) : "";
    out.push_back({path, fmt::format("got {}, want {}{}", shown(v), type(), near.empty() ? "" : "; did you mean " + near + "?")});
  }

 private:
  void* at_;
  size_t bytes_;
  std::vector<std::string> names_;
};

}  // namespace

std::unique_ptr<Node> leaf(bool& v) { return std::make_unique<BoolLeaf>(v); }
std::unique_ptr<Node> leaf(std::string& v) { return std::make_unique<TextLeaf>(v); }
std::unique_ptr<Node> leaf(float& v) { return std::make_unique<FloatLeaf<float>>(v); }
std::unique_ptr<Node> leaf(double& v) { return std::make_unique<FloatLeaf<double>>(v); }
std::unique_ptr<Node> integer_leaf(void* v, size_t bytes, bool is_signed) {
  return std::make_unique<IntegerLeaf>(v, bytes, is_signed);
}
std::unique_ptr<Node> enum_leaf(void* v, size_t bytes, std::vector<std::string> names) {
  return std::make_unique<EnumLeaf>(v, bytes, std::move(names));
}

bool want_object(const Json& v, const std::string& path, std::vector<Problem>& out) {
  if (!v.is_object()) want(v, path, "a table", out);
  return v.is_object();
}

bool want_array(const Json& v, const std::string& path, std::vector<Problem>& out) {
  if (!v.is_array()) want(v, path, "a list", out);
  return v.is_array();
}

}  // namespace weft::config
