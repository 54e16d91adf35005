// `weft prepare --structure cpp`: C and C++ sources to documents with the five side streams (side_streams.h).
// A document is the preamble of a file, the functions that the root calls, directly and at most `call_levels` calls away, those of
// low level first, and the root: a function with a body. docs/structure.md has the whole description.
// Writes what prepare.h names, and for train and val: PREFIX.idx.json with its streams, PREFIX.documents.jsonl.
#pragma once
#include "data/prepare.h"
#include "data/structure/function_table.h"

namespace weft::data {

struct StructureOptions {
  std::string compile_commands;          // empty: looked for in the inputs
  std::vector<std::string> arguments;    // for the compiler, behind all others
  int64_t document_tokens = 4096;        // 0: no limit. A longer root is cut; callees that do not fit are left out
  int64_t min_tokens = 20;               // shorter documents are dropped
  int call_levels = 5;
};
struct StructureReport {
  PrepareReport prepare;                 // filtered: shorter than min_tokens; documents_with_replacements: files
  FunctionTable::Counts found;
  std::vector<std::string> faults;
  int64_t left_out = 0, cut = 0, held_back = 0;  // callees beyond the limit; documents cut at it; callees that are in the other split
  int64_t function_tokens = 0;           // of all functions and preambles, each once
  std::string libclang, compile_commands;
};
// Of PrepareOptions, key, dedup (always on), max_line_bytes and all filters have no meaning here. Errors as prepare();
// UnavailableError without libclang, InputError when no function is found.
StructureReport prepare_structure(const PrepareOptions& options, const StructureOptions& structure, const TokenizerMaker& maker);

}  // namespace weft::data
