// Every source that a recipe can name, opened from its settings as `weft train` opens it.
#include "data/open.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "data/gpt_dataset.h"
#include "data/indexed.h"
#include "data/row_dataset.h"
#include "data/tokenizers.h"
#include "folder.h"
#include "text/bpe_train.h"

namespace weft::data {
namespace {

const char* const kWords = "the quick brown fox jumps over the lazy dog; the user asks and the assistant answers the question of the user\n";

std::string make_tokenizer(const Folder& folder) {
  text::BpeTrainOptions o;
  o.vocab_size = 330;
  o.special_tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"};
  text::BpeTrainer trainer(o);
  trainer.add(kWords);
  trainer.train().save(folder / "tokenizer.json");
  return folder / "tokenizer.json";
}

void make_set(const std::string& prefix, int documents, int32_t top) {
  IndexedWriter writer(prefix, TokenType::kU16);
  for (int d = 0; d < documents; ++d) writer.add_document(std::vector<int32_t>(static_cast<size_t>(5 + d % 40), 1 + d % top));
  writer.finish();
}

RunShape shape() { return {.steps = 10, .batch = 4, .micro_batch = 2, .ranks = 1, .eval_every = 5, .eval_samples = 4, .seed = 7}; }

DataConfig config_of(const Json& j) { return config::from_json<DataConfig>(j, "test"); }

TEST(OpenData, MegatronBlendsAndSplits) {
  Folder folder;
  make_set(folder / "a", 300, 90);
  make_set(folder / "b", 100, 50);
  DataConfig c = config_of({{"seq_len", 16}, {"source", {{"kind", "megatron"}, {"blend", {"0.7", folder / "a", "0.3", folder / "b"}}, {"split", "80,10,10"}, {"cache", folder / "cache"}, {"seed", 5}}}});
  const OpenedData d = open_data(c, shape());
  EXPECT_GE(d.train->size(), 40);
  EXPECT_GE(d.val->size(), 12);  // (10 / 5 + 1) evaluations of one batch
  EXPECT_EQ(d.vocab_size, 0);
  EXPECT_EQ(d.order->at(3), 3);  // the set has Megatron's order itself
  EXPECT_EQ(d.order->at(d.train->size()), -1);
  GptDataConfig g;
  g.blend = Blend{{folder / "a", folder / "b"}, {0.7, 0.3}};
  g.split = "80,10,10";
  g.sizes = gpt_sample_counts(10, 4, 5, 1);
  g.seq_len = 16, g.seed = 5;
  const auto want = open_gpt(g, Split::kTrain);
  ASSERT_EQ(d.train->size(), want->size());
  for (int64_t i = 0; i < want->size(); ++i) {
    EXPECT_EQ(d.train->at(i).tokens, want->at(i).tokens);
    EXPECT_EQ(d.train->starts(i).starts, want->at(i).document_starts);  // of a blend, without the tokens
  }
  EXPECT_GT(open_split(c, shape(), "test")->size(), 0);

  c = config_of({{"seq_len", 16}, {"source", {{"kind", "megatron"}, {"train", {folder / "a"}}, {"valid", {folder / "b"}}, {"order", "cyclic"}}}});
  const OpenedData each = open_data(c, shape());
  EXPECT_GT(each.val->size(), 0);
  std::vector<int64_t> places;
  for (int64_t i = 0; i < 20; ++i) places.push_back(each.order->at(i));
  EXPECT_FALSE(std::is_sorted(places.begin(), places.end()));
  EXPECT_NE(each.hash, d.hash);
  EXPECT_THROW(open_data(config_of({{"source", {{"kind", "megatron"}}}}), shape()), ConfigError);
  EXPECT_THROW(open_split(c, shape(), "test"), InputError);
}

TEST(OpenData, PreparedStreamsOrPacksAndFim) {
  Folder folder;
  std::string text;
  for (int i = 0; i < 400; ++i) text += "{\"text\":\"the fox asks question " + std::to_string(i) + "\"}\n";
  folder.write("t.jsonl", text);
  PrepareOptions p;
  p.inputs = {folder / "t.jsonl"};
  p.output = folder / "out";
  p.append_eod = true;
  prepare(p, given_tokenizer(make_tokenizer(folder)));
  DataConfig c = config_of({{"path", folder / "out"}, {"seq_len", 64}});
  const OpenedData stream = open_data(c, shape());
  EXPECT_GT(stream.train_bytes_per_token, 1);
  EXPECT_EQ(stream.tokenizer_path, folder / "out/tokenizer.json");
  c = config_of({{"path", folder / "out"}, {"seq_len", 64}, {"source", {{"kind", "prepared"}, {"fill", "pack"}}}});
  const OpenedData packed = open_data(c, shape());
  EXPECT_NE(packed.description.find("documents packed"), std::string::npos);
  int64_t documents = 0;
  for (int64_t i = 0; i < packed.train->size(); ++i) {
    const Sample s = packed.train->at(i);
    for (size_t k = 0; k < s.document_starts.size(); ++k) {
      const size_t at = static_cast<size_t>(s.document_starts[k]);
      const bool padding = s.tokens[at] == s.tokens[at + (at + 1 < 64)];
      documents += !padding;
      if (k > 0) { EXPECT_EQ(s.loss_weights[at - 1], 0); }
    }
  }
  EXPECT_EQ(documents, 380);
  c = config_of({{"path", folder / "out"}, {"seq_len", 64}, {"fim", {{"rate", 1.0}}}});
  const OpenedData fim = open_data(c, shape());
  EXPECT_NE(fim.description.find("fill in the middle at rate 1"), std::string::npos);
  EXPECT_NE(fim.train->at(0).tokens, stream.train->at(0).tokens);
  EXPECT_EQ(fim.train->at(0).tokens.size(), 65u);
}

TEST(OpenData, RowsOnTheFlyAndMock) {
  Folder folder;
  const std::string tokenizer = make_tokenizer(folder);
  std::string text, chat;
  for (int i = 0; i < 300; ++i) {
    text += "{\"body\":\"the quick fox " + std::to_string(i) + "\"}\n";
    chat += R"({"instruction":"the question","output":"the answer )" + std::to_string(i) + "\"}\n";
  }
  folder.write("t.jsonl", text);
  folder.write("c.jsonl", chat);
  const OpenedData t = open_data(config_of({{"seq_len", 32}, {"tokenizer", tokenizer}, {"source", {{"kind", "text"}, {"train", {folder / "t.jsonl"}}, {"valid", {folder / "t.jsonl"}}, {"key", "body"}}}}), shape());
  EXPECT_GT(t.train->size(), 30);
  EXPECT_EQ(t.val->size(), t.train->size());
  EXPECT_EQ(t.vocab_size, text::Tokenizer::load(tokenizer).vocab_size());
  const OpenedData c = open_data(config_of({{"seq_len", 64}, {"tokenizer", tokenizer}, {"source", {{"kind", "chat"}, {"train", {folder / "c.jsonl"}}, {"align", 8}}}}), shape());
  const Sample s = c.train->at(0);
  EXPECT_GT(s.document_starts.size(), 1u);
  for (int32_t start : s.document_starts) EXPECT_EQ(start % 8, 0);
  EXPECT_EQ(c.order->at(0), 0);
  const OpenedData m = open_data(config_of({{"seq_len", 32}, {"source", {{"kind", "mock"}, {"vocab_size", 99}}}}), shape());
  EXPECT_TRUE(m.description.starts_with("mock data"));
  EXPECT_EQ(m.vocab_size, 99);
  EXPECT_NE(m.val->at(0).tokens, m.train->at(0).tokens);
  EXPECT_EQ(tokenizer_file(m).name, "");
  EXPECT_EQ(tokenizer_file(c).bytes, slurp(tokenizer));
  EXPECT_NE(error_of<ConfigError>([&] { open_data(config_of({{"source", {{"kind", "text"}, {"train", {"x"}}}}}), shape()); }).find("data.tokenizer: not set"), std::string::npos);
  EXPECT_NE(error_of<ConfigError>([&] { open_data(DataConfig{}, shape()); }).find("data.path: not set"), std::string::npos);
}

}  // namespace
}  // namespace weft::data
