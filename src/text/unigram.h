// Unigram language model (Kudo 2018): of all ways to cut a text into tokens, the one with the highest sum of scores.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/trie.h"
#include "text/vocab.h"

namespace weft::text {

struct UnigramOptions {
  int32_t unknown = -1;        // id, or -1: a text with an unknown character is refused
  bool raw_bytes = false;      // texts and tokens are bytes and every byte is a symbol (byte-level); else characters are
  bool byte_fallback = false;  // unknown characters become the tokens <0xAB> of their bytes
  bool single_precision = false;  // sums in fp32, as SentencePiece's own library; else fp64, as Hugging Face's
  std::vector<uint8_t> unusable;      // [vocab] 1: never chosen (control tokens); empty: none
  std::vector<uint8_t> user_defined;  // [vocab] 1: always chosen, with a score of its own length (SentencePiece)
};

class Unigram {
 public:
  struct Scratch {
    struct Node {
      double score;
      int32_t id;
      uint32_t from;
    };
    std::vector<Node> best;  // [bytes + 1] of the best way to get there
    std::vector<uint32_t> path;
  };
  // Several ids may have one string; the last is chosen. `vocab` must outlive this.
  Unigram(const Vocab& vocab, std::vector<double> scores, UnigramOptions options);
  void encode(std::string_view text, Scratch&, std::vector<int32_t>& ids, std::vector<uint32_t>* ends = nullptr) const;
  const std::vector<double>& scores() const { return scores_; }
  const UnigramOptions& options() const { return options_; }

 private:
  template <class Float>
  void best_path(std::string_view text, Scratch&) const;
  const Vocab& vocab_;
  std::vector<double> scores_;
  UnigramOptions options_;
  Trie trie_;
  double unknown_score_ = 0;
  int32_t byte_id_[256];
};

}  // namespace weft::text
