// What a template is parsed into.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/template_value.h"

namespace weft::text::jinja {

struct Node;
using NodePtr = std::unique_ptr<Node>;
using Nodes = std::vector<NodePtr>;

struct Node {
  enum Kind : uint8_t {
    // expressions
    kLiteral, kName, kList, kTuple, kDict, kAttribute, kItem, kSlice, kCall, kFilter, kTest, kNot, kNegative, kPlus, kAnd, kOr, kIfElse,
    kBinary,   // name: the operator
    kCompare,  // children: operands; words: the operators between them
    // statements
    kText, kPrint, kIf, kFor, kSet, kSetBlock, kMacro, kFilterBlock, kGeneration, kBreak, kContinue, kBody, kWith
  } kind;
  int line = 0;
  int height = 1;                    // of the tree below: bounded
  std::string name;                  // of a variable, attribute, filter, test, operator, macro; kText: the text
  Value value;                       // kLiteral
  Nodes children;                    // see parse; kSlice: object, start, stop, step (null when left out)
  std::vector<std::string> words;    // kCall, kFilter, kTest: a name for each argument ("" by place); kFor, kMacro: names
  bool negated = false;              // kTest
};

struct Macro {
  const Node* node;
};

// Throws Error with text "line N: what".
NodePtr parse_template(std::string_view source);

}  // namespace weft::text::jinja
