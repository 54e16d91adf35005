#include "text/unigram_train.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/error.h"
#include "text/unigram_model.h"

namespace weft::text {
namespace {

std::vector<std::string> some_texts() {
  std::vector<std::string> out;
  uint32_t state = 11;
  const char* words[] = {"low", "lower", "newest", "widest", " the", " of", "\n", " int x = 42;", "\xC3\xA9t\xC3\xA9", " \xE4\xB8\xAD\xE6\x96\x87", "  "};
  for (int i = 0; i < 100; ++i) {
    std::string text;
    for (int k = 0; k < 40; ++k) {
      state = state * 1664525u + 1013904223u;
      text += words[(state >> 16) % 11];
    }
    out.push_back(text);
  }
  return out;
}

std::string trained(const std::vector<std::string>& texts, int threads, size_t group) {
  UnigramTrainOptions o;
  o.vocab_size = 300;
  o.threads = threads;
  UnigramTrainer trainer(o);
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  for (size_t at = 0; at < views.size(); at += group) trainer.add(std::span(views).subspan(at, std::min(group, views.size() - at)));
  return trainer.train().to_json();
}

TEST(UnigramTrain, DependsOnNeitherThreadsNorGroupsNorOrder) {
  std::vector<std::string> texts = some_texts();
  const std::string first = trained(texts, 1, 100);
  EXPECT_EQ(first, trained(texts, 3, 100));
  std::reverse(texts.begin(), texts.end());
  EXPECT_EQ(first, trained(texts, 2, 7));
}

TEST(UnigramTrain, EveryTextComesBackAndSpecialTokensAreNeverMade) {
  UnigramTrainOptions o;
  o.vocab_size = 290;
  o.special_tokens = {"the", "<|endoftext|>"};  // a special token that looks like a word
  o.pattern = "[^ ]+| ";
  UnigramTrainer trainer(o);
  for (const std::string& t : some_texts()) trainer.add(t);
  const Tokenizer t = trainer.train();
  EXPECT_EQ(t.vocab_size(), 290);
  EXPECT_EQ(t.id_of("<|endoftext|>"), 289);
  const std::string text = "the \xF0\x9F\x98\x80<|endoftext|>\r\n\xE4\xB8\xAD  newest";
  const std::vector<int32_t> ids = t.encode(text);
  EXPECT_EQ(t.decode(ids), text);
  EXPECT_EQ(std::count_if(ids.begin(), ids.end(), [](int32_t id) { return id >= 288; }), 0);
  std::string bytes;
  const std::string bad("\xFF\xC3 \xE4\xB8 a\0b", 10);
  for (const int32_t id : t.encode(bad)) bytes += t.token_bytes(id);
  EXPECT_EQ(bytes, bad);
  EXPECT_LT(t.encode("newest").size(), 6u);
  EXPECT_EQ(Tokenizer::from_json(t.to_json()).encode(text), ids);
}

// The sum over all ways of all words, by walking through the ways one by one.
double likelihood_of(const std::vector<UnigramPiece>& pieces, std::string_view word) {
  if (word.empty()) return 1;
  double sum = 0;
  for (const UnigramPiece& p : pieces) {
    if (word.starts_with(p.bytes)) sum += std::exp(p.score) * likelihood_of(pieces, word.substr(p.bytes.size()));
  }
  return sum;
}

TEST(UnigramTrain, ExpectedCountsAreThoseOfAllWaysToCutAWord) {
  const std::vector<UnigramPiece> pieces = {{"a", std::log(0.2)}, {"b", std::log(0.1)}, {"ab", std::log(0.3)}, {"ba", std::log(0.25)}, {"aba", std::log(0.15)}};
  const UnigramModel model(pieces);
  const CountedWord words[] = {{"ababa", 3}, {"ab", 2}};
  const auto e = model.expect(words, 1);
  double want = 0;
  for (const CountedWord& w : words) want += static_cast<double>(w.count) * std::log(likelihood_of(pieces, w.bytes));
  EXPECT_NEAR(e.log_likelihood, want, 1e-12);
  // d log likelihood / d score of a piece is its expected count.
  for (size_t i = 0; i < pieces.size(); ++i) {
    std::vector<UnigramPiece> more = pieces, less = pieces;
    const double h = 1e-5;
    more[i].score += h, less[i].score -= h;
    const double slope = (UnigramModel(more).expect(words, 1).log_likelihood - UnigramModel(less).expect(words, 1).log_likelihood) / (2 * h);
    EXPECT_NEAR(e.count[i], slope, 1e-8) << pieces[i].bytes;
  }
}

TEST(UnigramTrain, RoundsOfEmMakeTheWordsMoreLikely) {
  UnigramModel model({{"a", -2}, {"b", -2}, {"c", -2}, {"ab", -3}, {"abc", -5}, {"bc", -3}, {"ca", -3}});
  const CountedWord words[] = {{"abcabcabc", 40}, {"ab", 300}, {"cab", 25}};
  const double first = model.round(words, 1);
  const double second = model.round(words, 1);
  EXPECT_GT(second, first);
  EXPECT_GE(model.expect(words, 1).log_likelihood, second - 1);  // the prior may cost a little
}

TEST(UnigramTrain, SeedsAreRepeatedSubstrings) {
  WordCount words;
  words.add("abab", 5);
  words.add("xab", 1);
  const std::vector<UnigramPiece> seeds = unigram_seeds(words, 16, 1000);
  // a, b, x by their counts in the corpus: 11 each but x; "ab" stands at three places of the distinct words.
  ASSERT_EQ(seeds.size(), 4u);
  EXPECT_EQ(seeds[0].bytes, "b");
  EXPECT_EQ(seeds[1].bytes, "a");
  EXPECT_EQ(seeds[2].bytes, "x");
  EXPECT_EQ(seeds[3].bytes, "ab");
  EXPECT_NEAR(seeds[3].score, std::log(6.0 / (11 + 11 + 1 + 6)), 1e-12);
}

TEST(UnigramTrain, RefusesWhatCannotBe) {
  const auto with = [](auto change) {
    UnigramTrainOptions o;
    change(o);
    UnigramTrainer trainer(o);
  };
  EXPECT_THROW(with([](auto& o) { o.vocab_size = 256; }), ConfigError);
  EXPECT_THROW(with([](auto& o) { o.keep = 1; }), ConfigError);
  EXPECT_THROW(with([](auto& o) { o.max_piece_bytes = 20; }), ConfigError);
  EXPECT_THROW(with([](auto& o) { o.special_tokens = {"a", "a"}; }), ConfigError);
  EXPECT_THROW(with([](auto& o) { o.memory_bytes = 5; }), ConfigError);
  UnigramTrainOptions o;
  o.vocab_size = 400;
  UnigramTrainer empty(o);
  EXPECT_EQ(empty.train().vocab_size(), 257);  // nothing to learn from: the bytes
}

}  // namespace
}  // namespace weft::text
