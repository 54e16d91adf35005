// weft config show [RECIPE] | diff A [B] | keys | docs
#include <fmt/format.h>

#include "app/all_verbs.h"
#include "app/flags.h"
#include "app/run_config.h"
#include "base/error.h"

namespace weft::app {
namespace {

struct Options {
  std::string what;
  std::vector<std::string> files, assignments;
  bool only_changed = false;
};

void print_changes(RunConfig before, RunConfig after) {
  const auto changes = config::diff(*config::bind(before), *config::bind(after));
  for (const config::Change& c : changes)
    fmt::print("{}: {} -> {}{}\n", c.path, c.before.empty() ? "(absent)" : c.before, c.after.empty() ? "(absent)" : c.after,
               c.live ? "  (may change on resume)" : "");
  if (changes.empty()) fmt::print("no difference\n");
}

int run(const Options& o) {
  const size_t most = o.what == "diff" ? 2 : o.what == "show" ? 1 : 0;
  if (o.files.size() > most) throw ConfigError(fmt::format("config {}: got {} recipes, want at most {}", o.what, o.files.size(), most));
  RunConfig defaults;
  if (o.what == "keys") {
    for (const std::string& key : config::keys(*config::bind(defaults))) fmt::print("{}\n", key);
  } else if (o.what == "docs") {
    fmt::print("{}", settings_markdown());
  } else if (o.what == "diff") {
    if (o.files.empty()) throw ConfigError("config diff: want one recipe (against the defaults) or two");
    const RunConfig before = o.files.size() == 2 ? load_run_config(o.files[0], {}) : defaults;
    print_changes(before, load_run_config(o.files.back(), o.assignments));
  } else if (o.what == "show") {
    RunConfig run = load_run_config(o.files.empty() ? "" : o.files[0], o.assignments);
    if (o.only_changed) print_changes(defaults, run);
    else fmt::print("{}", config::to_toml(*config::bind(run)));
  } else {
    throw ConfigError(fmt::format("config: got '{}', want show, diff, keys or docs", o.what));
  }
  return 0;
}

}  // namespace

Action config_verb(Flags& flags, Common&) {
  auto o = std::make_shared<Options>();
  flags.option("what", o->what, "show: every value. diff: one recipe against the defaults, or two. keys. docs: Markdown.").required();
  flags.option("recipes", o->files, "TOML files.");
  add_set_flag(flags, o->assignments);
  flags.flag("--diff", o->only_changed, "show: only what differs from the defaults.");
  return [o] { return run(*o); };
}

}  // namespace weft::app
