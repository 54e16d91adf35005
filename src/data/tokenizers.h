// The tokenizers that `prepare` can use: trained on the corpus (BPE or Unigram), or given.
#pragma once
#include <functional>

#include "data/prepare.h"
#include "text/bpe_train.h"
#include "text/unigram_train.h"

namespace weft::data {

// Byte-level BPE trained on the sample. The end-of-document token is the first special token.
TokenizerMaker trained_bpe(text::BpeTrainOptions options, std::function<void(int32_t, int32_t)> progress = {});
// Byte-level Unigram, the same way. `progress` gets (pieces now, pieces wanted).
TokenizerMaker trained_unigram(text::UnigramTrainOptions options, std::function<void(int32_t, int32_t)> progress = {});
// A tokenizer file or folder in any format that text/ reads. `eod`: the text of the end-of-document token, "" for its own.
TokenizerMaker given_tokenizer(const std::string& path, const std::string& eod = "");
// The end-of-document token: `text`, or when that is "" <|endoftext|>, <|end_of_text|>, <eod> or the vocabulary's eos; -1 when there is
// none. ConfigError when `text` is no token.
int32_t eod_id(const text::Tokenizer& tokenizer, const std::string& text = "");
std::unique_ptr<TextEncoder> encoder_of(text::Tokenizer tokenizer, const std::string& eod = "");

}  // namespace weft::data
