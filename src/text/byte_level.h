// The alphabet that shows any byte as a printable character: byte-level vocabularies are written in it.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace weft::text {

// The pattern that the ByteLevel pre-tokenizer splits with when `use_regex` is on.
extern const char* const kByteLevelPattern;

uint32_t byte_to_char(uint8_t byte);  // '!'..'~', U+00A1..U+00AC, U+00AE..U+00FF stand for themselves, the rest from U+0100 on
int char_to_byte(uint32_t code);      // -1 when the character is not in the alphabet
std::string bytes_to_alphabet(std::string_view bytes);
// False, with `out` unspecified, when a character is not in the alphabet.
bool alphabet_to_bytes(std::string_view text, std::string& out);

}  // namespace weft::text
