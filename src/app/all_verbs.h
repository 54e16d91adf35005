// The verbs, one file each.
#pragma once
#include "app/verb.h"

namespace weft::app {

Action bench(CLI::App&, Common&);
Action completion(CLI::App&, Common&);
Action config_verb(CLI::App&, Common&);
Action demo(CLI::App&, Common&);
Action doctor(CLI::App&, Common&);
Action eval(CLI::App&, Common&);
Action generate(CLI::App&, Common&);
Action help(CLI::App&, Common&);
Action init(CLI::App&, Common&);
Action inspect(CLI::App&, Common&);
Action prepare(CLI::App&, Common&);
Action train_verb(CLI::App&, Common&);
Action version(CLI::App&, Common&);

}  // namespace weft::app
