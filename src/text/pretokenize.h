// Pre-tokenizers: rules that cut a text into the pieces ("words") that a model works on, as tokenizer.json names them.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "text/pieces.h"
#include "text/regex.h"

namespace weft::text {

enum class SplitBehavior : uint8_t { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct PreTokenizer {
  enum Kind : uint8_t {
    kSplit, kByteLevel, kDigits, kPunctuation, kWhitespace, kWhitespaceSplit, kDelimiter, kMetaspace, kBert, kScripts, kFixedLength
  } kind;
  std::shared_ptr<const Regex> regex;  // kSplit, kByteLevel with use_regex
  std::string pattern;                 // as the file has it
  bool pattern_is_literal = false;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;
  bool add_prefix_space = false, trim_offsets = true, use_regex = true;  // kByteLevel
  bool raw = false;                    // kByteLevel as the last rule before a byte-level model: bytes stay bytes
  bool individual = false;             // kDigits
  uint32_t character = 0x2581;         // kMetaspace, kDelimiter
  enum Prepend : uint8_t { kAlways, kFirst, kNever } prepend = kAlways;  // kMetaspace
  bool split = true;                   // kMetaspace
  size_t length = 5;                   // kFixedLength
};

// Buffers and matchers of one thread for one list of rules.
struct PreTokenizeScratch {
  std::vector<std::optional<Matcher>> matchers;  // one a rule
  Pieces spare;
  std::vector<Change> changes;
};

// Applies the rules in order.
void pre_tokenize(const std::vector<PreTokenizer>&, Pieces&, PreTokenizeScratch&);

}  // namespace weft::text
