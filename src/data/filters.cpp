#include "data/filters.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <unordered_set>

#include "base/error.h"
#include "data/json_line.h"
#include "text/unicode.h"

namespace weft::data {
namespace {

bool is_field_name(std::string_view s) {
  return !s.empty() && std::all_of(s.begin(), s.end(), [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.'; });
}

void check_share(const char* flag, double share) {
  if (!(share >= 0 && share <= 1)) throw ConfigError(fmt::format("prepare: {}: got {}, want a share from 0 to 1", flag, share));
}

std::array<uint8_t, 128> ascii_kinds() {  // 1: a symbol
  std::array<uint8_t, 128> out{};
  for (uint32_t c = 0; c < 128; ++c) out[c] = !text::has(text::Property::kOnigWord, c) && !text::is_space(c);
  return out;
}

}  // namespace

double repeated_line_share(std::string_view s) {
  std::unordered_set<uint64_t> seen;
  size_t all = 0, repeated = 0;
  for (size_t begin = 0; begin < s.size();) {
    const size_t end = std::min(s.find('\n', begin), s.size());
    std::string_view line = s.substr(begin, end - begin);
    begin = end + 1;
    const size_t first = line.find_first_not_of(" \t\r\f\v");
    if (first == std::string_view::npos) continue;
    line = line.substr(first, line.find_last_not_of(" \t\r\f\v") - first + 1);
    all += line.size();
    if (!seen.insert(XXH3_64bits(line.data(), line.size())).second) repeated += line.size();
  }
  return all == 0 ? 0 : static_cast<double>(repeated) / static_cast<double>(all);
}

double symbol_share(std::string_view s) {
  static const std::array<uint8_t, 128> kAscii = ascii_kinds();
  size_t all = 0, symbols = 0;
  for (size_t i = 0; i < s.size(); ++all) {
    if (const auto byte = static_cast<uint8_t>(s[i]); byte < 128) {
      symbols += kAscii[byte], ++i;
      continue;
    }
    const text::Decoded d = text::decode_utf8(s, i);
    symbols += !text::has(text::Property::kOnigWord, d.code) && !text::is_space(d.code);
    i += d.length;
  }
  return all == 0 ? 0 : static_cast<double>(symbols) / static_cast<double>(all);
}

std::string FilterConfig::identity() const {
  std::string out = fmt::format("filters 1 {} {}", max_repeated_lines, max_symbols);
  for (const auto& [name, words] : {std::pair("keep", &keep), std::pair("drop", &drop)})
    for (const std::string& w : *words) out += fmt::format("\n{} {}:{}", name, w.size(), w);
  return out;
}

Filters::Filters(const FilterConfig& c) : max_repeated_lines_(c.max_repeated_lines), max_symbols_(c.max_symbols) {
  check_share("--max-repeats", c.max_repeated_lines);
  check_share("--max-symbols", c.max_symbols);
  const auto name = [&](const std::string& n) { return names_.push_back(n), static_cast<int>(names_.size()) - 1; };
  if (c.max_repeated_lines < 1) repeated_name_ = name(fmt::format("--max-repeats {}", c.max_repeated_lines));
  if (c.max_symbols < 1) symbols_name_ = name(fmt::format("--max-symbols {}", c.max_symbols));
  for (const std::string& w : c.keep) add("--keep", w, true);
  for (const std::string& w : c.drop) add("--drop", w, false);
}

void Filters::add(const std::string& flag, const std::string& word, bool keep) {
  const size_t at = word.find('~');
  const bool named = at != std::string::npos && is_field_name(std::string_view(word).substr(0, at));
  const std::string pattern = named ? word.substr(at + 1) : word;
  if (pattern.empty()) throw ConfigError(fmt::format("prepare: {}: got '{}', want [FIELD~]PATTERN", flag, word));
  int field = -1;
  if (named) {
    const auto known = std::find(fields_.begin(), fields_.end(), word.substr(0, at));
    field = static_cast<int>(known - fields_.begin());
    if (known == fields_.end()) fields_.push_back(word.substr(0, at));
  }
  names_.push_back(fmt::format("{} {}", flag, word));
  try {
    patterns_.push_back({field, keep, text::Regex(pattern, "pattern"), static_cast<int>(names_.size()) - 1});
  } catch (const InputError& e) {
    throw ConfigError(fmt::format("prepare: {} '{}': {}", flag, word, e.what()));
  }
}

bool Filters::of_text() const {
  return max_repeated_lines_ < 1 || max_symbols_ < 1 || std::any_of(patterns_.begin(), patterns_.end(), [](const Pattern& p) { return p.field < 0; });
}

FilterPass::FilterPass(const Filters& filters) : filters_(filters), found_(filters.fields_.size(), 0) {
  for (const Filters::Pattern& p : filters.patterns_) matchers_.emplace_back(p.regex);
}

bool FilterPass::matches(size_t pattern, std::string_view text) {
  size_t begin, end;
  matchers_[pattern].start(text);
  return matchers_[pattern].next(begin, end);
}

int FilterPass::dropped_by(const Document& d) {
  std::vector<std::string> values(found_.size());
  for (size_t f = 0; f < values.size(); ++f) {
    const std::string& field = filters_.fields_[f];
    if (d.line.empty()) {
      if (field == "path") values[f] = d.path, ++found_[f];
      continue;
    }
    const std::string_view raw = json_raw_member(d.line, field, d.where);
    found_[f] += !raw.empty() && raw != "null";
    if (raw.starts_with('"')) values[f] = json_text_member(d.line, field, d.where).text;
    else if (raw != "null") values[f] = raw;
  }
  for (size_t p = 0; p < matchers_.size(); ++p) {  // first what is cheap: a field is short
    const Filters::Pattern& pattern = filters_.patterns_[p];
    if (pattern.field >= 0 && matches(p, values[static_cast<size_t>(pattern.field)]) != pattern.keep) return pattern.name;
  }
  if (!d.has_text) return -1;
  if (filters_.symbols_name_ >= 0 && symbol_share(d.text) > filters_.max_symbols_) return filters_.symbols_name_;
  if (filters_.repeated_name_ >= 0 && repeated_line_share(d.text) > filters_.max_repeated_lines_) return filters_.repeated_name_;
  for (size_t p = 0; p < matchers_.size(); ++p) {
    const Filters::Pattern& pattern = filters_.patterns_[p];
    if (pattern.field < 0 && matches(p, d.text) != pattern.keep) return pattern.name;
  }
  return -1;
}

}  // namespace weft::data
