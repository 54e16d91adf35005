#include "app/prepare_structure.h"

#include <fmt/format.h>

#include "app/flags.h"
#include "base/log.h"

namespace weft::app {

void add_structure_flags(Flags& flags, StructureFlags& out) {
  Flag structure = flags.option("--structure", out.language, "cpp: C and C++ sources to functions with their callees, and five streams beside the tokens (needs libclang). More JSON keys: functions calls files files_without_functions files_with_errors files_not_parsed function_tokens duplicates libclang.");
  structure.one_of({"cpp"}).part("structure");
  flags.option("--compile-commands", out.options.compile_commands, "compile_commands.json; else the one of the tree, if there is one.").existing_file().needs(structure).part("structure");
  flags.option("--clang-arg", out.options.arguments, "For the compiler, behind all others: --clang-arg=-DX=1. May be repeated.").one_each().needs(structure).part("structure");
  flags.option("--document-tokens", out.options.document_tokens, "The longest document; 0 for no limit.").non_negative().needs(structure).part("structure");
  flags.option("--min-tokens", out.options.min_tokens, "Shorter documents are dropped.").non_negative().needs(structure).part("structure");
  structure.excludes({"--key", "--dedup", "--min-bytes", "--max-bytes", "--max-line", "--max-symbols", "--max-repeats", "--keep", "--drop", "--chat", "--chat-template"});
}

data::PrepareReport prepare_structure(const data::PrepareOptions& options, const StructureFlags& flags, const data::TokenizerMaker& maker, Json& figures) {
  const data::StructureReport r = data::prepare_structure(options, flags.options, maker);
  log::end_progress();
  const auto& f = r.found;
  fmt::print("{}; compile commands: {}\n", r.libclang, r.compile_commands.empty() ? "none, defaults" : r.compile_commands);
  fmt::print("{} functions and {} calls among them in {} files: {} without a function, {} with errors, {} not parsed\n", f.functions, f.calls, f.files, f.without_functions, f.with_errors, f.not_parsed);
  for (const std::string& fault : r.faults) fmt::print("  {}\n", fault);
  fmt::print("{} tokens in functions and preambles; {} functions written by macros are left out; {} callees beyond the longest document, {} in the other split; {} documents cut\n", r.function_tokens,
             f.macro_functions, r.left_out, r.held_back, r.cut);
  figures["functions"] = f.functions, figures["calls"] = f.calls, figures["files"] = f.files, figures["files_without_functions"] = f.without_functions;
  figures["files_with_errors"] = f.with_errors, figures["files_not_parsed"] = f.not_parsed, figures["function_tokens"] = r.function_tokens;
  figures["duplicates"] = r.prepare.duplicates, figures["libclang"] = r.libclang;
  return r.prepare;
}

}  // namespace weft::app
