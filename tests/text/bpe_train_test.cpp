#include "text/bpe_train.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"

namespace weft::text {
namespace {

std::vector<std::string> some_texts() {
  std::vector<std::string> out;
  uint32_t state = 7;
  const char* words[] = {"low", "lower", "newest", "widest", " the", " of", "\n", " int x = 42;", "\xC3\xA9t\xC3\xA9", " \xE4\xB8\xAD\xE6\x96\x87", "  "};
  for (int i = 0; i < 200; ++i) {
    std::string text;
    for (int k = 0; k < 50; ++k) {
      state = state * 1664525u + 1013904223u;
      text += words[(state >> 16) % 11];
    }
    out.push_back(text);
  }
  return out;
}

std::string trained(const std::vector<std::string>& texts, int threads, size_t group) {
  BpeTrainOptions o;
  o.vocab_size = 400;
  o.threads = threads;
  BpeTrainer trainer(o);
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  for (size_t at = 0; at < views.size(); at += group) {
    trainer.add(std::span(views).subspan(at, std::min(group, views.size() - at)));
  }
  return trainer.train().to_json();
}

TEST(BpeTrain, DependsOnNeitherThreadsNorGroupsNorOrder) {
  std::vector<std::string> texts = some_texts();
  const std::string first = trained(texts, 1, 200);
  EXPECT_EQ(first, trained(texts, 3, 200));
  EXPECT_EQ(first, trained(texts, 2, 7));
  std::reverse(texts.begin(), texts.end());
  EXPECT_EQ(first, trained(texts, 1, 1));
}

TEST(BpeTrain, MergesTheMostFrequentPairAndTiesByLowerIds) {
  BpeTrainOptions o;
  o.vocab_size = 259;
  o.special_tokens = {"<x>"};
  BpeTrainer trainer(o);
  trainer.add("aab");
  trainer.add("aab");
  trainer.add("cd");
  trainer.add("cd");
  const Tokenizer t = trainer.train();
  // (a,a), (a,b) and (c,d) are seen twice: the lowest ids win; then (c,d) before (aa,b).
  EXPECT_EQ(t.token_text(257), "aa");
  EXPECT_EQ(t.token_text(258), "cd");
  EXPECT_EQ(t.id_of("<x>"), 0);
}

TEST(BpeTrain, WordsThatDoNotFitInMemoryAreCounted) {
  BpeTrainOptions o;
  o.vocab_size = 300;
  o.memory_bytes = 16 << 20;
  o.threads = 1;
  BpeTrainer trainer(o);
  std::string text;
  for (int i = 0; i < 200000; ++i) text += " w" + std::string(1, static_cast<char>('a' + i % 26)) + std::string(1, static_cast<char>('a' + i / 26 % 26)) + std::string(1, static_cast<char>('a' + i / 676 % 26)) + std::string(1, static_cast<char>('a' + i / 17576 % 26));
  text += " frequent frequent frequent";
  trainer.add(text);
  const Tokenizer t = trainer.train();
  EXPECT_GT(trainer.stats().dropped_words, 0);
  EXPECT_GT(trainer.stats().dropped_bytes, 0);
}

TEST(BpeTrain, WrongOptionsAreRefused) {
  BpeTrainOptions o;
  o.vocab_size = 100;
  EXPECT_THROW(BpeTrainer{o}, ConfigError);
  o.vocab_size = 1000, o.memory_bytes = 1;
  EXPECT_THROW(BpeTrainer{o}, ConfigError);
  o.memory_bytes = 1 << 30, o.pattern = "(";
  EXPECT_THROW(BpeTrainer{o}, InputError);
}

TEST(BpeTrain, AnEmptyCorpusGivesTheBytes) {
  BpeTrainOptions o;
  BpeTrainer trainer(o);
  const Tokenizer t = trainer.train();
  EXPECT_EQ(t.vocab_size(), 257);
  const std::string any("\0\xFF\x80 text", 8);
  EXPECT_EQ(t.encode(any).size(), any.size());
}

}  // namespace
}  // namespace weft::text
