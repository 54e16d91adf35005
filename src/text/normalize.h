// Normalizers: rules that rewrite a text before it is cut, as tokenizer.json names them.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "text/added.h"
#include "text/forms.h"
#include "text/pieces.h"
#include "text/regex.h"

namespace weft::text {

// SentencePiece's `precompiled_charsmap`: a double-array trie from strings to their normalized strings.
class CharMap {
 public:
  // Throws InputError with `where` when the blob is damaged.
  CharMap(std::string blob, const std::string& where);
  // The rule of the shortest or longest key that `text` starts with; false when there is none.
  bool find(std::string_view text, bool longest, size_t& length, std::string_view& replacement) const;

 private:
  uint32_t unit(size_t i) const { return i < units_.size() ? units_[i] : 0; }
  std::vector<uint32_t> units_;
  std::string strings_;
};

struct Normalizer {
  enum Kind : uint8_t {
    kForm, kBert, kStrip, kStripAccents, kLowercase, kNmt, kPrecompiled, kReplace, kPrepend, kByteLevel, kSentencePiece
  } kind;
  Form form = Form::kNfc;
  bool clean_text = true, chinese = true, strip_accents = true, lowercase = true;  // kBert
  bool left = true, right = true;                                                  // kStrip
  std::shared_ptr<const CharMap> map;  // kPrecompiled, kSentencePiece (null: no map)
  std::string text;                    // kReplace pattern, kPrepend
  std::string content;                 // kReplace
  std::shared_ptr<const Regex> regex;  // kReplace with a regular expression
  // kSentencePiece: the whole of its normalizer, spaces as U+2581 included
  std::shared_ptr<const AddedMatcher> user_symbols;  // stay as they are
  bool add_dummy_prefix = true, remove_extra_spaces = true, escape_spaces = true, space_as_suffix = false;
};

struct NormalizeScratch {
  std::vector<std::optional<Matcher>> matchers;  // one a rule
  Pieces spare;
  std::vector<Change> changes;
};

// Applies the rules in order to every piece that is not a token.
void normalize(const std::vector<Normalizer>&, Pieces&, NormalizeScratch&);
// True when the rules surely leave the text as it is.
bool surely_normal(const std::vector<Normalizer>&, std::string_view text);

}  // namespace weft::text
