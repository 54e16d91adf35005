#include "data/tokenizers.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "data/indexed.h"
#include "data/inspect.h"
#include "data/open.h"
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

std::string base64_of(uint8_t byte) {
  static const char* const kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  return {kDigits[byte >> 2], kDigits[(byte & 3) << 4], '=', '='};
}
std::string base64_of(uint8_t a, uint8_t b) {
  static const char* const kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  return {kDigits[a >> 2], kDigits[(a & 3) << 4 | b >> 4], kDigits[(b & 15) << 2], '='};
}

// Every kind of file that text/ reads: the tokens of `prepare` are its ids, and what lies beside them is that tokenizer again.
TEST(Tokenizers, PrepareTakesEveryFormat) {
  Folder folder;
  for (int i = 0; i < 4; ++i) folder.write("t/" + std::to_string(i) + ".txt", prose(i, 60) + " caf\u00e9 \u6771\u4eac\n");
  std::string ranks;
  Json tekken{{"config", {{"pattern", "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|\\s+|."}, {"default_num_special_tokens", 4}, {"default_vocab_size", 260}}}, {"vocab", Json::array()}};
  for (int i = 0; i < 256; ++i) {
    ranks += base64_of(static_cast<uint8_t>(i)) + " " + std::to_string(i) + "\n";
    tekken["vocab"].push_back({{"rank", i}, {"token_bytes", base64_of(static_cast<uint8_t>(i))}, {"token_str", nullptr}});
  }
  for (int i = 256; i < 50256; ++i) ranks += base64_of(static_cast<uint8_t>((i - 256) / 256), static_cast<uint8_t>(i)) + " " + std::to_string(i) + "\n";  // as many as the real file has
  std::string words = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nriver\nold\nof\nstone\n";
  for (char c = 'a'; c <= 'z'; ++c) words += std::string(1, c) + "\n##" + c + "\n";
  const std::string seeds = std::string(WEFT_TEXT_SEEDS) + "/";
  const struct { std::string path, kept; } formats[] = {
      {seeds + "tokenizer_bpe.json", "tokenizer.json"},   {seeds + "tokenizer_unigram.json", "tokenizer.json"}, {seeds + "tokenizer_wordpiece.json", "tokenizer.json"},
      {seeds + "spm_bpe", "tokenizer.model"},             {seeds + "spm_unigram", "tokenizer.model"},           {seeds + "vocab.gguf", ""},
      {folder.write("r50k_base.tiktoken", ranks), "tokenizer.json"}, {folder.write("k/tekken.json", tekken.dump()), "tokenizer.json"}, {folder.write("w/vocab.txt", words), "tokenizer.json"},
      {folder / "k", "tokenizer.json"},  // a folder with one
  };
  int number = 0;
  for (const auto& [path, kept] : formats) {
    PrepareOptions o;
    o.inputs = {folder / "t"};
    o.output = folder / ("out" + std::to_string(number++));
    o.hold_out_every = 0;
    prepare(o, given_tokenizer(path));
    const PreparedData d = open_prepared(o.output);
    if (!kept.empty()) {
      EXPECT_EQ(d.tokenizer_path, o.output + "/" + kept) << path;
    }
    const text::Tokenizer given = text::Tokenizer::load(path), found = text::Tokenizer::load(d.tokenizer_path), in_folder = text::Tokenizer::load(o.output);
    EXPECT_EQ(found.content_hash(), in_folder.content_hash()) << path;
    const IndexedTokens set = IndexedTokens::open(d.train_prefix);
    for (int64_t i = 0; i < 4; ++i) {
      const std::string text = slurp(folder / ("t/" + std::to_string(i) + ".txt"));
      std::vector<int32_t> ids(static_cast<size_t>(set.length(i)));
      set.read(i, 0, set.length(i), ids.data());
      EXPECT_EQ(ids, given.encode(text)) << path;
      EXPECT_EQ(ids, found.encode(text)) << path;
      EXPECT_EQ(given.decode(ids), found.decode(ids)) << path;
    }
    EXPECT_EQ(inspect_data(o.output)["manifest"], "agrees") << path;
    DataConfig c;
    c.path = o.output, c.seq_len = 16;
    const TokenizerFile file = tokenizer_file(open_data(c, {}));
    EXPECT_EQ(file.bytes, slurp(d.tokenizer_path)) << path;
    EXPECT_TRUE(prepare(o, given_tokenizer(path)).reused) << path;
  }
  // Other data in the folder: no tokenizer of the old stays.
  PrepareOptions o;
  o.inputs = {folder / "t"}, o.output = folder / "out3", o.hold_out_every = 0, o.overwrite = true;
  prepare(o, given_tokenizer(formats[0].path));
  EXPECT_FALSE(std::filesystem::exists(folder / "out3/tokenizer.model"));
  EXPECT_EQ(text::Tokenizer::load(folder / "out3").content_hash(), text::Tokenizer::load(formats[0].path).content_hash());
}

// A tokenizer.model that is written from pieces says the same as the one they were read from.
TEST(Tokenizers, SentencePieceIsWrittenAndReadAgain) {
  for (const char* name : {"/spm_bpe", "/spm_unigram"}) {
    const text::Tokenizer one = text::Tokenizer::load(WEFT_TEXT_SEEDS + std::string(name));
    EXPECT_EQ(one.to_file().name, "tokenizer.model");
    EXPECT_EQ(one.to_file().bytes, slurp(WEFT_TEXT_SEEDS + std::string(name)));
    EXPECT_NE(error_of<UnsupportedError>([&] { one.to_json(); }).find("try: its tokenizer.model"), std::string::npos);
  }
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
