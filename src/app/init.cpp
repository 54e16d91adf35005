// weft init [FILE]: a commented recipe with every setting at its default.
#include <fmt/format.h>

#include <filesystem>

#include "app/all_verbs.h"
#include "app/flags.h"
#include "app/run_config.h"
#include "base/error.h"
#include "base/files.h"

namespace weft::app {

Action init(Flags& flags, Common&) {
  auto file = std::make_shared<std::string>();
  auto force = std::make_shared<bool>(false);
  flags.option("file", *file, "Where to write it; standard output when left out.");
  flags.flag("--force", *force, "Write over a file that is there.");
  flags.footer("try: weft init run.toml");
  return [file, force] {
    RunConfig run;
    const std::string text = "# A Weft recipe: take the mark off a line to change it. weft train FILE runs it.\n\n" +
                             config::recipe(*config::bind(run));
    if (file->empty()) {
      fmt::print("{}", text);
    } else {
      if (!*force && std::filesystem::exists(*file)) throw ConfigError(fmt::format("init: {} is there already\n  try: --force", *file));
      write_file_atomic(*file, text);
      fmt::print("wrote {}\n", *file);
    }
    return 0;
  };
}

}  // namespace weft::app
