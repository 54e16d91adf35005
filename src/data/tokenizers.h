// The two tokenizers that `prepare` can use: one trained on the corpus, one that is given.
#pragma once
#include <functional>

#include "data/prepare.h"
#include "text/bpe_train.h"

namespace weft::data {

// Byte-level BPE trained on the sample. The end-of-document token is the first special token.
TokenizerMaker trained_bpe(text::BpeTrainOptions options, std::function<void(int32_t, int32_t)> progress = {});
// A tokenizer file or folder in any format that text/ reads. `eod`: the text of the end-of-document token, "" for its own.
TokenizerMaker given_tokenizer(const std::string& path, const std::string& eod = "");
std::unique_ptr<TextEncoder> encoder_of(text::Tokenizer tokenizer, const std::string& eod = "");

}  // namespace weft::data
