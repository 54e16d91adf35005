// The split patterns of the GPT family, scanned by hand: what a regular expression engine finds, several times as fast.
//
// A pattern is recognised by its text. The scan runs over the same class bytes as the engine (regex.h), so it holds for every
// code point; fuzz tests compare the two.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace weft::text {

class WordScan {
 public:
  // Nothing when the pattern is not one of those known here.
  static std::optional<WordScan> of_pattern(std::string_view pattern);

  enum Bits : uint8_t {
    kLetter = 1, kNumber = 2, kSpace = 4, kLine = 8,  // \p{L}, \p{N}, \s, \r or \n
    kUpper = 16, kLower = 32,                         // [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}], [\p{Ll}\p{Lm}\p{Lo}\p{M}]
  };
  // Says what a class byte stands for, by one of its code points.
  void set_class(uint8_t cls, uint32_t code);

  // The end of the word at `at`, which is below `size`: always behind it.
  size_t next(const uint8_t* s, size_t at, size_t size) const;

 private:
  enum Kind : uint8_t { kGpt2, kPlain, kCased };
  size_t contraction(const uint8_t* s, size_t at, size_t size) const;  // length of 's 't 're 've 'm 'll 'd at `at`, or 0
  size_t cased(const uint8_t* s, size_t at, size_t size) const;        // end of the cased word at `at`, or `at`
  size_t run(const uint8_t* s, size_t at, size_t size, uint8_t bits) const {
    while (at < size && (bits_[s[at]] & bits) != 0) ++at;
    return at;
  }
  Kind kind_ = kPlain;
  size_t digits_ = 3;         // of a number; 0: all
  bool contractions_ = true;  // kCased: behind a word
  uint8_t bits_[256] = {};
  uint8_t letter_[256] = {};  // its small ASCII letter, where the pattern takes it for one
};

}  // namespace weft::text
