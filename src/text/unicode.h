// UTF-8, and what every code point is. The tables behind it (unicode_tables.inc) say what Hugging Face's engine says, so
// that pieces of text end where its pieces end.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace weft::text {

constexpr uint32_t kReplacement = 0xFFFD;
constexpr uint32_t kLastCodePoint = 0x10FFFF;

struct Decoded {
  uint32_t code;  // kReplacement for a byte that starts no valid sequence
  uint32_t length;  // bytes used: 1 to 4; 1 for a bad byte
  bool valid;
};
// The code point at text[at]; at < text.size(). Overlong forms, surrogates and truncated sequences are bad bytes.
Decoded decode_utf8(std::string_view text, size_t at);
void append_utf8(std::string& out, uint32_t code);
// Bytes before the first bad one: text.size() when all is valid.
size_t valid_utf8_prefix(std::string_view text);
// Each longest start of a sequence that cannot go on becomes one U+FFFD, as the Unicode standard recommends.
std::string replace_invalid_utf8(std::string_view text);
// Bytes of an unfinished but so far valid sequence at the end: 0 to 3.
size_t unfinished_utf8_suffix(std::string_view text);
std::vector<uint32_t> code_points(std::string_view text);

// A set of code points as sorted runs [first, last] that do not touch.
struct CodeRange {
  uint32_t first, last;
  bool operator==(const CodeRange&) const = default;
};
class CodeSet {
 public:
  CodeSet() = default;
  explicit CodeSet(std::vector<CodeRange> ranges);  // in any order, overlaps allowed
  static CodeSet all() { return CodeSet({{0, kLastCodePoint}}); }
  bool contains(uint32_t code) const;
  bool empty() const { return ranges_.empty(); }
  const std::vector<CodeRange>& ranges() const { return ranges_; }
  CodeSet inverse() const;
  CodeSet operator|(const CodeSet&) const;
  CodeSet operator&(const CodeSet&) const;
  bool operator==(const CodeSet&) const = default;

 private:
  std::vector<CodeRange> ranges_;
};

enum class Property : uint8_t {  // bits of the tables, in order
  kAlphabetic,
  kOnigWord,     // \w in patterns of Split and Replace
  kRegexWord,    // \w in the Whitespace pre-tokenizer and around single-word added tokens
  kPunctuation,  // of the Punctuation and Bert pre-tokenizers
  kNumeric,      // of the Digits pre-tokenizer
  kSpace,        // \s everywhere
  kNormalizerUnknown,  // newer than the normalization forms' data: they leave it alone
  kStripMark,          // what StripAccents drops
  kBertMark,           // what BertNormalizer's strip_accents drops
  kBertControl,        // what BertNormalizer's clean_text drops, U+FFFD included
};
bool has(Property, uint32_t code);
CodeSet property_set(Property);
// A general category ("L", "Lu"), a script ("Han") or a property ("Alphabetic") by name; case, '_', '-' and ' ' do not
// count. False when there is none of that name.
bool named_set(std::string_view name, CodeSet& out);
const char* category_of(uint32_t code);  // "Lu"
uint32_t joined_script_of(uint32_t code);  // a number for each script of the UnicodeScripts pre-tokenizer; 0 goes with any

inline bool is_space(uint32_t code) { return has(Property::kSpace, code); }

}  // namespace weft::text
