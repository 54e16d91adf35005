// A template's text as tokens: what stands outside tags, and the words inside them.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace weft::text::jinja {

struct Token {
  enum Kind : uint8_t { kText, kPrintBegin, kPrintEnd, kBlockBegin, kBlockEnd, kName, kString, kInt, kFloat, kOperator, kEnd } kind;
  std::string text;
  int line;
};

[[noreturn]] void fail_at(int line, const std::string& what);  // Error "line N: what"

// White space as trim_blocks and lstrip_blocks want it. The last token is kEnd. Throws Error.
std::vector<Token> lex_template(std::string_view source);

}  // namespace weft::text::jinja
