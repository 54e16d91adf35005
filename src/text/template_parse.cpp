// Statements of a template: tokens to a tree. Depth is bounded, so the recursion here and in the runner is too.
#include "text/template_parser.h"
#include "text/unicode.h"

namespace weft::text::jinja {
namespace {

constexpr size_t kMaxSource = 1 << 20;

class Parser : ExpressionParser {
 public:
  explicit Parser(std::vector<Token> tokens) : ExpressionParser(std::move(tokens)) {}
  NodePtr run() {
    NodePtr root = body({});
    if (peek().kind != Token::kEnd) fail_at(peek().line, "unexpected tag '" + peek(1).text + "'");
    return root;
  }

 private:
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
        if (peek().kind != Token::kPrintEnd) fail_at(peek().line, "got '" + peek().text + "', want }}");
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
    if (!at_end_tag({end})) fail_at(peek().line, std::string("want {% ") + end + " %}");
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
      if (!accept_name("in")) fail_at(peek().line, "for without in");
      put(*n, tuple(true));
      put(*n, accept_name("if") ? expression() : nullptr);
      if (is_name("recursive")) fail_at(peek().line, "recursive loops are not supported");
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
      if (loops_ == 0) fail_at(n->line, tag + " outside a loop");
      n->kind = tag == "break" ? Node::kBreak : Node::kContinue;
      end_block();
    } else {
      fail_at(n->line, "tag '" + tag + "' is not supported");
    }
    return n;
  }

  int loops_ = 0;
};

}  // namespace

NodePtr parse_template(std::string_view source) {
  if (source.size() > kMaxSource) throw Error{"got " + std::to_string(source.size()) + " bytes, want at most 1 MiB"};
  if (valid_utf8_prefix(source) != source.size()) throw Error{"is not UTF-8"};
  return Parser(lex_template(source)).run();
}

}  // namespace weft::text::jinja
