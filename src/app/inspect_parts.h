// What `weft inspect` can look at beside a path: one file each.
#pragma once
#include "app/verb.h"

namespace weft::app {

// Each declares its subcommand and returns what to run when it was called.
Action inspect_tokens(Flags& inspect, Common&);
Action inspect_template(Flags& inspect, Common&);

}  // namespace weft::app
