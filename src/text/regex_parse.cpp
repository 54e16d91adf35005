#include "text/regex_parse.h"

#include <algorithm>

#include "base/error.h"
#include "text/regex_sets.h"

namespace weft::text {
namespace {

constexpr size_t kMaxPattern = 64 * 1024;
constexpr int kMaxDepth = 64;
constexpr size_t kMaxSets = 2000;

class Parser {
 public:
  Parser(std::string_view pattern, const std::string& where) : p_(pattern), where_(where) {}

  ParsedPattern run() {
    if (p_.size() > kMaxPattern) fail("pattern is too long: got " + std::to_string(p_.size()) + " bytes, want at most 65536");
    if (valid_utf8_prefix(p_) != p_.size()) fail("pattern is not UTF-8");
    out_.parts.emplace_back();
    alternatives(0);
    if (at_ < p_.size()) fail("unmatched )");
    return std::move(out_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw InputError(where_ + ": regular expression, offset " + std::to_string(at_) + ": " + what);
  }
  bool more() const { return at_ < p_.size(); }
  char peek(size_t ahead = 0) const { return at_ + ahead < p_.size() ? p_[at_ + ahead] : '\0'; }
  bool take(std::string_view s) {
    if (p_.substr(at_, s.size()) != s) return false;
    at_ += s.size();
    return true;
  }
  uint32_t take_code() {
    if (!more()) fail("ends too early");
    const Decoded d = decode_utf8(p_, at_);
    at_ += d.length;
    return d.code;
  }
  void emit(std::string_view s) {
    if (out_.parts.back().set >= 0) out_.parts.emplace_back();
    out_.parts.back().text += s;
  }
  void emit_set(CodeSet set) {
    if (ignore_case_) set = with_cases(set);
    if (out_.parts.back().set >= 0) out_.parts.emplace_back();
    const auto it = std::find(out_.sets.begin(), out_.sets.end(), set);
    out_.parts.back().set = static_cast<int>(it - out_.sets.begin());
    if (it == out_.sets.end()) out_.sets.push_back(std::move(set));
    if (out_.sets.size() > kMaxSets) fail("more than 2000 sets of characters");
  }

  void alternatives(int depth) {
    if (depth > kMaxDepth) fail("groups nest deeper than 64");
    const bool ignore_case = ignore_case_, extended = extended_, dot_all = dot_all_;
    while (more() && peek() != ')') {
      if (peek() == '|') {
        ++at_;
        emit("|");
      } else {
        atom(depth);
      }
    }
    ignore_case_ = ignore_case, extended_ = extended, dot_all_ = dot_all;
  }

  void atom(int depth) {
    if (extended_ && (peek() == ' ' || peek() == '\n' || peek() == '\t' || peek() == '\r')) return void(++at_);
    if (extended_ && peek() == '#') {
      while (more() && peek() != '\n') ++at_;
      return;
    }
    if (out_.parts.back().set >= 0) out_.parts.emplace_back();
    const auto begin = std::pair(out_.parts.size() - 1, out_.parts.back().text.size());
    switch (peek()) {
      case '(': group(depth); break;
      case '[': ++at_; emit_set(bracket(0)); break;
      case '.': ++at_; emit_set(dot_all_ ? CodeSet::all() : CodeSet({{'\n', '\n'}}).inverse()); break;
      case '^': ++at_; emit("(?m:^)"); break;
      case '$': ++at_; emit("(?m:$)"); break;
      case '*': case '+': case '?': fail("nothing to repeat");
      case '\\': escape(); break;
      default: {
        const uint32_t code = take_code();
        emit_set(CodeSet({{code, code}}));
      }
    }
    atom_begin_ = begin;
    quantifiers();
  }

  void quantifiers() {
    for (;;) {
      const char c = peek();
      if (c == '*' || c == '+' || c == '?') {
        ++at_;
        emit(std::string(1, c));
        if (peek() == '?' || peek() == '+') emit(std::string(1, p_[at_++]));  // lazy, possessive
      } else if (c == '{' && interval()) {
        if (peek() == '?') ++at_, emit("?");
        if (peek() == '+') {  // not possessive after an interval: the whole repeats
          ++at_;
          wrap_last();
          emit("+");
        }
      } else {
        return;
      }
      if (peek() == '*' || peek() == '+' || peek() == '?') wrap_last();
    }
  }
  // {n}, {n,}, {n,m}, {,m}; anything else is a literal brace.
  bool interval() {
    size_t i = at_ + 1;
    const auto number = [&]() {
      const size_t begin = i;
      while (i < p_.size() && p_[i] >= '0' && p_[i] <= '9') ++i;
      return std::string(p_.substr(begin, i - begin));
    };
    std::string low = number(), high = low;
    if (i < p_.size() && p_[i] == ',') ++i, high = number();
    else if (low.empty()) return false;
    if (i >= p_.size() || p_[i] != '}' || (low.empty() && high.empty())) return false;
    if (low.size() > 5 || high.size() > 5) fail("repeat count is too large");
    const bool open = p_[i - 1] == ',';
    at_ = i + 1;
    emit("{" + (low.empty() ? "0" : low) + (open ? "," : high == low ? "" : "," + high) + "}");
    return true;
  }
  // Puts a group around the latest atom with its quantifier, so that another quantifier applies to the whole.
  void wrap_last() {
    out_.parts[atom_begin_.first].text.insert(atom_begin_.second, "(?:");
    emit(")");
  }

  void group(int depth) {
    ++at_;
    constexpr const char* kPlain[] = {"?:", "?=", "?!", "?<=", "?<!", "?>"};
    bool known = false;
    for (const char* form : kPlain) {
      if (!known && take(form)) known = true, emit(std::string("(") + form);
    }
    const bool ignore_case = ignore_case_, extended = extended_, dot_all = dot_all_;
    if (!known && take("?#")) {
      while (more() && peek() != ')') ++at_;
      if (!take(")")) fail("comment without )");
      return;
    }
    if (!known && peek() == '?') {
      ++at_;
      bool on = true;
      for (; more() && peek() != ':' && peek() != ')'; ++at_) {
        switch (peek()) {
          case '-': on = false; break;
          case 'i': ignore_case_ = on; break;
          case 'x': extended_ = on; break;
          case 'm': dot_all_ = on; break;
          default: fail(std::string("group option '") + peek() + "' is not supported");
        }
      }
      if (take(")")) return;  // holds to the end of the enclosing group, which puts the old state back
      if (!take(":")) fail("group without )");
      emit("(?:");
    } else if (!known) {
      emit("(");
    }
    alternatives(depth + 1);
    if (!take(")")) fail("group without )");
    emit(")");
    ignore_case_ = ignore_case, extended_ = extended, dot_all_ = dot_all;
  }

  // \d \s \w \h and \p after the backslash; false for anything else.
  bool set_escape(CodeSet& out) {
    const char c = peek();
    switch (c) {
      case 'd': case 'D': out = digit_set(); break;
      case 's': case 'S': out = property_set(Property::kSpace); break;
      case 'w': case 'W': out = property_set(Property::kOnigWord); break;
      case 'h': case 'H': out = hex_digit_set(); break;
      case 'p': case 'P': {
        ++at_;
        bool negative = c == 'P';
        if (!take("{")) fail("\\p without {");
        if (take("^")) negative = !negative;
        const size_t end = p_.find('}', at_);
        if (end == std::string_view::npos) fail("\\p without }");
        const std::string name(p_.substr(at_, end - at_));
        if (!named_set(name, out)) fail("\\p{" + name + "}: no such property");
        at_ = end + 1;
        if (negative) out = out.inverse();
        return true;
      }
      default: return false;
    }
    ++at_;
    if (c < 'a') out = out.inverse();
    return true;
  }

  uint32_t hex(size_t max_digits) {
    uint32_t value = 0;
    size_t n = 0;
    for (; n < max_digits && std::isxdigit(static_cast<unsigned char>(peek())); ++n, ++at_) {
      value = value * 16 + static_cast<uint32_t>(peek() <= '9' ? peek() - '0' : (peek() | 32) - 'a' + 10);
    }
    if (n == 0 || value > kLastCodePoint) fail("wrong hexadecimal escape");
    return value;
  }
  // A single code point after the backslash.
  uint32_t code_escape() {
    const char c = peek();
    switch (c) {
      case 'n': ++at_; return '\n';
      case 'r': ++at_; return '\r';
      case 't': ++at_; return '\t';
      case 'f': ++at_; return '\f';
      case 'v': ++at_; return '\v';
      case 'a': ++at_; return 7;
      case 'e': ++at_; return 27;
      case 'u': ++at_; return hex(4);
      case 'x': {
        ++at_;
        if (!take("{")) return hex(2);
        const uint32_t code = hex(8);
        if (!take("}")) fail("\\x{ without }");
        return code;
      }
      case '0': {
        uint32_t value = 0;
        for (int n = 0; n < 3 && peek() >= '0' && peek() <= '7'; ++n, ++at_) value = value * 8 + static_cast<uint32_t>(peek() - '0');
        return value;
      }
      default:
        if (std::isalnum(static_cast<unsigned char>(c))) fail(std::string("\\") + c + " is not supported");
        return take_code();
    }
  }

  void escape() {
    ++at_;
    if (!more()) fail("ends with a backslash");
    CodeSet set;
    const char c = peek();
    if (set_escape(set)) return emit_set(std::move(set));
    switch (c) {
      case 'A': ++at_; return emit("\\A");
      case 'z': ++at_; return emit("\\z");
      case 'Z': ++at_; return emit("\\Z");
      case 'G': ++at_; return emit("\\G");
      case 'b': case 'B': {
        ++at_;
        const CodeSet word = property_set(Property::kOnigWord);
        const char* same = c == 'b' ? "!" : "=";
        const char* other = c == 'b' ? "=" : "!";
        emit("(?:(?<="), emit_set(word), emit(std::string(")(?") + same), emit_set(word);
        emit(")|(?<!"), emit_set(word), emit(std::string(")(?") + other), emit_set(word), emit("))");
        return;
      }
      default: break;
    }
    if (c >= '1' && c <= '9') {
      ++at_;
      return emit(std::string("\\g{") + c + "}");
    }
    const uint32_t code = code_escape();
    emit_set(CodeSet({{code, code}}));
  }

  CodeSet bracket(int depth) {  // after the [
    if (depth > kMaxDepth) fail("sets nest deeper than 64");
    const bool negative = take("^");
    CodeSet whole = CodeSet::all();
    std::vector<CodeRange> ranges;
    bool first = true, has_and = false;
    for (;; first = false) {
      if (!more()) fail("set without ]");
      if (peek() == ']' && !first) {
        ++at_;
        break;
      }
      if (take("&&")) {
        whole = whole & CodeSet(std::move(ranges));
        ranges.clear();
        has_and = true;
        continue;
      }
      CodeSet inner;
      if (take("[:")) {
        const bool inverse = take("^");
        const size_t end = p_.find(":]", at_);
        if (end == std::string_view::npos) fail("[: without :]");
        const std::string name(p_.substr(at_, end - at_));
        if (!posix_set(name, inner)) fail("[:" + name + ":]: no such class");
        at_ = end + 2;
        if (inverse) inner = inner.inverse();
        ranges.insert(ranges.end(), inner.ranges().begin(), inner.ranges().end());
        continue;
      }
      if (peek() == '[') {
        ++at_;
        inner = bracket(depth + 1);
        ranges.insert(ranges.end(), inner.ranges().begin(), inner.ranges().end());
        continue;
      }
      uint32_t low;
      if (!bracket_code(low, inner)) {
        ranges.insert(ranges.end(), inner.ranges().begin(), inner.ranges().end());
        continue;
      }
      uint32_t high = low;
      if (peek() == '-' && peek(1) != ']' && peek(1) != '\0') {
        ++at_;
        if (!bracket_code(high, inner)) {  // [a-\d]: the dash is itself
          ranges.push_back({'-', '-'});
          ranges.insert(ranges.end(), inner.ranges().begin(), inner.ranges().end());
          high = low;
        }
        if (high < low) fail("range is the wrong way round");
      }
      ranges.push_back({low, high});
    }
    CodeSet set = CodeSet(std::move(ranges));
    if (has_and) set = whole & set;
    if (ignore_case_ && negative) set = with_cases(set);
    return negative ? set.inverse() : set;
  }
  // One code point, or false with a set in `inner`.
  bool bracket_code(uint32_t& code, CodeSet& inner) {
    if (peek() != '\\') {
      code = take_code();
      return true;
    }
    ++at_;
    if (!more()) fail("ends with a backslash");
    if (set_escape(inner)) return false;
    code = peek() == 'b' ? (++at_, 8) : code_escape();
    return true;
  }
  std::string_view p_;
  const std::string& where_;
  size_t at_ = 0;
  bool ignore_case_ = false, extended_ = false, dot_all_ = false;
  std::pair<size_t, size_t> atom_begin_;  // part and offset in its text where the latest atom starts
  ParsedPattern out_;
};

}  // namespace

ParsedPattern parse_pattern(std::string_view pattern, const std::string& where) { return Parser(pattern, where).run(); }

}  // namespace weft::text
