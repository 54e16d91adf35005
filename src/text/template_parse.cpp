// Template text to a tree. Depth is bounded, so the recursion here and in the runner is too.
#include <algorithm>
#include <charconv>

#include "text/template_ast.h"
#include "text/unicode.h"

namespace weft::text::jinja {
namespace {

constexpr int kMaxDepth = 100, kMaxHeight = 400;
constexpr size_t kMaxSource = 1 << 20;

struct Token {
  enum Kind : uint8_t { kText, kPrintBegin, kPrintEnd, kBlockBegin, kBlockEnd, kName, kString, kInt, kFloat, kOperator, kEnd } kind;
  std::string text;
  int line;
};

[[noreturn]] void fail(int line, const std::string& what) { throw Error{"line " + std::to_string(line) + ": " + what}; }

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
    if (end == std::string::npos) fail(line_, "comment without #}");
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
      if (at_ >= s_.size()) fail(line_, "ends inside a tag");
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
        if (op.size() == 1 && std::string_view("+-*/%~<>=.,:|()[]{}").find(c) == std::string_view::npos) fail(line_, std::string("unexpected character '") + c + "'");
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
      if (at_ >= s_.size()) fail(line, "string without its closing quote");
      char c = s_[at_];
      if (c == quote) break;
      line_ += c == '\n';
      if (c != '\\') {
        out += c;
        continue;
      }
      if (++at_ >= s_.size()) fail(line, "string without its closing quote");
      c = s_[at_];
      const auto code = [&](size_t digits) {
        uint32_t value = 0;
        const char* begin = s_.data() + at_ + 1;
        if (at_ + digits >= s_.size() || std::from_chars(begin, begin + digits, value, 16).ptr != begin + digits || value > kLastCodePoint ||
            (value >= 0xD800 && value < 0xE000)) {
          fail(line_, "wrong escape in a string");
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
    fail(line_, "raw without endraw");
  }

  std::string s_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_start_ = true;
  std::vector<Token> out_;
};

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : t_(std::move(tokens)) {}
  NodePtr run() {
    NodePtr root = body({});
    if (peek().kind != Token::kEnd) fail(peek().line, "unexpected tag '" + peek(1).text + "'");
    return root;
  }

 private:
  struct Deeper {
    explicit Deeper(Parser& p) : depth(p.depth_) {
      if (++depth > kMaxDepth) fail(p.peek().line, "nests deeper than 100");
    }
    ~Deeper() { --depth; }
    int& depth;
  };
  const Token& peek(size_t ahead = 0) const { return t_[std::min(at_ + ahead, t_.size() - 1)]; }
  Token take() { return t_[at_ + 1 < t_.size() ? at_++ : at_]; }
  bool is(std::string_view op) const { return peek().kind == Token::kOperator && peek().text == op; }
  bool is_name(std::string_view name) const { return peek().kind == Token::kName && peek().text == name; }
  bool accept(std::string_view op) { return is(op) ? (take(), true) : false; }
  bool accept_name(std::string_view name) { return is_name(name) ? (take(), true) : false; }
  void want(std::string_view op) {
    if (!accept(op)) fail(peek().line, "got '" + peek().text + "', want '" + std::string(op) + "'");
  }
  std::string want_name() {
    if (peek().kind != Token::kName) fail(peek().line, "got '" + peek().text + "', want a name");
    return take().text;
  }
  void end_block() {
    if (peek().kind != Token::kBlockEnd) fail(peek().line, "got '" + peek().text + "', want %}");
    take();
  }
  NodePtr make(Node::Kind kind) const {
    auto n = std::make_unique<Node>();
    n->kind = kind;
    n->line = peek().line;
    return n;
  }
  NodePtr make(Node::Kind kind, NodePtr a, NodePtr b = nullptr) const {
    NodePtr n = make(kind);
    n->line = a->line;
    put(*n, std::move(a));
    if (b) put(*n, std::move(b));
    return n;
  }
  static void put(Node& n, NodePtr child) {
    if (child) n.height = std::max(n.height, child->height + 1);
    if (n.height > kMaxHeight) fail(n.line, "nests deeper than 400");
    n.children.push_back(std::move(child));
  }
  bool at_end_tag(const std::vector<std::string>& ends) const {
    return peek().kind == Token::kBlockBegin && std::find(ends.begin(), ends.end(), peek(1).text) != ends.end();
  }
  NodePtr body(const std::vector<std::string>& ends) {
    const Deeper deeper(*this);
    NodePtr n = make(Node::kBody);
    while (peek().kind != Token::kEnd && !at_end_tag(ends)) {
      if (peek().kind == Token::kText) {
        NodePtr text = make(Node::kText);
        text->name = take().text;
        put(*n, std::move(text));
      } else if (peek().kind == Token::kPrintBegin) {
        take();
        NodePtr print = make(Node::kPrint, tuple());
        if (peek().kind != Token::kPrintEnd) fail(peek().line, "got '" + peek().text + "', want }}");
        take();
        put(*n, std::move(print));
      } else {
        if (ends.empty() && peek(1).text.starts_with("end")) return n;
        take();
        put(*n, statement());
      }
    }
    return n;
  }
  void close(const char* end) {
    if (!at_end_tag({end})) fail(peek().line, std::string("want {% ") + end + " %}");
    take(), take();
    end_block();
  }

  NodePtr statement() {
    NodePtr n = make(Node::kBody);
    const std::string tag = want_name();
    if (tag == "if") {
      n->kind = Node::kIf;  // condition, body, [condition, body]..., [else body]
      put(*n, expression());
      end_block();
      put(*n, body({"elif", "else", "endif"}));
      while (at_end_tag({"elif"})) {
        take(), take();
        put(*n, expression());
        end_block();
        put(*n, body({"elif", "else", "endif"}));
      }
      if (at_end_tag({"else"})) {
        take(), take();
        end_block();
        put(*n, body({"endif"}));
      }
      close("endif");
    } else if (tag == "for") {
      n->kind = Node::kFor;  // words: targets; children: iterable, filter or null, body, else or null
      do n->words.push_back(want_name());
      while (accept(","));
      if (!accept_name("in")) fail(peek().line, "for without in");
      put(*n, tuple(true));
      put(*n, accept_name("if") ? expression() : nullptr);
      if (is_name("recursive")) fail(peek().line, "recursive loops are not supported");
      end_block();
      ++loops_;
      put(*n, body({"else", "endfor"}));
      --loops_;
      put(*n, nullptr);
      if (at_end_tag({"else"})) {
        take(), take();
        end_block();
        n->children.pop_back();
        put(*n, body({"endfor"}));
      }
      close("endfor");
    } else if (tag == "set") {
      n->kind = Node::kSet;  // words: targets, or name is "space.attribute"; children: value
      n->words.push_back(want_name());
      if (accept(".")) {
        n->name = want_name();
      } else {
        while (accept(",")) n->words.push_back(want_name());
      }
      if (accept("=")) {
        put(*n, tuple());
        end_block();
      } else {  // the body's text, through filters
        n->kind = Node::kSetBlock;
        NodePtr value = make(Node::kLiteral);
        while (accept("|")) value = filter(std::move(value));
        end_block();
        put(*n, body({"endset"}));
        put(*n, std::move(value));
        close("endset");
      }
    } else if (tag == "macro") {
      n->kind = Node::kMacro;  // words: parameters; children: body, then a default or null for each
      n->name = want_name();
      want("(");
      Nodes defaults;
      while (!is(")")) {
        n->words.push_back(want_name());
        defaults.push_back(accept("=") ? expression() : nullptr);
        if (!accept(",")) break;
      }
      want(")");
      end_block();
      const int loops = std::exchange(loops_, 0);
      put(*n, body({"endmacro"}));
      loops_ = loops;
      for (NodePtr& d : defaults) put(*n, std::move(d));
      close("endmacro");
    } else if (tag == "filter") {
      n->kind = Node::kFilterBlock;
      NodePtr value = make(Node::kLiteral);
      value = filter(std::move(value));
      while (accept("|")) value = filter(std::move(value));
      end_block();
      put(*n, body({"endfilter"}));
      put(*n, std::move(value));
      close("endfilter");
    } else if (tag == "generation") {
      n->kind = Node::kGeneration;
      end_block();
      put(*n, body({"endgeneration"}));
      close("endgeneration");
    } else if (tag == "with") {
      n->kind = Node::kWith;  // words and leading children: names and values; then the body
      while (peek().kind == Token::kName) {
        n->words.push_back(want_name());
        want("=");
        put(*n, expression());
        if (!accept(",")) break;
      }
      end_block();
      put(*n, body({"endwith"}));
      close("endwith");
    } else if (tag == "break" || tag == "continue") {
      if (loops_ == 0) fail(n->line, tag + " outside a loop");
      n->kind = tag == "break" ? Node::kBreak : Node::kContinue;
      end_block();
    } else {
      fail(n->line, "tag '" + tag + "' is not supported");
    }
    return n;
  }

  // An expression, or several with commas: a tuple.
  NodePtr tuple(bool no_condition = false) {
    NodePtr first = no_condition ? disjunction() : expression();
    if (!is(",")) return first;
    NodePtr n = make(Node::kTuple, std::move(first));
    while (accept(",")) {
      if (peek().kind == Token::kBlockEnd || peek().kind == Token::kPrintEnd || is(")") || is("=")) break;
      put(*n, no_condition ? disjunction() : expression());
    }
    return n;
  }
  NodePtr expression() {
    const Deeper deeper(*this);
    NodePtr value = disjunction();
    while (accept_name("if")) {  // children: value, condition, other or null
      NodePtr condition = disjunction();
      NodePtr n = make(Node::kIfElse, std::move(value), std::move(condition));
      put(*n, accept_name("else") ? expression() : nullptr);
      value = std::move(n);
    }
    return value;
  }
  NodePtr disjunction() {
    NodePtr left = conjunction();
    while (accept_name("or")) left = make(Node::kOr, std::move(left), conjunction());
    return left;
  }
  NodePtr conjunction() {
    NodePtr left = negation();
    while (accept_name("and")) left = make(Node::kAnd, std::move(left), negation());
    return left;
  }
  NodePtr negation() {
    const Deeper deeper(*this);
    if (accept_name("not")) return make(Node::kNot, negation());
    NodePtr left = sum();
    NodePtr n;
    for (;;) {
      std::string op;
      for (const char* o : {"==", "!=", "<=", ">=", "<", ">"}) {
        if (op.empty() && accept(o)) op = o;
      }
      if (op.empty() && accept_name("in")) op = "in";
      if (op.empty() && is_name("not") && peek(1).text == "in") take(), take(), op = "not in";
      if (op.empty()) return n ? std::move(n) : std::move(left);
      if (!n) n = make(Node::kCompare, std::move(left));
      n->words.push_back(op);
      put(*n, sum());
    }
  }
  NodePtr binary(std::initializer_list<const char*> ops, NodePtr (Parser::*next)()) {
    NodePtr left = (this->*next)();
    for (;;) {
      const char* found = nullptr;
      for (const char* o : ops) {
        if (found == nullptr && accept(o)) found = o;
      }
      if (found == nullptr) return left;
      left = make(Node::kBinary, std::move(left), (this->*next)());
      left->name = found;
    }
  }
  NodePtr sum() { return binary({"+", "-"}, &Parser::joined); }
  NodePtr joined() { return binary({"~"}, &Parser::product); }
  NodePtr product() { return binary({"*", "//", "/", "%"}, &Parser::power); }
  NodePtr power() {
    NodePtr left = unary();
    while (accept("**")) {
      left = make(Node::kBinary, std::move(left), unary());
      left->name = "**";
    }
    return left;
  }
  NodePtr unary() {
    const Deeper deeper(*this);
    if (accept("-")) return make(Node::kNegative, unary_bare());
    if (accept("+")) return make(Node::kPlus, unary_bare());
    return filters(postfix(primary()));
  }
  NodePtr unary_bare() {
    const Deeper deeper(*this);
    if (accept("-")) return make(Node::kNegative, unary_bare());
    if (accept("+")) return make(Node::kPlus, unary_bare());
    return filters(postfix(primary()));
  }
  NodePtr primary() {
    NodePtr n = make(Node::kLiteral);
    const Token t = take();
    switch (t.kind) {
      case Token::kString: {
        std::string text = t.text;
        while (peek().kind == Token::kString) text += take().text;  // neighbours are one string
        n->value = Value::of(std::move(text));
        return n;
      }
      case Token::kInt: {
        int64_t i = 0;
        if (std::from_chars(t.text.data(), t.text.data() + t.text.size(), i).ec != std::errc()) fail(t.line, "number is too large");
        n->value = Value::of(i);
        return n;
      }
      case Token::kFloat: n->value = Value::of(std::strtod(t.text.c_str(), nullptr)); return n;
      case Token::kName:
        if (t.text == "true" || t.text == "True") n->value = Value::of(true);
        else if (t.text == "false" || t.text == "False") n->value = Value::of(false);
        else if (t.text == "none" || t.text == "None") n->value = Value::none();
        else n->kind = Node::kName, n->name = t.text;
        return n;
      default: break;
    }
    if (t.text == "(") {
      n->kind = Node::kTuple;
      if (accept(")")) return n;
      NodePtr inner = tuple();
      want(")");
      return inner;
    }
    if (t.text == "[") {
      n->kind = Node::kList;
      while (!is("]")) {
        put(*n, expression());
        if (!accept(",")) break;
      }
      want("]");
      return n;
    }
    if (t.text == "{") {
      n->kind = Node::kDict;
      while (!is("}")) {
        put(*n, expression());
        want(":");
        put(*n, expression());
        if (!accept(",")) break;
      }
      want("}");
      return n;
    }
    fail(t.line, "unexpected '" + t.text + "'");
  }
  NodePtr postfix(NodePtr n) {
    for (int links = 0;; ++links) {
      if (links > kMaxDepth) fail(peek().line, "chain of more than 100 links");
      if (accept(".")) {
        n = make(Node::kAttribute, std::move(n));
        n->name = peek().kind == Token::kInt ? take().text : want_name();
      } else if (accept("[")) {
        n = subscript(std::move(n));
      } else if (is("(")) {
        n = make(Node::kCall, std::move(n));
        arguments(*n);
      } else {
        return n;
      }
    }
  }
  NodePtr subscript(NodePtr object) {
    NodePtr n = make(Node::kItem, std::move(object));
    NodePtr part[3];
    int count = 0;
    bool slice = false;
    while (!is("]")) {
      if (accept(":")) {
        slice = true;
        if (++count > 2) fail(peek().line, "slice of more than three parts");
      } else {
        if (part[count]) fail(peek().line, "want ]");
        part[count] = expression();
      }
    }
    want("]");
    if (!slice && !part[0]) fail(n->line, "empty subscript");
    put(*n, std::move(part[0]));
    if (slice) {
      n->kind = Node::kSlice;
      put(*n, std::move(part[1]));
      put(*n, std::move(part[2]));
    }
    return n;
  }
  void arguments(Node& n) {
    want("(");
    while (!is(")")) {
      if (is("*") || is("**")) fail(peek().line, "* in a call is not supported");
      std::string name;
      if (peek().kind == Token::kName && peek(1).kind == Token::kOperator && peek(1).text == "=") name = take().text, take();
      n.words.push_back(name);
      put(n, expression());
      if (!accept(",")) break;
    }
    want(")");
  }
  NodePtr filter(NodePtr value) {
    NodePtr n = make(Node::kFilter, std::move(value));
    n->name = want_name();
    if (is("(")) arguments(*n);
    return n;
  }
  NodePtr filters(NodePtr n) {
    for (int links = 0;; ++links) {
      if (links > kMaxDepth) fail(peek().line, "chain of more than 100 links");
      if (accept("|")) {
        n = filter(std::move(n));
      } else if (accept_name("is")) {
        const bool negated = accept_name("not");
        n = make(Node::kTest, std::move(n));
        n->negated = negated;
        n->name = want_name();
        if (is("(")) {
          arguments(*n);
        } else if (peek().kind == Token::kString || peek().kind == Token::kInt || peek().kind == Token::kFloat || is("[") || is("{") ||
                   (peek().kind == Token::kName && !is_name("and") && !is_name("or") && !is_name("else") && !is_name("is") && !is_name("if") && !is_name("in") && !is_name("not"))) {
          n->words.push_back("");
          put(*n, postfix(primary()));
        }
      } else {
        return n;
      }
    }
  }

  std::vector<Token> t_;
  size_t at_ = 0;
  int depth_ = 0, loops_ = 0;
};

}  // namespace

NodePtr parse_template(std::string_view source) {
  if (source.size() > kMaxSource) throw Error{"got " + std::to_string(source.size()) + " bytes, want at most 1 MiB"};
  if (valid_utf8_prefix(source) != source.size()) throw Error{"is not UTF-8"};
  return Parser(Lexer(source).run()).run();
}

}  // namespace weft::text::jinja
