// The side streams of a set, checked and shown. For `weft inspect data`.
#pragma once
#include <string>

#include "base/json.h"
#include "text/tokenizer.h"

namespace weft::data {

// Null when the set has no PREFIX.idx.json. Else checks lengths and hashes of all streams, the ranges of those that `prepare` wrote,
// and each document against its line in PREFIX.documents.jsonl, where that is there: as many tokens, parts without gaps, the dep
// level of every token that of its part. InputError names what is broken and where. The answer's keys: streams {name: {present,
// absent, max}}, unused (a list of names), documents "agree" or null, hashes "all right" or "none".
Json check_streams(const std::string& prefix);

// The first `tokens` tokens of a document, one a line: the token's text and its five values, with the names of structure and node
// type. InputError when there is no such document or no stream.
std::string show_streams(const std::string& prefix, const text::Tokenizer& tokenizer, int64_t document, int64_t first, int64_t tokens);

}  // namespace weft::data
