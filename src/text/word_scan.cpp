#include "text/word_scan.h"

#include <algorithm>
#include <string>

#include "text/byte_level.h"
#include "text/unicode.h"

namespace weft::text {
namespace {

constexpr const char* kShort = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
constexpr const char* kLead = "[^\\r\\n\\p{L}\\p{N}]?";
constexpr const char* kUpperSet = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]";
constexpr const char* kLowerSet = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]";

}  // namespace

std::optional<WordScan> WordScan::of_pattern(std::string_view pattern) {
  WordScan scan;
  if (pattern == kByteLevelPattern) {
    scan.kind_ = kGpt2;
    return scan;
  }
  for (const size_t digits : {1, 2, 3}) {
    const std::string number = digits == 1 ? "\\p{N}" : digits == 2 ? "\\p{N}+" : "\\p{N}{1,3}";
    scan.digits_ = digits == 2 ? 0 : digits;
    scan.kind_ = kPlain;
    if (pattern == std::string(kShort) + "|" + kLead + "\\p{L}+|" + number + "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+") return scan;
    scan.kind_ = kCased;
    for (const bool contractions : {false, true}) {
      scan.contractions_ = contractions;
      const std::string behind = contractions ? std::string(kShort) + "?" : "";
      if (pattern == std::string(kLead) + kUpperSet + "*" + kLowerSet + "+" + behind + "|" + kLead + kUpperSet + "+" + kLowerSet + "*" + behind + "|" + number +
                         "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+") {
        return scan;
      }
    }
  }
  return std::nullopt;
}

void WordScan::set_class(uint8_t cls, uint32_t code) {
  const std::string_view category = category_of(code);
  const bool mark = category[0] == 'M', both = mark || category == "Lm" || category == "Lo";
  uint8_t bits = 0;
  if (category[0] == 'L') bits |= kLetter;
  if (category[0] == 'N') bits |= kNumber;
  if (is_space(code)) bits |= kSpace;
  if (code == '\r' || code == '\n') bits |= kLine;
  if (both || category == "Lu" || category == "Lt") bits |= kUpper;
  if (both || category == "Ll") bits |= kLower;
  bits_[cls] = bits;
  letter_[cls] = 0;
  if (code >= 'a' && code <= 'z') letter_[cls] = static_cast<uint8_t>(code);
  if (kind_ == kGpt2) return;  // that pattern does not fold case
  if (code >= 'A' && code <= 'Z') letter_[cls] = static_cast<uint8_t>(code + 32);
  if (code == 0x17F) letter_[cls] = 's';
}

size_t WordScan::contraction(const uint8_t* s, size_t at, size_t size) const {
  if (s[at] != '\'' || at + 1 >= size) return 0;
  const uint8_t first = letter_[s[at + 1]], second = at + 2 < size ? letter_[s[at + 2]] : 0;
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  if ((first == 'r' || first == 'v') && second == 'e') return 3;
  return first == 'l' && second == 'l' ? 3 : 0;
}

// Upper* Lower+, else Upper+ Lower*, each with at most one lead before it; the sets overlap, so Upper* may have to give back.
size_t WordScan::cased(const uint8_t* s, size_t at, size_t size) const {
  const bool lead = (bits_[s[at]] & (kLetter | kNumber | kLine)) == 0;
  for (size_t from = at + lead;; --from) {
    if (from < size) {
      const size_t upper = run(s, from, size, kUpper);
      if (const size_t lower = run(s, upper, size, kLower); lower > upper) return lower;
      for (size_t i = upper; i > from; --i) {
        if ((bits_[s[i - 1]] & kLower) != 0) return i;
      }
    }
    if (from == at) break;
  }
  for (size_t from = at + lead;; --from) {
    if (from < size) {
      if (const size_t upper = run(s, from, size, kUpper); upper > from) return upper;
    }
    if (from == at) return at;
  }
}

size_t WordScan::next(const uint8_t* s, size_t at, size_t size) const {
  const uint8_t first = bits_[s[at]];
  const uint8_t second = at + 1 < size ? bits_[s[at + 1]] : uint8_t{kSpace};
  constexpr uint8_t kWordOrSpace = kLetter | kNumber | kSpace;
  if (kind_ == kGpt2) {
    if (const size_t n = contraction(s, at, size)) return at + n;
    const size_t from = at + (s[at] == ' ' && (second & kSpace) == 0);
    const uint8_t kind = bits_[s[from]];
    if ((kind & kLetter) != 0) return run(s, from + 1, size, kLetter);
    if ((kind & kNumber) != 0) return run(s, from + 1, size, kNumber);
    if ((kind & kSpace) == 0) {
      size_t end = from + 1;
      while (end < size && (bits_[s[end]] & kWordOrSpace) == 0) ++end;
      return end;
    }
  } else {
    if (kind_ == kPlain) {
      if ((first & kLetter) != 0) return run(s, at + 1, size, kLetter);
      if (const size_t n = contraction(s, at, size)) return at + n;
      if ((first & (kNumber | kLine)) == 0 && (second & kLetter) != 0) return run(s, at + 2, size, kLetter);
    } else if (const size_t end = cased(s, at, size); end > at) {
      return contractions_ && end < size ? end + contraction(s, end, size) : end;
    }
    if ((first & kNumber) != 0) return run(s, at + 1, digits_ == 0 ? size : std::min(size, at + digits_), kNumber);
    const size_t from = at + (s[at] == ' ' && (second & kWordOrSpace) == 0);
    if ((bits_[s[from]] & kWordOrSpace) == 0) {
      size_t end = from + 1;
      while (end < size && (bits_[s[end]] & kWordOrSpace) == 0) ++end;
      while (end < size && ((bits_[s[end]] & kLine) != 0 || (kind_ == kCased && s[end] == '/'))) ++end;
      return end;
    }
  }
  // White space: up to its last line end; else all but the last, which goes with the next word; else all.
  const size_t end = run(s, at, size, kSpace);
  if (kind_ != kGpt2) {
    for (size_t i = end; i > at; --i) {
      if ((bits_[s[i - 1]] & kLine) != 0) return i;
    }
  }
  return end < size && end > at + 1 ? end - 1 : end;
}

}  // namespace weft::text
