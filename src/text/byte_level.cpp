#include "text/byte_level.h"

#include <array>

#include "text/unicode.h"

namespace weft::text {

const char* const kByteLevelPattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

constexpr bool stands_for_itself(int b) { return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF); }

struct Alphabet {
  std::array<uint16_t, 256> to_char{};
  std::array<int16_t, 512> to_byte{};
  constexpr Alphabet() {
    for (auto& b : to_byte) b = -1;
    uint16_t next = 256;
    for (int b = 0; b < 256; ++b) {
      const uint16_t c = stands_for_itself(b) ? static_cast<uint16_t>(b) : next++;
      to_char[static_cast<size_t>(b)] = c;
      to_byte[c] = static_cast<int16_t>(b);
    }
  }
};
constexpr Alphabet kAlphabet;

}  // namespace

uint32_t byte_to_char(uint8_t byte) { return kAlphabet.to_char[byte]; }
int char_to_byte(uint32_t code) { return code < 512 ? kAlphabet.to_byte[code] : -1; }

std::string bytes_to_alphabet(std::string_view bytes) {
  std::string out;
  for (const char b : bytes) append_utf8(out, byte_to_char(static_cast<uint8_t>(b)));
  return out;
}

bool alphabet_to_bytes(std::string_view text, std::string& out) {
  out.clear();
  for (size_t at = 0; at < text.size();) {
    const Decoded d = decode_utf8(text, at);
    const int b = d.valid ? char_to_byte(d.code) : -1;
    if (b < 0) return false;
    out += static_cast<char>(b);
    at += d.length;
  }
  return true;
}

}  // namespace weft::text
