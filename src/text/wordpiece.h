// WordPiece (longest match first, as BERT runs it) and whole words.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/trie.h"
#include "text/vocab.h"

namespace weft::text {

struct WordPieceOptions {
  std::string prefix = "##";        // of tokens inside a word
  size_t longest_word = 100;        // characters; longer words are unknown
  int32_t unknown = -1;             // id
};

class WordPiece {
 public:
  WordPiece(const Vocab& vocab, WordPieceOptions options);
  void encode(std::string_view word, std::vector<int32_t>& ids, std::vector<uint32_t>* ends = nullptr) const;
  const WordPieceOptions& options() const { return options_; }

 private:
  int32_t longest(uint32_t node, std::string_view text, size_t& length) const;
  WordPieceOptions options_;
  Trie trie_;
  uint32_t inside_ = 0;       // node behind the prefix
  bool has_inside_ = false;
};

class WordLevel {
 public:
  WordLevel(const Vocab& vocab, int32_t unknown) : vocab_(vocab), unknown_(unknown) {}
  void encode(std::string_view word, std::vector<int32_t>& ids, std::vector<uint32_t>* ends = nullptr) const;
  int32_t unknown() const { return unknown_; }

 private:
  const Vocab& vocab_;
  int32_t unknown_;
};

}  // namespace weft::text
