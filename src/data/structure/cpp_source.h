// What one C or C++ file gives to `prepare --structure cpp`: its preamble and its functions, each byte with its place in the syntax.
//
// Cursors are those that libclang visits below the file's unit, parents first, whose extent is not empty and lies in the file, and
// outside every use of a macro, no deeper than 1000. What is left out is left out with all below it. A byte belongs to the last such cursor that covers it:
//   depth      cursors above it (the unit itself has 0)
//   sibling    place among the kept children of its parent, from 0
//   node       node_types.h of its kind; bytes of comments, macro uses, macro definitions, includes and directives have theirs
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/structure/clang_library.h"
#include "data/structure/node_types.h"

namespace weft::data {

struct SymbolHash {  // of a function's unified symbol resolution string: the same in every file that names it
  uint64_t high = 0, low = 0;
  auto operator<=>(const SymbolHash&) const = default;
};
constexpr uint16_t kAbsent = 0xFFFF;  // no such value: between the parts of a document
struct ByteRun {  // neighbouring bytes with the same values
  uint32_t bytes;
  uint8_t structure;
  uint16_t depth, sibling, node;  // kAbsent or the value
};
struct CppPiece {
  enum Kind : uint8_t { kPreamble = 0, kFunctionPiece = 4, kMethodPiece = 5 } kind = kPreamble;
  std::string name;  // qualified: "weft::data::Rows::line"; the preamble's is empty
  std::string text;  // ends with an empty line, unless there is no text at all
  int32_t line = 1, offset = 0;  // of its first byte: from 1, from 0
  SymbolHash symbol;
  std::vector<ByteRun> runs;       // together as long as the text
  std::vector<SymbolHash> calls;   // in their order, each once; itself left out
};
struct CppSource {
  bool parsed = false;         // off: libclang gave nothing
  int32_t errors = 0;          // diagnostics of severity error or above
  std::string first_error;
  int32_t replaced = 0;         // ill-formed UTF-8 sequences of the file that became U+FFFD
  int32_t macro_functions = 0;  // functions that a macro wrote: they have no text of their own
  std::vector<CppPiece> pieces;  // the preamble, then functions by their place in the file; none when there is no function
};

// `text`: valid UTF-8, what is parsed (the file on the disk is not read). `arguments` as for the compiler; `behind_prefix`: they name a
// precompiled one (shared_prefix.h), whose declarations are then not visited.
CppSource read_cpp(const clang::Library&, const std::string& path, const std::string& text, const std::vector<std::string>& arguments, bool behind_prefix = false);

}  // namespace weft::data
