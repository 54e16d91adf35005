// Every setting of a run in one struct: what a recipe holds, what `weft config` shows and docs/config.md lists.
// Each part is declared by its own folder; this only gathers them.
#pragma once
#include <string>
#include <vector>

#include "base/config.h"
#include "dist/mesh.h"

namespace weft::app {

struct RunConfig {
  MeshConfig parallel;

  template <class Self, class Visitor>
  static void fields(Self& self, Visitor& visit) {
    visit("parallel", self.parallel, "How the run is cut over ranks.");
  }
};

// Defaults, then the recipe ("" for none), then --set; checked. ConfigError with every problem, InputError for a missing file.
RunConfig load_run_config(const std::string& recipe, const std::vector<std::string>& assignments);
std::string settings_help(const std::string& prefix);  // ConfigError when no setting begins with it
std::string settings_markdown();                       // docs/config.md

}  // namespace weft::app
