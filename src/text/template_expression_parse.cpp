#include <charconv>

#include "text/template_parser.h"

namespace weft::text::jinja {
namespace {
constexpr int kMaxLinks = 100, kMaxHeight = 400;
}  // namespace

NodePtr ExpressionParser::make(Node::Kind kind) const {
  auto n = std::make_unique<Node>();
  n->kind = kind;
  n->line = peek().line;
  return n;
}
NodePtr ExpressionParser::make(Node::Kind kind, NodePtr a, NodePtr b) const {
  NodePtr n = make(kind);
  n->line = a->line;
  put(*n, std::move(a));
  if (b) put(*n, std::move(b));
  return n;
}
void ExpressionParser::put(Node& n, NodePtr child) {
  if (child) n.height = std::max(n.height, child->height + 1);
  if (n.height > kMaxHeight) fail_at(n.line, "nests deeper than 400");
  n.children.push_back(std::move(child));
}
// An expression, or several with commas: a tuple.
NodePtr ExpressionParser::tuple(bool no_condition) {
  NodePtr first = no_condition ? disjunction() : expression();
  if (!is(",")) return first;
  NodePtr n = make(Node::kTuple, std::move(first));
  while (accept(",")) {
    if (peek().kind == Token::kBlockEnd || peek().kind == Token::kPrintEnd || is(")") || is("=")) break;
    put(*n, no_condition ? disjunction() : expression());
  }
  return n;
}
NodePtr ExpressionParser::expression() {
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
NodePtr ExpressionParser::disjunction() {
  NodePtr left = conjunction();
  while (accept_name("or")) left = make(Node::kOr, std::move(left), conjunction());
  return left;
}
NodePtr ExpressionParser::conjunction() {
  NodePtr left = negation();
  while (accept_name("and")) left = make(Node::kAnd, std::move(left), negation());
  return left;
}
NodePtr ExpressionParser::negation() {
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
NodePtr ExpressionParser::binary(std::initializer_list<const char*> ops, NodePtr (ExpressionParser::*next)()) {
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
NodePtr ExpressionParser::sum() { return binary({"+", "-"}, &ExpressionParser::joined); }
NodePtr ExpressionParser::joined() { return binary({"~"}, &ExpressionParser::product); }
NodePtr ExpressionParser::product() { return binary({"*", "//", "/", "%"}, &ExpressionParser::power); }
NodePtr ExpressionParser::power() {
  NodePtr left = unary();
  while (accept("**")) {
    left = make(Node::kBinary, std::move(left), unary());
    left->name = "**";
  }
  return left;
}
NodePtr ExpressionParser::unary() {
  const Deeper deeper(*this);
  if (accept("-")) return make(Node::kNegative, unary_bare());
  if (accept("+")) return make(Node::kPlus, unary_bare());
  return filters(postfix(primary()));
}
NodePtr ExpressionParser::unary_bare() {
  const Deeper deeper(*this);
  if (accept("-")) return make(Node::kNegative, unary_bare());
  if (accept("+")) return make(Node::kPlus, unary_bare());
  return filters(postfix(primary()));
}
NodePtr ExpressionParser::primary() {
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
      if (std::from_chars(t.text.data(), t.text.data() + t.text.size(), i).ec != std::errc()) fail_at(t.line, "number is too large");
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
  fail_at(t.line, "unexpected '" + t.text + "'");
}
NodePtr ExpressionParser::postfix(NodePtr n) {
  for (int links = 0;; ++links) {
    if (links > kMaxLinks) fail_at(peek().line, "chain of more than 100 links");
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
NodePtr ExpressionParser::subscript(NodePtr object) {
  NodePtr n = make(Node::kItem, std::move(object));
  NodePtr part[3];
  int count = 0;
  bool slice = false;
  while (!is("]")) {
    if (accept(":")) {
      slice = true;
      if (++count > 2) fail_at(peek().line, "slice of more than three parts");
    } else {
      if (part[count]) fail_at(peek().line, "want ]");
      part[count] = expression();
    }
  }
  want("]");
  if (!slice && !part[0]) fail_at(n->line, "empty subscript");
  put(*n, std::move(part[0]));
  if (slice) {
    n->kind = Node::kSlice;
    put(*n, std::move(part[1]));
    put(*n, std::move(part[2]));
  }
  return n;
}
void ExpressionParser::arguments(Node& n) {
  want("(");
  while (!is(")")) {
    if (is("*") || is("**")) fail_at(peek().line, "* in a call is not supported");
    std::string name;
    if (peek().kind == Token::kName && peek(1).kind == Token::kOperator && peek(1).text == "=") name = take().text, take();
    n.words.push_back(name);
    put(n, expression());
    if (!accept(",")) break;
  }
  want(")");
}
NodePtr ExpressionParser::filter(NodePtr value) {
  NodePtr n = make(Node::kFilter, std::move(value));
  n->name = want_name();
  if (is("(")) arguments(*n);
  return n;
}
NodePtr ExpressionParser::filters(NodePtr n) {
  for (int links = 0;; ++links) {
    if (links > kMaxLinks) fail_at(peek().line, "chain of more than 100 links");
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

}  // namespace weft::text::jinja
