#include "text/template_lex.h"

#include <algorithm>
#include <charconv>

#include "text/template_value.h"
#include "text/unicode.h"

namespace weft::text::jinja {

void fail_at(int line, const std::string& what) { throw Error{"line " + std::to_string(line) + ": " + what}; }

namespace {

class Lexer {
 public:
  explicit Lexer(std::string_view source) {
    for (size_t i = 0; i < source.size(); ++i) {  // one kind of line end; the last one is not part of the text
      if (source[i] == '\r') {
        if (i + 1 < source.size() && source[i + 1] == '\n') continue;
        s_ += '\n';
      } else {
        s_ += source[i];
      }
    }
    if (s_.ends_with('\n')) s_.pop_back();
  }

  std::vector<Token> run() {
    while (at_ < s_.size()) {
      const size_t open = find_open();
      std::string text = s_.substr(at_, open - at_);
      const char kind = open < s_.size() ? s_[open + 1] : '\0';
      const char sign = open + 2 < s_.size() ? s_[open + 2] : '\0';
      if (kind != '\0' && sign == '-') {
        while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
      } else if ((kind == '%' || kind == '#') && sign != '+') {  // lstrip_blocks: white space between the line's start and the block
        size_t cut = text.size();
        while (cut > 0 && (text[cut - 1] == ' ' || text[cut - 1] == '\t' || text[cut - 1] == '\v' || text[cut - 1] == '\f')) --cut;
        if (cut == 0 ? line_start_ : text[cut - 1] == '\n') text.resize(cut);
      }
      if (!text.empty()) out_.push_back({Token::kText, std::move(text), line_});
      for (size_t i = at_; i < open; ++i) line_ += s_[i] == '\n';
      at_ = open;
      if (kind == '\0') break;
      at_ += 2;
      if (kind == '#') comment();
      else inside(kind);
    }
    out_.push_back({Token::kEnd, "", line_});
    return std::move(out_);
  }

 private:
  size_t find_open() const {
    for (size_t i = at_; i + 1 < s_.size(); ++i) {
      if (s_[i] == '{' && (s_[i + 1] == '{' || s_[i + 1] == '%' || s_[i + 1] == '#')) return i;
    }
    return s_.size();
  }
  // Behind a closing mark: `-` takes all white space, a block takes one line end.
  void after(bool minus, bool plus, bool block) {
    if (minus) {
      while (at_ < s_.size() && std::isspace(static_cast<unsigned char>(s_[at_]))) line_ += s_[at_++] == '\n';
    } else if (block && !plus && at_ < s_.size() && s_[at_] == '\n') {
      ++at_, ++line_;
    }
    line_start_ = at_ == 0 || s_[at_ - 1] == '\n';
  }
  void comment() {
    const size_t end = s_.find("#}", at_);
    if (end == std::string::npos) fail_at(line_, "comment without #}");
    for (size_t i = at_; i < end; ++i) line_ += s_[i] == '\n';
    const char before = end > at_ ? s_[end - 1] : '\0';
    at_ = end + 2;
    after(before == '-', before == '+', true);
  }
  void inside(char kind) {
    const bool block = kind == '%';
    out_.push_back({block ? Token::kBlockBegin : Token::kPrintBegin, "", line_});
    if (at_ < s_.size() && (s_[at_] == '-' || s_[at_] == '+')) ++at_;
    const std::string close = block ? "%}" : "}}";
    std::string nesting;
    for (;;) {
      while (at_ < s_.size() && std::isspace(static_cast<unsigned char>(s_[at_]))) line_ += s_[at_++] == '\n';
      if (at_ >= s_.size()) fail_at(line_, "ends inside a tag");
      const std::string_view rest = std::string_view(s_).substr(at_);
      if (nesting.empty()) {
        const bool signed_close = (rest[0] == '-' || (rest[0] == '+' && block)) && rest.substr(1).starts_with(close);
        if (signed_close || rest.starts_with(close)) {
          out_.push_back({block ? Token::kBlockEnd : Token::kPrintEnd, "", line_});
          at_ += signed_close ? 3 : 2;
          if (block && out_.size() >= 2 && is_raw()) return raw(signed_close && rest[0] == '-');
          return after(signed_close && rest[0] == '-', signed_close && rest[0] == '+', block);
        }
      }
      const char c = rest[0];
      if (std::isalpha(static_cast<unsigned char>(c)) || c == '_') {
        size_t n = 1;
        while (n < rest.size() && (std::isalnum(static_cast<unsigned char>(rest[n])) || rest[n] == '_')) ++n;
        out_.push_back({Token::kName, std::string(rest.substr(0, n)), line_});
        at_ += n;
      } else if (std::isdigit(static_cast<unsigned char>(c))) {
        size_t n = 1;
        bool real = false;
        while (n < rest.size() && (std::isdigit(static_cast<unsigned char>(rest[n])) || rest[n] == '_' ||
                                   (rest[n] == '.' && !real && n + 1 < rest.size() && std::isdigit(static_cast<unsigned char>(rest[n + 1]))))) {
          real |= rest[n++] == '.';
        }
        if (n + 1 < rest.size() && (rest[n] | 32) == 'e') {
          const size_t digits = n + 1 + (rest[n + 1] == '-' || rest[n + 1] == '+');
          if (digits < rest.size() && std::isdigit(static_cast<unsigned char>(rest[digits]))) {
            real = true;
            for (n = digits; n < rest.size() && std::isdigit(static_cast<unsigned char>(rest[n]));) ++n;
          }
        }
        std::string number(rest.substr(0, n));
        number.erase(std::remove(number.begin(), number.end(), '_'), number.end());
        out_.push_back({real ? Token::kFloat : Token::kInt, std::move(number), line_});
        at_ += n;
      } else if (c == '"' || c == '\'') {
        string(c);
      } else {
        constexpr const char* two[] = {"==", "!=", "<=", ">=", "//", "**"};
        std::string op(1, c);
        for (const char* t : two) {
          if (rest.starts_with(t)) op = t;
        }
        if (op.size() == 1 && std::string_view("+-*/%~<>=.,:|()[]{}").find(c) == std::string_view::npos) fail_at(line_, std::string("unexpected character '") + c + "'");
        if (c == '(' || c == '[' || c == '{') nesting += c;
        if ((c == ')' || c == ']' || c == '}') && !nesting.empty()) nesting.pop_back();
        out_.push_back({Token::kOperator, op, line_});
        at_ += op.size();
      }
    }
  }
  void string(char quote) {
    std::string out;
    const int line = line_;
    for (++at_;; ++at_) {
      if (at_ >= s_.size()) fail_at(line, "string without its closing quote");
      char c = s_[at_];
      if (c == quote) break;
      line_ += c == '\n';
      if (c != '\\') {
        out += c;
        continue;
      }
      if (++at_ >= s_.size()) fail_at(line, "string without its closing quote");
      c = s_[at_];
      const auto code = [&](size_t digits) {
        uint32_t value = 0;
        const char* begin = s_.data() + at_ + 1;
        if (at_ + digits >= s_.size() || std::from_chars(begin, begin + digits, value, 16).ptr != begin + digits || value > kLastCodePoint ||
            (value >= 0xD800 && value < 0xE000)) {
          fail_at(line_, "wrong escape in a string");
        }
        append_utf8(out, value);
        at_ += digits;
      };
      switch (c) {
        case 'n': out += '\n'; break;
        case 't': out += '\t'; break;
        case 'r': out += '\r'; break;
        case 'b': out += '\b'; break;
        case 'f': out += '\f'; break;
        case 'v': out += '\v'; break;
        case 'a': out += '\a'; break;
        case '0': out += '\0'; break;
        case '\n': break;
        case '\\': case '\'': case '"': out += c; break;
        case 'x': code(2); break;
        case 'u': code(4); break;
        case 'U': code(8); break;
        default: out += '\\', out += c;
      }
    }
    ++at_;
    out_.push_back({Token::kString, std::move(out), line});
  }
  bool is_raw() const {
    const size_t n = out_.size();
    return n >= 3 && out_[n - 2].kind == Token::kName && out_[n - 2].text == "raw" && out_[n - 3].kind == Token::kBlockBegin;
  }
  void raw(bool minus) {
    out_.resize(out_.size() - 3);
    after(minus, false, true);
    for (size_t open = at_; (open = s_.find("{%", open)) != std::string::npos; ++open) {
      size_t i = open + 2;
      const bool before = i < s_.size() && s_[i] == '-';
      if (i < s_.size() && (s_[i] == '-' || s_[i] == '+')) ++i;
      while (i < s_.size() && std::isspace(static_cast<unsigned char>(s_[i]))) ++i;
      if (s_.compare(i, 6, "endraw") != 0) continue;
      i += 6;
      while (i < s_.size() && std::isspace(static_cast<unsigned char>(s_[i]))) ++i;
      const bool behind = i < s_.size() && s_[i] == '-';
      if (behind) ++i;
      if (s_.compare(i, 2, "%}") != 0) continue;
      std::string text = s_.substr(at_, open - at_);
      while (before && !text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
      out_.push_back({Token::kText, text, line_});
      line_ += static_cast<int>(std::count(text.begin(), text.end(), '\n'));
      at_ = i + 2;
      return after(behind, false, true);
    }
    fail_at(line_, "raw without endraw");
  }

  std::string s_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_start_ = true;
  std::vector<Token> out_;
};

}  // namespace

std::vector<Token> lex_template(std::string_view source) { return Lexer(source).run(); }

}  // namespace weft::text::jinja
