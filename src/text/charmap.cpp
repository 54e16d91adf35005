#include <cstring>

#include "base/error.h"
#include "text/normalize.h"
#include "text/unicode.h"

namespace weft::text {

CharMap::CharMap(std::string blob, const std::string& where) {
  uint32_t trie_bytes = 0;
  if (blob.size() >= 4) std::memcpy(&trie_bytes, blob.data(), 4);
  if (blob.size() < 4 || trie_bytes % 4 != 0 || trie_bytes > blob.size() - 4 || trie_bytes == 0) {
    throw InputError(where + ": precompiled_charsmap: got " + std::to_string(blob.size()) + " bytes with a trie of " +
                     std::to_string(trie_bytes) + ", want the trie within the blob");
  }
  units_.resize(trie_bytes / 4);
  std::memcpy(units_.data(), blob.data() + 4, trie_bytes);
  strings_ = blob.substr(4 + trie_bytes);
  if (valid_utf8_prefix(strings_) != strings_.size()) throw InputError(where + ": precompiled_charsmap: its strings are not UTF-8");
  strings_ += '\0';
}

bool CharMap::find(std::string_view text, bool longest, size_t& length, std::string_view& replacement) const {
  const auto offset = [](uint32_t u) { return size_t{u >> 10} << ((u & (1u << 9)) >> 6); };
  size_t at = offset(unit(0));
  bool found = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const uint8_t c = static_cast<uint8_t>(text[i]);
    if (c == 0) break;
    at ^= c;
    const uint32_t u = unit(at);
    if ((u & ((1u << 31) | 0xFF)) != c) break;
    at ^= offset(u);
    if ((u >> 8 & 1) == 0) continue;
    const size_t value = unit(at) & 0x7FFFFFFF;
    if (value >= strings_.size()) break;
    found = true;
    length = i + 1;
    replacement = std::string_view(strings_).substr(value, std::strlen(strings_.data() + value));
    // A rule must not start inside a character.
    if (!replacement.empty() && (static_cast<uint8_t>(replacement[0]) & 0xC0) == 0x80) replacement = {};
    if (!longest) break;
  }
  return found;
}

}  // namespace weft::text
