// The side streams of a set, checked and shown. For `weft inspect data`.
#pragma once
#include <string>

#include "base/json.h"
#include "data/prepare.h"

namespace weft::data {

// Null when the set has no PREFIX.idx.json. Else checks lengths and hashes of all streams, the ranges of those that `prepare` wrote,
// and each document against its line in PREFIX.documents.jsonl, where that is there: as many tokens, parts without gaps, the dep
// level of every token that of its part. InputError names what is broken and where. The answer's keys: streams {name: {present,
// absent, max}}, unused (a list of names), documents "agree" or null, hashes "all right" or "none".
Json check_streams(const std::string& prefix);

// Documents of the training set: neighbouring tokens with equal values on a line, and the five values, with the names of structure
// and node type. InputError when there are no streams.
std::string show_streams(const PreparedData& data, int64_t documents);

}  // namespace weft::data
