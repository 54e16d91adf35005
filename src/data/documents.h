// The documents of a block of a corpus, in order.
#pragma once
#include <functional>
#include <string>
#include <string_view>

#include "data/corpus.h"

namespace weft::data {

struct Text {
  std::string bytes;  // valid UTF-8
  bool begins, ends;  // the first, the last part of its document
  bool held_out;      // validation
  int64_t replaced;   // ill-formed UTF-8 and lone surrogates that became U+FFFD
  std::string_view line{};  // of JSON lines: the whole object
  const std::string& where; // of messages
};
struct Line {
  std::string_view raw;  // one JSON object
  std::string where;     // "prepare: 'FILE' line N"
  bool held_out;
};
struct DocumentRules {
  std::string key;             // of the text in a JSON line
  HoldOut hold_out;
  int64_t hold_out_every;
};

// Lines of a JSONL or Parquet block; blank ones are left out. Returns the number of lines.
int64_t for_each_line(const Corpus&, const DocumentRules&, const Block&, const std::function<void(const Line&)>& use);
// Any block. Returns the number of lines, 0 for text. InputError when a line has no such key.
int64_t for_each_text(const Corpus&, const DocumentRules&, const Block&, const std::function<void(Text&)>& use);

}  // namespace weft::data
