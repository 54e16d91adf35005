// weft help [VERB [PART] | settings [PREFIX] | exit-codes]
#include <fmt/format.h>

#include "app/all_verbs.h"
#include "app/exit_codes.h"
#include "app/flags.h"
#include "app/run_config.h"

namespace weft::app {
namespace {

void print_verbs() {
  fmt::print("weft: trains, serves and post-trains language models in one binary\n\nusage: weft VERB [FLAGS]\n\n");
  for (const Verb& v : verbs()) fmt::print("  {:<11} {}\n", v.name, v.line);
  fmt::print("\nweft help VERB, weft help settings, weft help exit-codes say more.\n");
}

void print_exit_codes() {
  fmt::print("  {:>4}  {:<18} {}\n  {:>4}  {:<18} {}\n  {:>4}  {:<18} {}\n", "code", "error", "meaning", 0, "", "done", 1, "",
             "a check that was asked for failed (bench, inspect)");
  for (const ExitCode& row : exit_codes()) fmt::print("  {:>4}  {:<18} {}\n", row.code, row.error, row.meaning);
}

}  // namespace

Action help(Flags& flags, Common&) {
  auto words = std::make_shared<std::vector<std::string>>();
  flags.option("what", *words, "A verb, and a part of it; or settings [PREFIX]; or exit-codes.").words(0, 2);
  return [words] {
    if (words->empty()) print_verbs();
    else if ((*words)[0] == "exit-codes") print_exit_codes();
    else if ((*words)[0] == "settings") fmt::print("{}", settings_help(words->size() > 1 ? (*words)[1] : ""));
    else fmt::print("{}", help_text((*words)[0], words->size() > 1 ? (*words)[1] : ""));
    return 0;
  };
}

}  // namespace weft::app
