// What a Tokenizer holds: the rules in the order in which they run. Built once by a reader, then never changed.
#pragma once
#include <memory>
#include <mutex>
#include <string>
#include <variant>
#include <vector>

#include "text/added.h"
#include "text/bpe.h"
#include "text/decode.h"
#include "text/json_read.h"
#include "text/normalize.h"
#include "text/pretokenize.h"
#include "text/spm_bpe.h"
#include "text/tokenizer.h"
#include "text/unigram.h"
#include "text/vocab.h"
#include "text/word_cache.h"
#include "text/wordpiece.h"

namespace weft::text {

struct PostRule {  // what a post-processor does to one text
  enum Kind : uint8_t { kTemplate, kTrimOffsets } kind;
  std::vector<int32_t> ids;       // kTemplate: -1 is the text
  bool add_prefix_space = false;  // kTrimOffsets
};

struct Scratch {  // buffers of one thread
  Pieces pieces;
  NormalizeScratch normal;
  PreTokenizeScratch cuts;
  Bpe::Scratch bpe;
  Unigram::Scratch unigram;
  SpmBpe::Scratch spm_bpe;
  WordCache cache;
  std::vector<uint32_t> ends;
};

// What SentencePiece's decoder does with the space sign that pieces before the first text begin with.
enum class LeadingSpace : uint8_t { kStays, kOffOne, kOffAll };

struct Tokenizer::State {
  Vocab vocab;        // of the model, as the file writes it
  Vocab bytes_vocab;  // byte-level: the same ids by their bytes
  bool byte_level = false;  // the model works on bytes
  // The model: one of these.
  std::unique_ptr<Bpe> bpe;
  std::unique_ptr<Unigram> unigram;
  std::unique_ptr<WordPiece> word_piece;
  std::unique_ptr<WordLevel> word_level;
  std::unique_ptr<SpmBpe> spm_bpe;
  bool sentence_piece = false;  // read from SentencePiece's own format
  std::string sentence_piece_file;  // then: a tokenizer.model of it
  std::string unknown_surface;  // sentence_piece: what the unknown piece decodes to
  LeadingSpace leading_space = LeadingSpace::kStays;
  std::vector<Normalizer> normalizers;
  std::vector<PreTokenizer> pre_tokenizers;
  std::vector<DecodeRule> decoders;
  std::vector<PostRule> post;
  std::vector<AddedToken> added;           // by id
  std::vector<int32_t> added_of_id;        // [vocab_size] index in `added`, or -1
  std::vector<std::string> added_text;     // of each of `added` as a decoder sees it: normalized when it is looked for so
  AddedMatcher plain_matcher;              // added tokens that are looked for in the text as it is
  AddedMatcher normalized_matcher;         // and in the normalized text
  std::vector<std::string> bytes_of_id;    // [vocab_size] what an id stands for in a text
  int32_t vocab_size = 0;
  int32_t bos = -1, eos = -1, pad = -1, unknown = -1;
  std::string where = "tokenizer";
  Json normalizer_json, pre_tokenizer_json, post_processor_json, decoder_json, model_json;  // model without vocab and merges
  bool track_origin = false;               // a rule asks where in the text it stands
  bool one_regex = false;                  // byte-level and one pattern whose matches and gaps are the words: no pieces are built

  void encode_piece(std::string_view piece, Scratch&, std::vector<int32_t>& ids, std::vector<uint32_t>* ends) const;
  // Derives everything below the rules (matchers, tables, roles). Called once by a reader, last.
  void finish();

  std::unique_ptr<Scratch> borrow() const;
  void give_back(std::unique_ptr<Scratch>) const;

 private:
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> free_;
};

}  // namespace weft::text
