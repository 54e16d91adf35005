// Decoders: rules that turn token strings back into text, as tokenizer.json names them.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "text/regex.h"

namespace weft::text {

struct DecodeRule {
  enum Kind : uint8_t { kByteLevel, kMetaspace, kWordPiece, kBpe, kByteFallback, kFuse, kStrip, kReplace, kCtc } kind;
  std::string text;                    // kWordPiece prefix, kBpe suffix, kCtc pad token, kReplace pattern
  std::string content;                 // kReplace, kStrip (one character), kCtc word delimiter
  std::shared_ptr<const Regex> regex;  // kReplace with a regular expression
  bool cleanup = true;                 // kWordPiece, kCtc
  bool never_prepended = false;        // kMetaspace with prepend_scheme never
  size_t start = 0, stop = 0;          // kStrip
};

// Applies the rules in order and joins what is left. Without rules the tokens are joined with spaces.
std::string decode_tokens(const std::vector<DecodeRule>&, std::vector<std::string> tokens);

// "<0xAB>" to 0xAB, else -1.
int fallback_byte(std::string_view token);
// The bytes that a byte-level decoder makes of one token: itself where a character is not in the alphabet.
std::string byte_level_bytes(std::string_view token);

}  // namespace weft::text
