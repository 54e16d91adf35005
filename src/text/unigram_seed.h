// Where the training of a Unigram vocabulary starts: substrings that occur more than once.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "text/word_count.h"

namespace weft::text {

struct UnigramPiece {
  std::string bytes;
  double score;  // log of its probability
};

// Every byte of the words, most frequent first; then the substrings of 2 to `longest` bytes that are inner nodes of the suffix
// tree of the words (two different bytes, or a word's end and a byte, follow them somewhere), by number of places times length,
// most first, `most` pieces in all. Scores are logs of the shares of count (bytes: with the words' counts; substrings: each word
// once) times length. As Hugging Face's UnigramTrainer starts; ties go to the string that is later in the order of the byte-level alphabet.
std::vector<UnigramPiece> unigram_seeds(const WordCount& words, int longest, size_t most);

}  // namespace weft::text
