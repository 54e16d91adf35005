#include "text/unigram_model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>

namespace weft::text {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();
constexpr double kUnknownPenalty = 10, kLeastCount = 0.5;
constexpr size_t kBlocks = 8;  // of words: sums run within and then over them, whatever the threads

double log_add(double a, double b) {
  if (a < b) std::swap(a, b);
  return b == kNever ? a : a + std::log1p(std::exp(b - a));
}

// d log Gamma(x) / dx for x > 0: the recurrence up to 7, then the asymptotic series around x - 1/2.
double digamma(double x) {
  double out = 0;
  for (; x < 7; ++x) out -= 1 / x;
  const double r = 1 / (x - 0.5), r2 = r * r, r4 = r2 * r2;
  return out + std::log(x - 0.5) + r2 / 24 - 7.0 / 960 * r4 + 31.0 / 8064 * r4 * r2 - 127.0 / 30720 * r4 * r4;
}

// Calls f(block, begin, end) for the blocks of n things on `threads` threads.
template <class F>
void in_blocks(size_t n, int threads, F f) {
  const size_t count = std::clamp<size_t>(threads > 0 ? static_cast<size_t>(threads) : std::thread::hardware_concurrency(), 1, kBlocks);
  const auto work = [&](size_t me) {
    for (size_t block = me; block < kBlocks; block += count) f(block, n * block / kBlocks, n * (block + 1) / kBlocks);
  };
  std::vector<std::thread> others;
  for (size_t t = 1; t < count; ++t) others.emplace_back(work, t);
  work(0);
  for (std::thread& t : others) t.join();
}

}  // namespace

void UnigramLattice::fill(const Trie& trie, std::span<const double> scores, double unknown_score, std::string_view word) {
  edges_.clear();
  length_ = word.size();
  for (size_t at = 0; at < word.size(); ++at) {
    bool single = false;
    uint32_t node = 0;
    for (size_t end = at; end < word.size();) {
      node = trie.child(node, static_cast<uint8_t>(word[end++]));
      if (node == 0) break;
      const int32_t piece = trie.value(node);
      if (piece < 0) continue;
      edges_.push_back({static_cast<uint32_t>(at), static_cast<uint32_t>(end), piece, scores[static_cast<size_t>(piece)]});
      single |= end == at + 1;
    }
    if (!single) edges_.push_back({static_cast<uint32_t>(at), static_cast<uint32_t>(at + 1), -1, unknown_score});
  }
}

double UnigramLattice::expect(double times, std::span<double> expected) {
  ahead_.assign(length_ + 1, kNever), behind_.assign(length_ + 1, kNever);
  ahead_[0] = behind_[length_] = 0;
  for (const Edge& e : edges_) ahead_[e.to] = log_add(ahead_[e.to], ahead_[e.from] + e.score);
  for (auto e = edges_.rbegin(); e != edges_.rend(); ++e) behind_[e->from] = log_add(behind_[e->from], behind_[e->to] + e->score);
  const double all = ahead_[length_];
  for (const Edge& e : edges_) {
    if (e.piece >= 0) expected[static_cast<size_t>(e.piece)] += times * std::exp(ahead_[e.from] + e.score + behind_[e.to] - all);
  }
  return all;
}

double UnigramLattice::best(int32_t skip, std::vector<int32_t>& pieces) {
  pieces.clear();
  ahead_.assign(length_ + 1, kNever), last_.assign(length_ + 1, -1);
  ahead_[0] = 0;
  for (size_t i = 0; i < edges_.size(); ++i) {
    const Edge& e = edges_[i];
    if (e.piece == skip && skip >= 0) continue;
    const double score = ahead_[e.from] + e.score;
    if (score > ahead_[e.to]) ahead_[e.to] = score, last_[e.to] = static_cast<int64_t>(i);
  }
  for (int64_t at = static_cast<int64_t>(length_); at > 0 && last_[static_cast<size_t>(at)] >= 0;) {
    const Edge& e = edges_[static_cast<size_t>(last_[static_cast<size_t>(at)])];
    pieces.push_back(e.piece);
    at = e.from;
  }
  return ahead_[length_];
}

UnigramModel::UnigramModel(std::vector<UnigramPiece> seeds) { replace(std::move(seeds)); }

double UnigramModel::lowest_score() const { return scores_.empty() ? 0 : *std::min_element(scores_.begin(), scores_.end()); }

void UnigramModel::replace(std::vector<UnigramPiece> pieces) {
  pieces_ = std::move(pieces);
  trie_ = Trie();
  scores_.resize(pieces_.size());
  for (size_t i = 0; i < pieces_.size(); ++i) {
    trie_.add(pieces_[i].bytes, static_cast<int32_t>(i));
    scores_[i] = pieces_[i].score;
  }
  unknown_score_ = lowest_score() - kUnknownPenalty;
}

UnigramModel::Expectation UnigramModel::expect(std::span<const CountedWord> words, int threads) const {
  std::vector<Expectation> parts(kBlocks);
  in_blocks(words.size(), threads, [&](size_t block, size_t begin, size_t end) {
    Expectation& e = parts[block];
    e.count.assign(pieces_.size(), 0);
    UnigramLattice lattice;
    for (size_t w = begin; w < end; ++w) {
      lattice.fill(trie_, scores_, unknown_score_, words[w].bytes);
      e.log_likelihood += static_cast<double>(words[w].count) * lattice.expect(static_cast<double>(words[w].count), e.count);
    }
  });
  for (size_t block = 1; block < kBlocks; ++block) {
    parts[0].log_likelihood += parts[block].log_likelihood;
    for (size_t i = 0; i < pieces_.size(); ++i) parts[0].count[i] += parts[block].count[i];
  }
  return std::move(parts[0]);
}

double UnigramModel::round(std::span<const CountedWord> words, int threads) {
  const Expectation e = expect(words, threads);
  std::vector<UnigramPiece> kept;
  double sum = 0;
  for (size_t i = 0; i < pieces_.size(); ++i) {
    if (e.count[i] < kLeastCount) continue;
    kept.push_back({std::move(pieces_[i].bytes), e.count[i]});
    sum += e.count[i];
  }
  const double log_sum = digamma(sum);
  for (UnigramPiece& p : kept) p.score = digamma(p.score) - log_sum;
  replace(std::move(kept));
  return e.log_likelihood;
}

void UnigramModel::prune(std::span<const CountedWord> words, double keep, size_t wanted, int threads) {
  const size_t n = pieces_.size();
  struct Use {
    std::vector<double> count;  // of each piece on the words' best ways
    double words = 0;
  };
  std::vector<Use> parts(kBlocks);
  in_blocks(words.size(), threads, [&](size_t block, size_t begin, size_t end) {
    Use& u = parts[block];
    u.count.assign(n, 0);
    UnigramLattice lattice;
    std::vector<int32_t> way;
    for (size_t w = begin; w < end; ++w) {
      const double times = static_cast<double>(words[w].count);
      u.words += times;
      lattice.fill(trie_, scores_, unknown_score_, words[w].bytes);
      lattice.best(-1, way);
      for (const int32_t piece : way) {
        if (piece >= 0) u.count[static_cast<size_t>(piece)] += times;
      }
    }
  });
  for (size_t block = 1; block < kBlocks; ++block) {
    parts[0].words += parts[block].words;
    for (size_t i = 0; i < n; ++i) parts[0].count[i] += parts[block].count[i];
  }
  const std::vector<double>& count = parts[0].count;
  double sum = 0;
  for (const double c : count) sum += c;
  const double log_sum = std::log(sum), all_words = parts[0].words;

  std::vector<UnigramPiece> kept;
  std::vector<std::pair<double, size_t>> losses;  // of likelihood, were a piece to go
  UnigramLattice lattice;
  std::vector<int32_t> others;
  for (size_t i = 0; i < n; ++i) {
    const std::string& bytes = pieces_[i].bytes;
    lattice.fill(trie_, scores_, unknown_score_, bytes);
    const double without = lattice.best(static_cast<int32_t>(i), others);
    const bool alone = others.empty(), best_itself = alone || scores_[i] >= without;
    if (count[i] == 0 && !best_itself) continue;
    if (alone || !best_itself) {
      kept.push_back(pieces_[i]);
      continue;
    }
    if (count[i] == 0) continue;
    // Its places would go to the others: their counts and the sum of all counts grow.
    const double log_sum_then = std::log(sum + count[i] * static_cast<double>(others.size() - 1));
    double then = 0;
    for (const int32_t o : others) then += std::log((o >= 0 ? count[static_cast<size_t>(o)] : 0) + count[i]) - log_sum_then;
    losses.emplace_back(count[i] / all_words * (std::log(count[i]) - log_sum - then), i);
  }
  const size_t size = std::max(wanted, static_cast<size_t>(static_cast<double>(n + 1) * keep)) - 1;  // upstream counts its unknown piece
  std::stable_sort(losses.begin(), losses.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  for (const auto& [loss, i] : losses) {
    if (kept.size() >= size) break;
    kept.push_back(std::move(pieces_[i]));
  }
  replace(std::move(kept));
}

}  // namespace weft::text
