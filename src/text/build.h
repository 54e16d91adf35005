// How readers of the several formats put a Tokenizer together.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "text/json_read.h"
#include "text/state.h"

namespace weft::text {

struct Build {
  // Reads the sections normalizer, pre_tokenizer, post_processor and decoder, as a tokenizer.json has them.
  static std::shared_ptr<Tokenizer::State> start(const Json& sections, const std::string& where);
  // The model, when state.vocab holds the tokens as the file writes them.
  static void set_bpe(Tokenizer::State&, std::vector<Merge>, BpeOptions);
  static Tokenizer finish(std::shared_ptr<Tokenizer::State>);
};

// Of a trained byte-level tokenizer.json: a special token, and all but the model.
Json trained_special(int32_t id, const std::string& content);
Json trained_byte_level(const std::string& pattern, Json added_tokens);

Tokenizer read_tiktoken(std::string_view content, const std::string& path);
Tokenizer read_tekken(std::string_view content, const std::string& path);
Tokenizer read_sentence_piece(std::string_view content, const std::string& path);
Tokenizer read_gguf(std::string_view content, const std::string& path);
Tokenizer read_vocab_txt(std::string_view content, const std::string& path);
Tokenizer read_vocab_and_merges(std::string_view vocab_json, std::string_view merges, const std::string& path);

// SentencePiece pieces, from its own file or a GGUF.
struct SpmPieces {
  enum Type : uint8_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };
  std::vector<std::string> text;
  std::vector<float> score;
  std::vector<uint8_t> type;
  bool unigram = false, byte_fallback = false;
  std::string charsmap;
  bool add_dummy_prefix = true, remove_extra_spaces = true, escape_spaces = true, space_as_suffix = false;
  int32_t bos = -1, eos = -1, pad = -1;
  std::string unknown_surface = " \u2047 ";  // what the unknown piece decodes to
};
// `file`: the tokenizer.model they come from; empty: one is written.
Tokenizer make_sentence_piece(SpmPieces, const std::string& path, std::string_view file = {});

// Every pair of tokens whose joined string is a token, in the order in which a vocabulary ranked by id merges them.
std::vector<Merge> merges_from_ranks(const Vocab& bytes, int32_t first, int32_t last);
std::string decode_base64(std::string_view text, const std::string& where);

// The pre-tokenizer that a model family's name stands for ("llama-bpe", "cl100k_base"); null Json when it is not known.
Json pre_tokenizer_named(const std::string& name);

}  // namespace weft::text
