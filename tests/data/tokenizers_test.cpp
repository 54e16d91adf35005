#include "data/tokenizers.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "data/indexed.h"
#include "data/inspect.h"
#include "folder.h"

namespace weft::data {
namespace {

std::string prose(int seed, int words) {
  static const char* const kWords[] = {"the ", "river ", "runs ", "under ", "an ", "old ", "bridge ", "of ", "stone;\n", "42 ", "int main() {", "}\n\n"};
  std::string out;
  uint32_t x = static_cast<uint32_t>(seed);
  for (int i = 0; i < words; ++i) out += kWords[(x = x * 1664525u + 1013904223u) >> 8 & 0xFFFFFF ? (x >> 20) % 12 : 0];
  return out;
}

TEST(Tokenizers, TrainsEncodesAndDecodesToTheSameText) {
  Folder folder;
  for (int i = 0; i < 40; ++i) folder.write("t/" + std::to_string(100 + i) + ".txt", prose(i, 400));
  text::BpeTrainOptions train;
  train.vocab_size = 400;
  PrepareOptions o;
  o.inputs = {folder / "t"};
  o.output = folder / "out";
  o.append_eod = true;
  o.workers = 2;
  const PrepareReport r = prepare(o, trained_bpe(train));
  EXPECT_LT(r.train.tokens * 2, r.train.bytes);
  const PreparedData d = open_prepared(folder / "out");
  const text::Tokenizer tokenizer = text::Tokenizer::load(d.tokenizer_path);
  EXPECT_EQ(d.vocab_size, tokenizer.vocab_size());
  EXPECT_EQ(tokenizer.token_text(d.eod), "<|endoftext|>");
  const IndexedTokens set = IndexedTokens::open(d.val_prefix);
  ASSERT_EQ(set.documents(), 2);
  for (int64_t i = 0; i < 2; ++i) {
    std::vector<int32_t> ids(static_cast<size_t>(set.length(i)));
    set.read(i, 0, set.length(i), ids.data());
    EXPECT_EQ(tokenizer.decode(ids), prose(i == 0 ? 19 : 39, 400) + "<|endoftext|>");
  }
  const Json seen = inspect_data(folder / "out");
  EXPECT_EQ(seen["manifest"], "agrees");
  EXPECT_EQ(seen["sets"][0]["documents"], 38);
  EXPECT_EQ(seen["sets"][1]["hashes"], "all right");
  EXPECT_EQ(seen["sets"][0]["first"][1]["text"], prose(1, 400).substr(0, 200));
  EXPECT_EQ(inspect_data(d.val_prefix + ".idx")["sets"][0]["tokens"], seen["sets"][1]["tokens"]);
  // The tokenizer that was made, taken as it is, gives the same tokens.
  PrepareOptions again = o;
  again.output = folder / "again";
  prepare(again, given_tokenizer(d.tokenizer_path));
  for (const char* name : {"train_text_document.bin", "train_text_document.idx", "val_text_document.bin", "tokenizer.json"}) {
    EXPECT_EQ(slurp(folder / "again/" + std::string(name)), slurp(folder / "out/" + std::string(name))) << name;
  }
  folder.write("again/tokenizer.json", slurp(d.tokenizer_path) + " ");
  EXPECT_NE(error_of<InputError>([&] { inspect_data(folder / "again"); }).find("is not the tokenizer that made"), std::string::npos);
  EXPECT_NE(error_of<ConfigError>([&] { given_tokenizer(d.tokenizer_path, "<nowhere>").make({}); }).find("<nowhere>"), std::string::npos);
}

TEST(Tokenizers, PiecesOfALongTextEncodeLikeTheWhole) {
  Folder folder;
  const std::string text = prose(3, 200000);
  folder.write("t.txt", text);
  text::BpeTrainOptions train;
  train.vocab_size = 300;
  std::vector<int32_t> ids;
  std::unique_ptr<TextEncoder> encoder;
  {
    bool given = false;
    encoder = trained_bpe(train).make([&](std::string& out) { return out = text, !std::exchange(given, true); });
  }
  encoder->encode(text, ids);
  CorpusReader::Options options;
  options.block_bytes = 1000;
  options.hold_out_every = 0;
  const Corpus corpus = list_corpus({folder / "t.txt"});
  CorpusReader reader(corpus, options);
  std::vector<int32_t> pieces;
  int64_t blocks = 0;
  for (Block block; reader.next(block); ++blocks) encoder->encode(block.bytes, pieces);
  EXPECT_GT(blocks, 1000);
  EXPECT_EQ(pieces, ids);
}

}  // namespace
}  // namespace weft::data
