// The language model of a Unigram vocabulary in training: how likely words are, and how often each piece is expected in them.
#pragma once
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "text/trie.h"
#include "text/unigram_seed.h"

namespace weft::text {

struct CountedWord {
  std::string_view bytes;
  int64_t count;
};

// One word's ways through the pieces. Buffers of one thread.
class UnigramLattice {
 public:
  struct Edge {
    uint32_t from, to;
    int32_t piece;  // -1: a byte that no piece is
    double score;
  };
  // All pieces inside `word`. A byte that is no piece gets `unknown_score`.
  void fill(const Trie&, std::span<const double> scores, double unknown_score, std::string_view word);
  // Adds times * probability of each edge's piece to `expected` (unknown bytes to none); the log of the word's probability.
  double expect(double times, std::span<double> expected);
  // The best way's edges, last first, without those that `skip` (a piece) stands for when skip >= 0; the sum of its scores.
  // -infinity and no edges when there is no way.
  double best(int32_t skip, std::vector<int32_t>& pieces);

 private:
  size_t length_ = 0;
  std::vector<Edge> edges_;  // by `from`
  std::vector<double> ahead_, behind_;
  std::vector<int64_t> last_;
};

class UnigramModel {
 public:
  explicit UnigramModel(std::vector<UnigramPiece> seeds);
  const std::vector<UnigramPiece>& pieces() const { return pieces_; }
  double lowest_score() const;
  struct Expectation {
    double log_likelihood = 0;  // of all words, with their counts
    std::vector<double> count;  // of each piece
  };
  Expectation expect(std::span<const CountedWord> words, int threads) const;
  // One round of EM: scores from the expected counts; pieces below half an occurrence go. The likelihood before it.
  double round(std::span<const CountedWord> words, int threads);
  // Leaves at least `wanted` pieces, and about `keep` of them, without which the words would be least likely.
  void prune(std::span<const CountedWord> words, double keep, size_t wanted, int threads);

 private:
  void replace(std::vector<UnigramPiece> pieces);
  std::vector<UnigramPiece> pieces_;
  std::vector<double> scores_;
  double unknown_score_ = 0;
  Trie trie_;
};

}  // namespace weft::text
