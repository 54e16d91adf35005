// Any bytes as a JSON line: refused with InputError, or its text is valid UTF-8 and no larger than three times the line.
#include <cstdlib>

#include "base/error.h"
#include "data/json_line.h"
#include "data/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace weft;
  using namespace weft::data;
  const std::string_view line(reinterpret_cast<const char*>(bytes), size);
  try {
    const JsonText text = json_text_member(line, "text", "fuzz");
    if (valid_utf8_prefix(text.text) != text.text.size() || text.text.size() > 3 * size) std::abort();
    const std::string_view raw = json_raw_member(line, "text", "fuzz");
    if (text.found != (raw.size() >= 2)) std::abort();
  } catch (const InputError&) {
  }
  return 0;
}
