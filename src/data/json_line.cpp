#include "data/json_line.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "data/utf8.h"

namespace weft::data {
namespace {

constexpr int kMaxDepth = 64;

class Scanner {
 public:
  Scanner(std::string_view text, const std::string& where) : s_(text), where_(where) {}

  // Calls member(key, begin of value) for each member of the object, which must leave the scanner behind the value.
  template <class F>
  void object_line(F&& member) {
    space();
    if (peek() != '{') fail("got " + shown() + ", want an object");
    ++i_;
    std::vector<std::string> keys;
    space();
    if (peek() == '}') {
      ++i_;
    } else {
      for (;;) {
        space();
        const size_t at = i_;
        JsonText key = string();
        if (std::find(keys.begin(), keys.end(), key.text) != keys.end()) {
          i_ = at;
          fail("duplicate key \"" + key.text + "\"");
        }
        space();
        expect(':');
        space();
        member(key.text);
        keys.push_back(std::move(key.text));
        space();
        if (peek() == ',') {
          ++i_;
          continue;
        }
        expect('}');
        break;
      }
    }
    space();
    if (i_ != s_.size()) fail("got " + shown() + " after the object, want the end of the line");
  }

  JsonText string() {
    if (peek() != '"') fail("got " + shown() + ", want a string");
    ++i_;
    JsonText out;
    for (;;) {
      const size_t begin = i_;
      while (i_ < s_.size() && s_[i_] != '"' && s_[i_] != '\\' && static_cast<unsigned char>(s_[i_]) >= 0x20) ++i_;
      out.replacements += append_clean_utf8(s_.substr(begin, i_ - begin), out.text);
      if (i_ >= s_.size()) fail("the string does not end");
      if (s_[i_] == '"') {
        ++i_;
        return out;
      }
      if (s_[i_] != '\\') fail("a control character inside a string: got " + shown() + ", want it escaped");
      escape(out);
    }
  }

  void value(int depth = 1) {
    if (depth > kMaxDepth) fail("nested more than " + std::to_string(kMaxDepth) + " levels");
    switch (peek()) {
      case '"': skip_string(); return;
      case '{': container(depth, '}', true); return;
      case '[': container(depth, ']', false); return;
      case 't': return word("true");
      case 'f': return word("false");
      case 'n': return word("null");
      default: return number();
    }
  }

  char peek() const { return i_ < s_.size() ? s_[i_] : '\0'; }
  size_t at() const { return i_; }
  [[noreturn]] void fail(const std::string& what) const { throw InputError(where_ + ", column " + std::to_string(i_ + 1) + ": " + what); }
  std::string shown() const {
    if (i_ >= s_.size()) return "the end";
    const unsigned char c = static_cast<unsigned char>(s_[i_]);
    return c >= 0x20 && c < 0x7F ? std::string("'") + static_cast<char>(c) + "'" : "byte " + std::to_string(c);
  }

 private:
  void space() {
    while (i_ < s_.size() && (s_[i_] == ' ' || s_[i_] == '\t' || s_[i_] == '\r' || s_[i_] == '\n')) ++i_;
  }
  void expect(char c) {
    if (peek() != c || i_ >= s_.size()) fail("got " + shown() + ", want '" + c + "'");
    ++i_;
  }
  void word(std::string_view w) {
    if (s_.substr(i_, w.size()) != w) fail("got " + shown() + ", want a value");
    i_ += w.size();
  }
  void digits() {
    if (peek() < '0' || peek() > '9') fail("got " + shown() + ", want a digit");
    while (peek() >= '0' && peek() <= '9') ++i_;
  }
  void number() {
    if (peek() != '-' && (peek() < '0' || peek() > '9')) fail("got " + shown() + ", want a value");
    if (peek() == '-') ++i_;
    if (peek() == '0') ++i_;
    else digits();
    if (peek() == '.') ++i_, digits();
    if (peek() == 'e' || peek() == 'E') {
      ++i_;
      if (peek() == '+' || peek() == '-') ++i_;
      digits();
    }
  }
  void skip_string() {
    ++i_;
    for (;;) {
      while (i_ < s_.size() && s_[i_] != '"' && s_[i_] != '\\' && static_cast<unsigned char>(s_[i_]) >= 0x20) ++i_;
      if (i_ >= s_.size()) fail("the string does not end");
      if (s_[i_] == '"') {
        ++i_;
        return;
      }
      if (s_[i_] != '\\') fail("a control character inside a string: got " + shown() + ", want it escaped");
      JsonText sink;
      escape(sink);
    }
  }
  void container(int depth, char close, bool keyed) {
    ++i_;
    space();
    if (peek() == close) {
      ++i_;
      return;
    }
    for (;;) {
      space();
      if (keyed) {
        if (peek() != '"') fail("got " + shown() + ", want a string");
        skip_string();
        space();
        expect(':');
        space();
      }
      value(depth + 1);
      space();
      if (peek() == ',') {
        ++i_;
        continue;
      }
      expect(close);
      return;
    }
  }
  uint32_t hex4() {
    if (i_ + 4 > s_.size()) fail("the string does not end");
    uint32_t v = 0;
    for (int k = 0; k < 4; ++k, ++i_) {
      const char c = s_[i_];
      if (c >= '0' && c <= '9') v = v * 16 + static_cast<uint32_t>(c - '0');
      else if (c >= 'a' && c <= 'f') v = v * 16 + static_cast<uint32_t>(c - 'a' + 10);
      else if (c >= 'A' && c <= 'F') v = v * 16 + static_cast<uint32_t>(c - 'A' + 10);
      else fail("got " + shown() + ", want a hexadecimal digit");
    }
    return v;
  }
  void escape(JsonText& out) {
    ++i_;
    const char c = peek();
    ++i_;
    switch (c) {
      case '"': case '\\': case '/': out.text.push_back(c); return;
      case 'b': out.text.push_back('\b'); return;
      case 'f': out.text.push_back('\f'); return;
      case 'n': out.text.push_back('\n'); return;
      case 'r': out.text.push_back('\r'); return;
      case 't': out.text.push_back('\t'); return;
      case 'u': break;
      default: --i_; fail("got " + shown() + ", want an escape");
    }
    uint32_t v = hex4();
    if (v >= 0xD800 && v < 0xDC00 && s_.substr(i_, 2) == "\\u") {
      const size_t back = i_;
      i_ += 2;
      const uint32_t low = hex4();
      if (low >= 0xDC00 && low < 0xE000) {
        append_utf8(0x10000 + ((v - 0xD800) << 10) + (low - 0xDC00), out.text);
        return;
      }
      i_ = back;
    }
    if (v >= 0xD800 && v < 0xE000) v = 0xFFFD, ++out.replacements;
    append_utf8(v, out.text);
  }

  std::string_view s_;
  const std::string& where_;
  size_t i_ = 0;
};

}  // namespace

JsonText json_text_member(std::string_view line, std::string_view key, const std::string& where) {
  Scanner scan(line, where);
  JsonText out;
  scan.object_line([&](const std::string& name) {
    if (name != key) return scan.value();
    if (scan.peek() != '"') scan.fail("\"" + std::string(key) + "\" is no string: got " + scan.shown());
    out = scan.string();
    out.found = true;
  });
  return out;
}

std::string_view json_raw_member(std::string_view line, std::string_view key, const std::string& where) {
  Scanner scan(line, where);
  std::string_view out;
  scan.object_line([&](const std::string& name) {
    const size_t begin = scan.at();
    scan.value();
    if (name == key) out = line.substr(begin, scan.at() - begin);
  });
  return out;
}

}  // namespace weft::data
