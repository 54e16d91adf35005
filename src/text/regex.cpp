#include "text/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <vector>

#include "base/error.h"
#include "text/regex_parse.h"
#include "text/word_scan.h"

namespace weft::text {
namespace {

constexpr uint32_t kMatchLimit = 50'000'000;      // backtracking steps of one match
constexpr uint32_t kHeapLimitKib = 64 * 1024;
constexpr size_t kJitStackBytes = 8 * 1024 * 1024;

size_t utf8_length(uint32_t code) { return code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4; }

std::string hex_byte(unsigned b) {
  constexpr const char* digits = "0123456789abcdef";
  return std::string("\\x") + digits[b >> 4] + digits[b & 15];
}

}  // namespace

struct Regex::State {
  std::string pattern, where;
  pcre2_code* code = nullptr;
  pcre2_match_context* context = nullptr;
  bool jit = false;
  uint8_t invalid_class = 0;
  uint8_t class_length[256];         // bytes of text a class byte stands for
  uint16_t page[0x1100];             // [code >> 8] -> page of `classes`
  std::vector<uint8_t> classes;      // [pages * 256]
  uint32_t code_of_class[256];       // one of its code points
  std::optional<WordScan> scan;      // instead of the engine, where the pattern is known
  ~State() {
    pcre2_code_free(code);
    pcre2_match_context_free(context);
  }

  // Cuts the code points above ASCII into classes that no set of the pattern tells apart (and of one UTF-8 length).
  void partition(const std::vector<CodeSet>& sets, std::vector<std::vector<bool>>& members) {
    std::vector<uint32_t> cuts = {0x80, 0x800, 0x10000, kReplacement, kReplacement + 1, kLastCodePoint + 1};
    for (const CodeSet& set : sets) {
      for (const CodeRange& r : set.ranges()) cuts.push_back(r.first), cuts.push_back(r.last + 1);
    }
    std::sort(cuts.begin(), cuts.end());
    cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
    std::vector<size_t> cursor(sets.size(), 0);
    std::map<std::pair<std::vector<bool>, size_t>, int> known;
    members.assign(256, std::vector<bool>(sets.size()));
    std::fill(std::begin(class_length), std::end(class_length), uint8_t{1});
    for (uint32_t c = 0; c < 0x80; ++c) {
      code_of_class[c] = c;
      for (size_t s = 0; s < sets.size(); ++s) members[c][s] = sets[s].contains(c);
    }
    int next = 0x80;
    std::fill(std::begin(code_of_class) + 0x80, std::end(code_of_class), kReplacement);
    const auto class_of = [&](const std::vector<bool>& in, size_t length, uint32_t code) {
      const auto [it, added] = known.try_emplace({in, length}, next);
      if (added) {
        if (next > 255) throw InputError(where + ": regular expression: its sets cut Unicode into more than 128 classes");
        members[static_cast<size_t>(next)] = in;
        code_of_class[next] = code;
        class_length[next++] = static_cast<uint8_t>(length);
      }
      return static_cast<uint8_t>(it->second);
    };
    std::vector<uint8_t> flat(kLastCodePoint + 1);
    for (uint32_t c = 0; c < 0x80; ++c) flat[c] = static_cast<uint8_t>(c);
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      if (cuts[i] < 0x80) continue;
      std::vector<bool> in(sets.size());
      for (size_t s = 0; s < sets.size(); ++s) {
        const auto& ranges = sets[s].ranges();
        while (cursor[s] < ranges.size() && ranges[cursor[s]].last < cuts[i]) ++cursor[s];
        in[s] = cursor[s] < ranges.size() && ranges[cursor[s]].first <= cuts[i];
      }
      std::memset(&flat[cuts[i]], class_of(in, utf8_length(cuts[i]), cuts[i]), cuts[i + 1] - cuts[i]);
      if (cuts[i] == kReplacement) invalid_class = class_of(in, 1, kReplacement);
    }
    std::map<std::string, uint16_t> pages;
    for (uint32_t p = 0; p < 0x1100; ++p) {
      const std::string bytes(reinterpret_cast<const char*>(&flat[p * 256]), 256);
      const auto [it, added] = pages.try_emplace(bytes, static_cast<uint16_t>(pages.size()));
      if (added) classes.insert(classes.end(), bytes.begin(), bytes.end());
      page[p] = it->second;
    }
  }
};

Regex::Regex(std::string_view pattern, const std::string& where, Engine engine) : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.pattern = pattern;
  s.where = where;
  const ParsedPattern parsed = parse_pattern(pattern, where);
  std::vector<std::vector<bool>> members;
  s.partition(parsed.sets, members);
  s.scan = engine == Engine::kAny ? WordScan::of_pattern(pattern) : std::nullopt;
  for (unsigned c = 0; s.scan && c < 256; ++c) s.scan->set_class(static_cast<uint8_t>(c), s.code_of_class[c]);
  std::vector<std::string> set_text(parsed.sets.size());
  for (size_t i = 0; i < parsed.sets.size(); ++i) {
    std::string inside;
    int count = 0;
    unsigned only = 0;
    for (unsigned b = 0; b < 256; ++b) {
      if (!members[b][i]) continue;
      unsigned last = b;
      while (last + 1 < 256 && members[last + 1][i]) ++last;
      inside += hex_byte(b);
      if (last > b) inside += "-" + hex_byte(last);
      count += static_cast<int>(last - b + 1);
      only = b;
      b = last;
    }
    set_text[i] = count == 0 ? "(?!)" : count == 1 ? hex_byte(only) : count == 256 ? "(?s:.)" : "[" + inside + "]";
  }
  std::string text;
  for (const PatternPart& part : parsed.parts) {
    text += part.text;
    if (part.set >= 0) text += set_text[static_cast<size_t>(part.set)];
  }
  pcre2_compile_context* compile = pcre2_compile_context_create(nullptr);
  pcre2_set_newline(compile, PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(compile, 200);
  int error = 0;
  size_t offset = 0;
  s.code = pcre2_compile(reinterpret_cast<const uint8_t*>(text.data()), text.size(), PCRE2_NEVER_UTF | PCRE2_NEVER_UCP, &error,
                         &offset, compile);
  pcre2_compile_context_free(compile);
  if (s.code == nullptr) {
    char message[256];
    pcre2_get_error_message(error, reinterpret_cast<uint8_t*>(message), sizeof message);
    throw InputError(where + ": regular expression: " + message + ": got '" + std::string(pattern.substr(0, 200)) + "'");
  }
  s.jit = pcre2_jit_compile(s.code, PCRE2_JIT_COMPLETE) == 0;
  s.context = pcre2_match_context_create(nullptr);
  pcre2_set_match_limit(s.context, kMatchLimit);
  pcre2_set_heap_limit(s.context, kHeapLimitKib);
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
const std::string& Regex::pattern() const { return state_->pattern; }

struct Matcher::State {
  const Regex::State* regex;
  pcre2_match_data* match = nullptr;
  pcre2_match_context* context = nullptr;
  pcre2_jit_stack* stack = nullptr;
  std::string buffer;            // class bytes of a text that is not all ASCII
  const uint8_t* subject = nullptr;
  size_t length = 0;             // of the subject, in class bytes
  size_t at = 0;                 // where the next search starts, in class bytes
  size_t walked = 0, walked_bytes = 0;  // a class offset and the byte offset it stands for
  bool ascii = true, last_was = false;
  size_t last_end = 0;
  ~State() {
    pcre2_match_data_free(match);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
};

Matcher::Matcher(const Regex& regex) : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.regex = regex.state_.get();
  s.match = pcre2_match_data_create(1, nullptr);
  s.context = pcre2_match_context_copy(s.regex->context);
  if (s.regex->jit) {
    s.stack = pcre2_jit_stack_create(32 * 1024, kJitStackBytes, nullptr);
    pcre2_jit_stack_assign(s.context, nullptr, s.stack);
  }
}
Matcher::~Matcher() = default;
Matcher::Matcher(Matcher&&) noexcept = default;

void Matcher::start(std::string_view text) {
  State& s = *state_;
  const Regex::State& re = *s.regex;
  s.at = s.walked = s.walked_bytes = s.last_end = 0;
  s.last_was = false;
  size_t ascii = 0;
  for (uint64_t eight; ascii + 8 <= text.size(); ascii += 8) {
    std::memcpy(&eight, text.data() + ascii, 8);
    if ((eight & 0x8080808080808080u) != 0) break;
  }
  while (ascii < text.size() && static_cast<uint8_t>(text[ascii]) < 0x80) ++ascii;
  s.ascii = ascii == text.size();
  if (s.ascii) {
    s.subject = reinterpret_cast<const uint8_t*>(text.data());
    s.length = text.size();
    return;
  }
  s.buffer.resize(text.size());
  char* out = s.buffer.data();
  std::memcpy(out, text.data(), ascii);
  out += ascii;
  for (size_t at = ascii; at < text.size();) {
    const uint8_t b = static_cast<uint8_t>(text[at]);
    if (b < 0x80) {
      *out++ = static_cast<char>(b);
      ++at;
      continue;
    }
    const Decoded d = decode_utf8(text, at);
    const uint8_t cls = d.valid ? re.classes[size_t{re.page[d.code >> 8]} * 256 + (d.code & 255)] : re.invalid_class;
    *out++ = static_cast<char>(cls);
    at += d.length;
  }
  s.subject = reinterpret_cast<const uint8_t*>(s.buffer.data());
  s.length = static_cast<size_t>(out - s.buffer.data());
}

size_t Matcher::advance(size_t to) {
  State& s = *state_;
  if (s.ascii) return s.walked_bytes = to;
  size_t bytes = s.walked_bytes;
  for (size_t i = s.walked; i < to; ++i) bytes += s.regex->class_length[s.subject[i]];
  s.walked = to;
  return s.walked_bytes = bytes;
}

bool Matcher::next(size_t& begin, size_t& end) {
  State& s = *state_;
  if (s.regex->scan) {
    if (s.at >= s.length) return false;
    begin = s.walked_bytes;
    s.at = s.regex->scan->next(s.subject, s.at, s.length);
    end = advance(s.at);
    return true;
  }
  static const uint8_t kNothing = 0;
  for (;;) {
    if (s.at > s.length) return false;
    const uint8_t* subject = s.length == 0 ? &kNothing : s.subject;
    const int rc = s.regex->jit ? pcre2_jit_match(s.regex->code, subject, s.length, s.at, 0, s.match, s.context)
                                : pcre2_match(s.regex->code, subject, s.length, s.at, 0, s.match, s.context);
    if (rc == PCRE2_ERROR_NOMATCH) {
      s.at = s.length + 1;
      return false;
    }
    if (rc < 0) {
      char message[256];
      pcre2_get_error_message(rc, reinterpret_cast<uint8_t*>(message), sizeof message);
      throw InputError(s.regex->where + ": regular expression '" + s.regex->pattern.substr(0, 200) + "': " + message);
    }
    const size_t* ovector = pcre2_get_ovector_pointer(s.match);
    const size_t from = ovector[0], to = ovector[1];
    if (from == to && s.last_was && s.last_end == to) {  // no empty match right behind the last one
      ++s.at;
      continue;
    }
    s.at = to;
    s.last_end = to;
    s.last_was = true;
    begin = advance(from);
    end = advance(to);
    return true;
  }
}

}  // namespace weft::text
