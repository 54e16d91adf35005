#include "app/run_config.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/text.h"
#include "models/build.h"

namespace weft::app {

RunConfig load_run_config(const std::string& recipe, const std::vector<std::string>& assignments, const std::string& preset) {
  RunConfig run;
  if (!preset.empty()) run.model = models::preset(preset);
  const auto node = config::bind(run);
  std::vector<Problem> problems;
  if (!recipe.empty()) config::read_toml_file(*node, recipe, problems);
  for (const std::string& a : assignments) config::set(*node, a, problems);
  config::resolve(*node, problems);
  config::throw_if_any(problems, recipe.empty() ? "settings" : recipe);
  return run;
}

std::string settings_help(const std::string& prefix) {
  RunConfig run;
  const auto node = config::bind(run);
  const std::string text = config::help(*node, prefix);
  if (!text.empty()) return text;
  const std::string near = nearest(prefix, config::keys(*node));
  throw ConfigError(fmt::format("help: no setting begins with '{}'{}", prefix, near.empty() ? "" : ": did you mean " + near + "?"));
}

std::string settings_markdown() {
  RunConfig run;
  return "# Settings\n\nEvery key of a recipe (TOML) and of `--set KEY=VALUE`. Made by `weft config docs`; a test keeps it fresh.\n\n" +
         config::markdown(*config::bind(run));
}

}  // namespace weft::app
