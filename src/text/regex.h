// Regular expressions as Hugging Face's engine (Oniguruma) reads them, run by PCRE2's JIT.
//
// Goals: the same matches on every Unicode text, whatever Unicode version PCRE2 was built with; speed; bounded work.
// How: every set of code points in the pattern is resolved with our own tables. Code points that no set tells apart fall in
// one class, a class gets one byte (ASCII keeps its own), and PCRE2 runs over class bytes without its UTF mode. A text that is
// all ASCII is matched in place.
// Non-goals: \X, \R, absent operators, named calls; they are refused by name.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace weft::text {

class Regex {
 public:
  // kAny: patterns that word_scan.h knows run there. kPcre2 is for comparing the two.
  enum class Engine : uint8_t { kAny, kPcre2 };
  // Throws InputError with `where` (a file and a field) when the pattern is malformed, too long or uses what is not supported.
  explicit Regex(std::string_view pattern, const std::string& where = "pattern", Engine = Engine::kAny);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  const std::string& pattern() const;

 private:
  friend class Matcher;
  struct State;
  std::unique_ptr<State> state_;
};

// Walks the matches in one text after another. One per thread; keeps its buffers.
class Matcher {
 public:
  explicit Matcher(const Regex&);
  ~Matcher();
  Matcher(Matcher&&) noexcept;
  // The text must stay alive until the last next(). An invalid UTF-8 byte counts as U+FFFD that is one byte long.
  void start(std::string_view text);
  // The next match in bytes of the text; empty matches are found as Oniguruma's iterator finds them. False at the end.
  // Throws InputError when the match limits are exceeded.
  bool next(size_t& begin, size_t& end);

 private:
  size_t advance(size_t to);  // the byte offset of class offset `to`, which does not go back
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace weft::text
