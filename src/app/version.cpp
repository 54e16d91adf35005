#include <fmt/format.h>

#include "app/all_verbs.h"
#include "app/machine.h"

namespace weft::app {

Action version(Flags&, Common&) {
  return [] {
    fmt::print("weft {} ({}; {}; torch {})\n", weft_version(), build_id(), build_text(), torch_version());
    return 0;
  };
}

}  // namespace weft::app
