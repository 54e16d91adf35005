// Trains a byte-level BPE vocabulary: the merges that Hugging Face's BpeTrainer finds on the same texts with the same split
// pattern and the whole byte alphabet (Sennrich et al. 2016; ties go to the pair with the lower ids).
//
// The result depends only on the texts and options, never on threads or on how texts are grouped in calls, unless words had
// to be dropped to stay within memory_bytes; then `dropped_words` says so.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/corpus_words.h"
#include "text/tokenizer.h"

namespace weft::text {

struct BpeTrainOptions {
  int32_t vocab_size = 32000;               // special tokens and the 256 bytes included
  int64_t min_frequency = 0;                // pairs seen less often are not merged
  int32_t max_token_bytes = 0;              // 0: no limit
  std::vector<std::string> special_tokens = {"<|endoftext|>"};  // get the first ids
  std::string pattern;                      // of words; empty: kDefaultPattern
  int64_t memory_bytes = int64_t{1} << 30;  // for the table of words and the training that follows
  int threads = 0;                          // 0: one a core
};
// Letters with at most one leading mark, up to three digits, marks with their line ends, white space.
extern const char* const kDefaultPattern;

class BpeTrainer {
 public:
  explicit BpeTrainer(BpeTrainOptions);  // ConfigError when the options contradict each other
  ~BpeTrainer();
  // Counts the words of texts. Each is split on its own: words never join two texts.
  void add(std::span<const std::string_view> texts);
  void add(std::string_view text) { add(std::span(&text, 1)); }
  // `progress` gets (merges done, merges wanted) now and then. Fewer merges than wanted are found in small texts.
  Tokenizer train(const std::function<void(int32_t, int32_t)>& progress = {});
  const CorpusStats& stats() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace weft::text
