// What a prepared folder or a .bin/.idx pair holds, with every check done. For `weft inspect`.
#pragma once
#include <string>
#include <vector>

#include "base/json.h"
#include "data/indexed.h"

namespace weft::data {

struct InspectOptions {
  std::string tokenizer;     // to decode with and to check ids against; empty: the folder's own, if there is one
  int64_t vocab_size = 0;    // every id has to be below it; 0: the tokenizer's, or unchecked without one
  int64_t show_documents = 2;
  int64_t show_bytes = 200;  // of each document's text
};
// Keys of the answer: sets (a list: prefix, type, sequences, documents, tokens, bytes, lengths {min, mean, max}, max_token,
// empty_documents, hashes "all right" or "none", weights "all right" or "none", streams (inspect_streams.h) or null, first: [{tokens,
// text}]), vocab_size, tokenizer_hash, manifest "agrees" or null. `path` is a folder that `prepare` made, or a prefix with or without
// .idx or .bin; the manifest beside a prefix counts when it names it. InputError names the first broken rule.
Json inspect_data(const std::string& path, const InspectOptions& options = {});

}  // namespace weft::data
