// The words of a corpus with their counts, for training tokenizers. Counted on several threads; what is kept depends only on the
// texts and the options, never on threads or on how texts are grouped in calls.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/regex.h"
#include "text/word_count.h"

namespace weft::text {

struct CorpusStats {
  int64_t texts = 0, bytes = 0, words = 0;       // words: distinct
  int64_t dropped_words = 0, dropped_bytes = 0;  // given up to stay within memory; bytes of text that they covered
  int32_t merges = 0;                            // BPE: merges found
  int32_t rounds = 0;                            // Unigram: rounds of EM and pruning
  double bits_per_byte = 0;                      // Unigram: of the corpus under the last model, summed over all ways to cut it
};

class CorpusWords {
 public:
  // `pattern` cuts texts into words; what is between its matches is a word too. `memory_bytes`: of the table of words and the
  // training that follows; the rarest words are dropped to stay within it. `threads` 0: one a core.
  CorpusWords(const std::string& pattern, int64_t memory_bytes, int threads);
  void add(std::span<const std::string_view> texts);
  // All words, when no more texts come.
  const WordCount& finish();
  const std::string& pattern() const { return regex_.pattern(); }
  CorpusStats& stats() { return stats_; }

 private:
  void count(std::string_view text, Matcher&, WordCount& out) const;
  void join_latest();
  Regex regex_;
  int64_t memory_bytes_;
  size_t threads_;
  WordCount words_;                // of all texts but the latest
  std::vector<WordCount> latest_;  // one a thread
  int64_t since_join_ = 0;
  CorpusStats stats_;
};

}  // namespace weft::text
