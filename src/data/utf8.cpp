#include "data/utf8.h"

#include <cstring>

namespace weft::data {
namespace {

struct Step { int length; bool valid; };  // of one character, or of one maximal ill-formed part

Step step_at(const unsigned char* p, size_t left) {
  const unsigned char a = p[0];
  if (a < 0x80) return {1, true};
  int need;
  unsigned char low = 0x80, high = 0xBF;  // of the second byte; this is where overlong forms and surrogates end
  if (a >= 0xC2 && a <= 0xDF) need = 1;
  else if (a >= 0xE0 && a <= 0xEF) {
    need = 2;
    if (a == 0xE0) low = 0xA0;
    if (a == 0xED) high = 0x9F;
  } else if (a >= 0xF0 && a <= 0xF4) {
    need = 3;
    if (a == 0xF0) low = 0x90;
    if (a == 0xF4) high = 0x8F;
  } else {
    return {1, false};
  }
  for (int i = 1; i <= need; ++i) {
    if (static_cast<size_t>(i) >= left || p[i] < low || p[i] > high) return {i, false};
    low = 0x80, high = 0xBF;
  }
  return {need + 1, true};
}

}  // namespace

size_t valid_utf8_prefix(std::string_view text) {
  const unsigned char* p = reinterpret_cast<const unsigned char*>(text.data());
  const size_t n = text.size();
  size_t i = 0;
  while (i < n) {
    uint64_t word;
    while (i + 8 <= n && (std::memcpy(&word, p + i, 8), (word & 0x8080808080808080u) == 0)) i += 8;
    if (i >= n) break;
    const Step s = step_at(p + i, n - i);
    if (!s.valid) return i;
    i += static_cast<size_t>(s.length);
  }
  return n;
}

int64_t append_clean_utf8(std::string_view text, std::string& out) {
  int64_t replaced = 0;
  for (;;) {
    const size_t good = valid_utf8_prefix(text);
    out.append(text.substr(0, good));
    if (good == text.size()) return replaced;
    text.remove_prefix(good);
    text.remove_prefix(static_cast<size_t>(step_at(reinterpret_cast<const unsigned char*>(text.data()), text.size()).length));
    out.append("\xEF\xBF\xBD");
    ++replaced;
  }
}

void append_utf8(uint32_t c, std::string& out) {
  if (c < 0x80) {
    out.push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out.push_back(static_cast<char>(0xC0 | c >> 6));
    out.push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else if (c < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | c >> 12));
    out.push_back(static_cast<char>(0x80 | (c >> 6 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else {
    out.push_back(static_cast<char>(0xF0 | c >> 18));
    out.push_back(static_cast<char>(0x80 | (c >> 12 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (c >> 6 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (c & 0x3F)));
  }
}

}  // namespace weft::data
