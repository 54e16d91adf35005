// Every setting of a run in one struct: what a recipe holds, what `weft config` shows and docs/config.md lists.
// Each part is declared by its own folder; train/run_config.h gathers them.
#pragma once
#include <string>
#include <vector>

#include "train/run_config.h"

namespace weft::app {

using train::RunConfig;

// Defaults (the model's from a preset, "" for none), then the recipe ("" for none), then --set; checked. ConfigError with every
// problem, InputError for a missing file.
RunConfig load_run_config(const std::string& recipe, const std::vector<std::string>& assignments, const std::string& preset = "");
std::string settings_help(const std::string& prefix);  // ConfigError when no setting begins with it
std::string settings_markdown();                       // docs/config.md

}  // namespace weft::app
