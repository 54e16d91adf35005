// All pieces of a corpus by number, and which function calls which.
#pragma once
#include <cstdint>
#include <vector>

#include "data/corpus.h"
#include "data/structure/call_graph.h"
#include "data/structure/spool.h"

namespace weft::data {

struct PieceRow {  // a preamble or a function
  int32_t file = 0;         // of the corpus
  int32_t preamble = -1;    // number of its file's preamble; -1 for a preamble itself
  int64_t name_at = 0;      // of its qualified name in the spool
  int64_t at = 0;           // of its tokens in the file of packed tokens
  int32_t tokens = 0, name_bytes = 0, text_bytes = 0, line = 1, offset = 0;
  int32_t level = 0;
  CppPiece::Kind kind = CppPiece::kPreamble;
  std::string_view name(const Spool& s) const { return s.bytes(name_at, name_bytes); }
  std::string_view text(const Spool& s) const { return s.bytes(name_at + name_bytes + 4, text_bytes); }
};
struct FunctionTable {
  std::vector<PieceRow> rows;
  CallGraph calls;  // by row; preambles have none
  struct Counts { int64_t files = 0, functions = 0, not_parsed = 0, with_errors = 0, errors = 0, without_functions = 0, macro_functions = 0, calls = 0, replaced = 0, files_with_replacements = 0; } counts;
  std::vector<std::string> faults;  // the first few files with errors: "FILE: text"
};
// A call goes to the function with that symbol in the caller's own file, else to the first of the corpus. ConfigError when the
// table does not fit into `memory` bytes. paths: of the corpus, by record.
FunctionTable read_functions(const Spool&, const std::vector<std::string>& paths, int64_t memory);
// One unit in `every` is validation: files where there are enough of them, else functions.
bool held_out(const FunctionTable&, int32_t row, HoldOut, int64_t every);
int32_t symbol_id(const std::string& qualified_name);  // low 31 bits of its MD5, the digest read as a big-endian number

}  // namespace weft::data
