// Which documents `prepare` keeps, by what stands in them: rules that hold in any language, and patterns of the user's.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/regex.h"

namespace weft::data {

// Share of a text's lines that stood in it before, in bytes; blank lines count for nothing (Rae et al. 2021, A.1.1).
double repeated_line_share(std::string_view text);
// Share of its characters that are neither word characters (\w: letters, marks, digits, _) nor white space.
double symbol_share(std::string_view text);

struct FilterConfig {
  double max_repeated_lines = 1, max_symbols = 1;  // 1: none
  // [FIELD~]PATTERN, in the tokenizers' regular expressions, found anywhere. FIELD is a member of the JSON line (a string, or its JSON
  // when it is none; "" when there is none) or, of text files, `path`. Without it the text itself.
  std::vector<std::string> keep, drop;
  bool empty() const { return max_repeated_lines >= 1 && max_symbols >= 1 && keep.empty() && drop.empty(); }
  std::string identity() const;
};

class Filters {
 public:
  explicit Filters(const FilterConfig& config);  // ConfigError names the flag
  const std::vector<std::string>& names() const { return names_; }    // as the user wrote them: "--max-symbols 0.3"
  const std::vector<std::string>& fields() const { return fields_; }  // of JSON lines
  bool of_text() const;                                               // some rule looks at the text

 private:
  friend class FilterPass;
  struct Pattern { int field; bool keep; text::Regex regex; int name; };  // field: -1 is the text
  void add(const std::string& flag, const std::string& word, bool keep);
  double max_repeated_lines_, max_symbols_;
  int repeated_name_ = -1, symbols_name_ = -1;
  std::vector<std::string> names_, fields_;
  std::vector<Pattern> patterns_;
};

class FilterPass {  // one thread's use of them
 public:
  explicit FilterPass(const Filters& filters);
  struct Document {
    std::string_view text;
    std::string_view line;  // of JSON lines and rows
    const std::string& where;
    std::string_view path;  // of its file
    bool has_text = true;   // false: rules of the text do not apply
  };
  int dropped_by(const Document&);  // number of a name, -1: the document stays
  const std::vector<int64_t>& found() const { return found_; }  // documents that have each of the fields

 private:
  bool matches(size_t pattern, std::string_view text);
  const Filters& filters_;
  std::vector<text::Matcher> matchers_;
  std::vector<int64_t> found_;
};

}  // namespace weft::data
