#include "app/prepare_structure.h"

#include <fmt/format.h>

#include "base/log.h"

namespace weft::app {

void add_structure_flags(CLI::App& app, StructureFlags& flags) {
  CLI::Option* structure = app.add_option("--structure", flags.language, "cpp: C and C++ sources to functions with their callees, and five streams beside the tokens (needs libclang).");
  structure->check(CLI::IsMember({"cpp"}));
  app.add_option("--compile-commands", flags.options.compile_commands, "compile_commands.json; else the one of the tree, if there is one.")->check(CLI::ExistingFile)->needs(structure);
  app.add_option("--clang-arg", flags.options.arguments, "For the compiler, behind all others: --clang-arg=-DX=1. May be repeated.")->take_all()->needs(structure);
  app.add_option("--document-tokens", flags.options.document_tokens, "With --structure: the longest document; 0 for no limit.")->check(CLI::NonNegativeNumber)->needs(structure);
  app.add_option("--min-tokens", flags.options.min_tokens, "With --structure: shorter documents are dropped.")->check(CLI::NonNegativeNumber)->needs(structure);
  for (const char* name : {"--key", "--dedup", "--min-bytes", "--max-bytes", "--max-line", "--chat", "--chat-template"})
    if (CLI::Option* other = app.get_option_no_throw(name)) structure->excludes(other);
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
