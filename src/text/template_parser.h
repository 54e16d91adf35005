// Expressions of a template: tokens to a tree. The parser of statements builds on it.
#pragma once
#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/template_ast.h"
#include "text/template_lex.h"

namespace weft::text::jinja {

// Walks the tokens.
class TokenCursor {
 protected:
  explicit TokenCursor(std::vector<Token> tokens) : t_(std::move(tokens)) {}
  const Token& peek(size_t ahead = 0) const { return t_[std::min(at_ + ahead, t_.size() - 1)]; }
  Token take() { return t_[at_ + 1 < t_.size() ? at_++ : at_]; }
  bool is(std::string_view op) const { return peek().kind == Token::kOperator && peek().text == op; }
  bool is_name(std::string_view name) const { return peek().kind == Token::kName && peek().text == name; }
  bool accept(std::string_view op) { return is(op) ? (take(), true) : false; }
  bool accept_name(std::string_view name) { return is_name(name) ? (take(), true) : false; }
  void want(std::string_view op) {
    if (!accept(op)) fail_at(peek().line, "got '" + peek().text + "', want '" + std::string(op) + "'");
  }
  std::string want_name() {
    if (peek().kind != Token::kName) fail_at(peek().line, "got '" + peek().text + "', want a name");
    return take().text;
  }
  void end_block() {
    if (peek().kind != Token::kBlockEnd) fail_at(peek().line, "got '" + peek().text + "', want %}");
    take();
  }

 private:
  std::vector<Token> t_;
  size_t at_ = 0;
};

class ExpressionParser : protected TokenCursor {
 protected:
  using TokenCursor::TokenCursor;
  struct Deeper {
    explicit Deeper(ExpressionParser& p) : depth(p.depth_) {
      if (++depth > 100) fail_at(p.peek().line, "nests deeper than 100");
    }
    ~Deeper() { --depth; }
    int& depth;
  };
  NodePtr make(Node::Kind kind) const;
  NodePtr make(Node::Kind kind, NodePtr a, NodePtr b = nullptr) const;
  static void put(Node& n, NodePtr child);
  NodePtr tuple(bool no_condition = false);
  NodePtr expression();
  NodePtr disjunction();
  NodePtr conjunction();
  NodePtr negation();
  NodePtr binary(std::initializer_list<const char*> ops, NodePtr (ExpressionParser::*next)());
  NodePtr sum();
  NodePtr joined();
  NodePtr product();
  NodePtr power();
  NodePtr unary();
  NodePtr unary_bare();
  NodePtr primary();
  NodePtr postfix(NodePtr n);
  NodePtr subscript(NodePtr object);
  void arguments(Node& n);
  NodePtr filter(NodePtr value);
  NodePtr filters(NodePtr n);

 private:
  int depth_ = 0;
};

}  // namespace weft::text::jinja
