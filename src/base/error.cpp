#include "base/error.h"

namespace weft {

void check_failed(const char* condition, const std::string& text, std::source_location at) {
  throw InternalError(std::string("internal: ") + condition + " failed: " + text + " (" + at.file_name() + ":" +
                          std::to_string(at.line()) + ")",
                      at);
}

}  // namespace weft
