#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstring>

#include "text/forms.h"

namespace weft::text {
namespace {

struct Record {
  uint8_t category;
  uint16_t bits;
  uint8_t script;
};
#include "text/unicode_tables.inc"

constexpr size_t kNumRuns = sizeof(kRuns) / sizeof(kRuns[0]);
constexpr uint32_t run_first(size_t i) { return kRuns[i] >> 10; }
constexpr uint32_t run_last(size_t i) { return i + 1 < kNumRuns ? run_first(i + 1) - 1 : kLastCodePoint; }
constexpr const Record& run_record(size_t i) { return kRecords[kRuns[i] & 1023]; }

// Pages of 256 code points, equal pages shared: two loads a lookup.
struct Pages {
  uint16_t page[0x1100];
  std::vector<uint16_t> record;  // [pages * 256]
  Pages() {
    size_t run = 0;
    uint16_t current[256];
    for (uint32_t p = 0; p < 0x1100; ++p) {
      for (uint32_t i = 0; i < 256; ++i) {
        while (run_last(run) < p * 256 + i) ++run;
        current[i] = static_cast<uint16_t>(kRuns[run] & 1023);
      }
      size_t found = 0;
      const size_t count = record.size() / 256;
      while (found < count && std::memcmp(&record[found * 256], current, sizeof current) != 0) ++found;
      if (found == count) record.insert(record.end(), current, current + 256);
      page[p] = static_cast<uint16_t>(found);
    }
  }
};
const Record& record_of(uint32_t code) {
  static const Pages pages;
  return kRecords[pages.record[size_t{pages.page[code >> 8]} * 256 + (code & 255)]];
}

template <class Keep>
CodeSet runs_where(Keep keep) {
  std::vector<CodeRange> out;
  for (size_t i = 0; i < kNumRuns; ++i) {
    if (keep(run_record(i))) out.push_back({run_first(i), run_last(i)});
  }
  return CodeSet(std::move(out));
}

std::string loose(std::string_view name) {
  std::string out;
  for (const char c : name) {
    if (c == '_' || c == '-' || c == ' ') continue;
    out += c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  }
  return out;
}

}  // namespace

Decoded decode_utf8(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[at + i]); };
  const uint32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  const size_t left = text.size() - at;
  const auto tail = [&](size_t i) { return i < left && (byte(i) & 0xC0) == 0x80; };
  if (lead >= 0xC2 && lead <= 0xDF) {
    if (tail(1)) return {(lead & 0x1F) << 6 | (byte(1) & 0x3Fu), 2, true};
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    if (tail(1) && tail(2)) {
      const uint32_t code = (lead & 0x0F) << 12 | (byte(1) & 0x3Fu) << 6 | (byte(2) & 0x3Fu);
      if (code >= 0x800 && (code < 0xD800 || code > 0xDFFF)) return {code, 3, true};
    }
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    if (tail(1) && tail(2) && tail(3)) {
      const uint32_t code = (lead & 0x07) << 18 | (byte(1) & 0x3Fu) << 12 | (byte(2) & 0x3Fu) << 6 | (byte(3) & 0x3Fu);
      if (code >= 0x10000 && code <= kLastCodePoint) return {code, 4, true};
    }
  }
  return {kReplacement, 1, false};
}

void append_utf8(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | code >> 6);
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | code >> 12);
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | code >> 18);
    out += static_cast<char>(0x80 | (code >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

size_t valid_utf8_prefix(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    uint64_t eight;
    if (at + 8 <= text.size()) {
      std::memcpy(&eight, text.data() + at, 8);
      if ((eight & 0x8080808080808080u) == 0) {
        at += 8;
        continue;
      }
    }
    const Decoded d = decode_utf8(text, at);
    if (!d.valid) return at;
    at += d.length;
  }
  return at;
}

// How many bytes from `at` are the start of some valid sequence (at least 1 when a lead byte is there, 0 otherwise).
static size_t sequence_start(std::string_view text, size_t at, size_t& want) {
  const uint8_t lead = static_cast<uint8_t>(text[at]);
  want = lead >= 0xC2 && lead <= 0xDF ? 2 : lead >= 0xE0 && lead <= 0xEF ? 3 : lead >= 0xF0 && lead <= 0xF4 ? 4 : 0;
  if (want == 0) return 0;
  size_t n = 1;
  while (n < want && at + n < text.size()) {
    const uint8_t b = static_cast<uint8_t>(text[at + n]);
    uint8_t low = 0x80, high = 0xBF;
    if (n == 1) {
      if (lead == 0xE0) low = 0xA0;
      if (lead == 0xED) high = 0x9F;
      if (lead == 0xF0) low = 0x90;
      if (lead == 0xF4) high = 0x8F;
    }
    if (b < low || b > high) break;
    ++n;
  }
  return n;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  size_t at = 0;
  while (at < text.size()) {
    const size_t good = valid_utf8_prefix(text.substr(at));
    out.append(text, at, good);
    at += good;
    if (at >= text.size()) break;
    size_t want = 0;
    at += std::max<size_t>(1, sequence_start(text, at, want));
    append_utf8(out, kReplacement);
  }
  return out;
}

size_t unfinished_utf8_suffix(std::string_view text) {
  for (size_t back = 1; back <= 3 && back <= text.size(); ++back) {
    const uint8_t b = static_cast<uint8_t>(text[text.size() - back]);
    if ((b & 0xC0) == 0x80) continue;
    size_t want = 0;
    const size_t have = sequence_start(text, text.size() - back, want);
    return have == back && have < want ? back : 0;
  }
  return 0;
}

std::vector<uint32_t> code_points(std::string_view text) {
  std::vector<uint32_t> out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Decoded d = decode_utf8(text, at);
    out.push_back(d.code);
    at += d.length;
  }
  return out;
}

CodeSet::CodeSet(std::vector<CodeRange> ranges) {
  std::sort(ranges.begin(), ranges.end(), [](const CodeRange& a, const CodeRange& b) { return a.first < b.first; });
  for (const CodeRange& r : ranges) {
    if (!ranges_.empty() && r.first <= ranges_.back().last + 1) {
      ranges_.back().last = std::max(ranges_.back().last, r.last);
    } else {
      ranges_.push_back(r);
    }
  }
}

bool CodeSet::contains(uint32_t code) const {
  const auto it = std::upper_bound(ranges_.begin(), ranges_.end(), code, [](uint32_t c, const CodeRange& r) { return c < r.first; });
  return it != ranges_.begin() && code <= std::prev(it)->last;
}

CodeSet CodeSet::inverse() const {
  CodeSet out;
  uint32_t next = 0;
  for (const CodeRange& r : ranges_) {
    if (r.first > next) out.ranges_.push_back({next, r.first - 1});
    next = r.last + 1;
  }
  if (next <= kLastCodePoint) out.ranges_.push_back({next, kLastCodePoint});
  return out;
}

CodeSet CodeSet::operator|(const CodeSet& other) const {
  std::vector<CodeRange> both = ranges_;
  both.insert(both.end(), other.ranges_.begin(), other.ranges_.end());
  return CodeSet(std::move(both));
}

CodeSet CodeSet::operator&(const CodeSet& other) const { return (inverse() | other.inverse()).inverse(); }

bool has(Property property, uint32_t code) { return record_of(code).bits >> static_cast<int>(property) & 1; }

CodeSet property_set(Property property) {
  return runs_where([=](const Record& r) { return r.bits >> static_cast<int>(property) & 1; });
}

bool named_set(std::string_view name, CodeSet& out) {
  const std::string want = loose(name);
  if (want == "any") return out = CodeSet::all(), true;
  if (want == "alphabetic" || want == "alpha") return out = property_set(Property::kAlphabetic), true;
  if (want == "space" || want == "whitespace") return out = property_set(Property::kSpace), true;
  if (want == "word") return out = property_set(Property::kOnigWord), true;
  constexpr const char* kLong[][2] = {{"letter", "l"}, {"mark", "m"}, {"number", "n"}, {"punctuation", "p"}, {"symbol", "s"},
                                      {"separator", "z"}, {"other", "c"}, {"punct", "p"}};
  std::string short_name = want;
  for (const auto& pair : kLong) {
    if (want == pair[0]) short_name = pair[1];
  }
  bool found = false;
  out = runs_where([&](const Record& r) {
    const std::string category = loose(kCategoryNames[r.category]);
    const bool in = category == short_name || (short_name.size() == 1 && category[0] == short_name[0]);
    found |= in;
    return in;
  });
  if (found) return true;
  constexpr size_t num_scripts = sizeof(kScriptNames) / sizeof(kScriptNames[0]);
  for (size_t s = 0; s < num_scripts; ++s) {
    if (loose(kScriptNames[s]) == want) return out = runs_where([=](const Record& r) { return r.script == s; }), true;
  }
  return false;
}

uint32_t lower_case(uint32_t code, uint32_t& second) {
  second = 0;
  if (code < 0x80) return code >= 'A' && code <= 'Z' ? code + 32 : code;
  const auto* end = std::end(kLower);
  const auto* it = std::lower_bound(std::begin(kLower), end, code, [](const auto& row, uint32_t c) { return row[0] < c; });
  if (it != end && (*it)[0] == code) return second = (*it)[2], (*it)[1];
  return static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code)));
}

const char* category_of(uint32_t code) { return kCategoryNames[record_of(code).category]; }

uint32_t joined_script_of(uint32_t code) {
  const auto* it = std::upper_bound(std::begin(kScriptRuns), std::end(kScriptRuns), code << 10 | 1023);
  return it == std::begin(kScriptRuns) ? 0 : *(it - 1) & 1023;
}

}  // namespace weft::text
