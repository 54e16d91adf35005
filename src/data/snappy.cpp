#include "data/snappy.h"

#include <cstdint>
#include <cstring>

#include "base/error.h"

namespace weft::data {

std::string snappy_unpack(std::string_view packed, size_t bytes, const std::string& where) {
  size_t at = 0;
  const auto fail = [&](const char* what) { throw InputError(where + ": snappy data is damaged at byte " + std::to_string(at) + ": " + what); };
  const auto little = [&](int n) {
    if (packed.size() - at < static_cast<size_t>(n)) fail("it is cut off");
    uint32_t v = 0;
    for (int i = 0; i < n; ++i) v |= static_cast<uint32_t>(static_cast<uint8_t>(packed[at + static_cast<size_t>(i)])) << (8 * i);
    at += static_cast<size_t>(n);
    return v;
  };
  uint64_t length = 0;
  for (int shift = 0;; shift += 7) {
    const uint32_t b = little(1);
    length |= static_cast<uint64_t>(b & 127) << shift;
    if (b < 128) break;
    if (shift == 28) fail("its length is too long");
  }
  if (length != bytes) fail("its length is not the page's");
  std::string out(bytes, '\0');
  size_t done = 0;
  while (at < packed.size()) {
    const uint32_t tag = little(1);
    if ((tag & 3) == 0) {  // a literal
      size_t n = tag >> 2;
      if (n >= 60) n = little(static_cast<int>(n) - 59);
      ++n;
      if (n > packed.size() - at || n > bytes - done) fail("a literal does not fit");
      std::memcpy(out.data() + done, packed.data() + at, n);
      at += n, done += n;
      continue;
    }
    size_t n, back;
    if ((tag & 3) == 1) n = 4 + ((tag >> 2) & 7), back = (tag >> 5) << 8 | little(1);
    else n = 1 + (tag >> 2), back = little((tag & 3) == 2 ? 2 : 4);
    if (back == 0 || back > done || n > bytes - done) fail("a copy does not fit");
    if (back >= n) {
      std::memcpy(out.data() + done, out.data() + done - back, n);
    } else {
      for (size_t i = 0; i < n; ++i) out[done + i] = out[done + i - back];  // it repeats what it has just written
    }
    done += n;
  }
  if (done != bytes) fail("it ends too early");
  return out;
}

}  // namespace weft::data
