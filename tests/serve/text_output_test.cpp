#include "serve/text_output.h"

#include <gtest/gtest.h>

#include "text/bpe_train.h"

namespace weft::serve {
namespace {

text::Tokenizer bytes_only() {  // every byte is a token of its own, so that stops fall between tokens
  text::BpeTrainOptions o;
  o.vocab_size = 257;
  text::BpeTrainer trainer(o);
  trainer.add("some text");
  return trainer.train();
}

std::string run(const std::string& text, const std::vector<std::string>& stops, std::vector<std::string>* pieces = nullptr) {
  const text::Tokenizer t = bytes_only();
  TextOutput out(t, stops);
  std::string all;
  for (int32_t id : t.encode(text)) {
    const std::string piece = out.push(id);
    if (pieces != nullptr && !piece.empty()) pieces->push_back(piece);
    all += piece;
  }
  all += out.finish();
  EXPECT_EQ(all, out.text());
  return all;
}

}  // namespace

TEST(TextOutput, EndsBeforeTheFirstStopWhereverTokensEnd) {
  EXPECT_EQ(run("one END two", {"END"}), "one ");
  EXPECT_EQ(run("one EN two", {"END"}), "one EN two");
  EXPECT_EQ(run("aab", {"ab", "b"}), "a");
  EXPECT_EQ(run("one", {""}), "one");
  EXPECT_EQ(run("ENDEND", {"END"}), "");
}

TEST(TextOutput, HoldsBackWhatMayBecomeAStopAndNothingElse) {
  std::vector<std::string> pieces;
  EXPECT_EQ(run("aE!", {"END"}, &pieces), "aE!");
  EXPECT_EQ(pieces, (std::vector<std::string>{"a", "E!"}));
}

TEST(TextOutput, NeverSplitsACharacter) {
  std::vector<std::string> pieces;
  EXPECT_EQ(run("\xc3\xa9\xe2\x82\xac", {"x"}, &pieces), "\xc3\xa9\xe2\x82\xac");
  EXPECT_EQ(pieces, (std::vector<std::string>{"\xc3\xa9", "\xe2\x82\xac"}));
}

}  // namespace weft::serve
