// Reads the rules of a tokenizer.json, every section but the model. All throw InputError with the place and the rule.
#pragma once
#include <vector>

#include "text/decode.h"
#include "text/json_read.h"
#include "text/normalize.h"
#include "text/pretokenize.h"
#include "text/state.h"

namespace weft::text {

std::vector<Normalizer> read_normalizers(const Node&);
std::vector<PreTokenizer> read_pre_tokenizers(const Node&);
std::vector<DecodeRule> read_decoders(const Node&);
std::vector<PostRule> read_post_rules(const Node&);
AddedToken read_added_token(const Node&);
// One character; `fallback` when the key is absent.
uint32_t read_character(const Node&, const char* key, uint32_t fallback);
// {"String": "..."} or {"Regex": "..."}.
std::string read_pattern(const Node&, bool& literal);
std::string escape_regex(std::string_view literal);

}  // namespace weft::text
