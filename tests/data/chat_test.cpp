// Chat data through prepare: templates, weights in the side file, Parquet, what --show prints.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "data/chat_format.h"
#include "data/dataset.h"
#include "data/inspect.h"
#include "data/show.h"
#include "data/token_weights.h"
#include "data/tokenizers.h"
#include "folder.h"
#include "text/bpe_train.h"

namespace weft::data {
namespace {

const char* const kGeneration =
    "{%- for m in messages -%}[{{ m.role }}]{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
    "{%- endfor -%}{%- if add_generation_prompt -%}[assistant]{%- endif -%}";
const char* const kPlain =
    "{%- for m in messages -%}[{{ m.role }}]{{ m.content }}<|im_end|>{%- endfor -%}{%- if add_generation_prompt -%}[assistant]{%- endif -%}";
const char* const kForgets =  // an earlier answer is shortened once another turn follows
    "{%- for m in messages -%}[{{ m.role }}]{{ m.content if loop.last else m.content[:1] }}{%- endfor -%}{%- if add_generation_prompt -%}[assistant]{%- endif -%}";

std::string make_tokenizer(const Folder& folder) {
  text::BpeTrainOptions o;
  o.vocab_size = 340;
  o.special_tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  text::BpeTrainer trainer(o);
  trainer.add("the quick brown fox jumps over the lazy dog; the user asks and the assistant answers the question of the user\n");
  std::filesystem::create_directories(folder / "tok");
  trainer.train().save(folder / "tok/tokenizer.json");
  return folder / "tok";
}

std::string trained_text(const RenderedChat& c) {
  std::string out;
  for (const auto& [begin, end] : c.trained) out += c.text.substr(begin, end - begin) + "/";
  return out;
}

Conversation two_answers() {
  return conversations_of(R"({"messages":[{"role":"user","content":"u1"},{"role":"assistant","content":"a1","weight":0.5},{"role":"user","content":"u2"},{"role":"assistant","content":"a2"}]})", "f")[0];
}

TEST(ChatFormat, TheTemplateSaysWhatIsLearnedOrItsPrefixesDo) {
  for (const char* source : {kGeneration, kPlain}) {
    const RenderedChat c = template_renderer(std::make_shared<text::ChatTemplate>(source), Json::object())(two_answers());
    EXPECT_EQ(trained_text(c), "a1<|im_end|>/a2<|im_end|>/");
    EXPECT_EQ(c.weights, (std::vector<double>{0.5, 1}));
  }
  EXPECT_NE(error_of<InputError>([] { template_renderer(std::make_shared<text::ChatTemplate>(kForgets), Json::object())(two_answers()); }).find("try: a template with {% generation %}"), std::string::npos);
}

TEST(ChatFormat, IsFoundBesideTheTokenizer) {
  Folder folder;
  const std::string path = make_tokenizer(folder);
  const text::Tokenizer t = text::Tokenizer::load(path);
  EXPECT_EQ(chat_format(t, path).name, "chatml");
  folder.write("tok/tokenizer_config.json", Json{{"chat_template", std::string("{{ bos_token }}") + kPlain}, {"bos_token", {{"content", "<B>"}}}}.dump());
  EXPECT_TRUE(chat_format(t, path).render(two_answers()).text.starts_with("<B>[user]u1"));
  folder.write("tok/chat_template.jinja", kGeneration);
  EXPECT_TRUE(chat_format(t, path + "/tokenizer.json").name.ends_with("chat_template.jinja"));
  EXPECT_EQ(chat_format(t, path, "chatml").name, "chatml");
  folder.write("bad.jinja", "{% for %}");
  EXPECT_THROW(chat_format(t, path, folder / "bad.jinja"), InputError);
  EXPECT_THROW(chat_format(t, path, folder / "none.jinja"), InputError);
}

PrepareOptions chat_options(const Folder& folder, const std::string& tokenizer, std::vector<std::string> inputs, const std::string& out) {
  PrepareOptions o;
  o.inputs = std::move(inputs);
  o.output = folder / out;
  o.hold_out_every = 4;
  const auto t = std::make_shared<const text::Tokenizer>(text::Tokenizer::load(tokenizer));
  const ChatFormat f = chat_format(*t, tokenizer);
  o.rows = chat_rows(t, f.render);
  o.rows_identity = f.identity;
  return o;
}

std::string rows_of(int n) {
  std::string out;
  for (int i = 0; i < n; ++i) {
    Json row;
    row["messages"] = Json::array({{{"role", "user"}, {"content", "the question " + std::to_string(i)}}, {{"role", "assistant"}, {"content", "the answer " + std::to_string(i)}, {"weight", i % 3 == 0 ? 1.0 : 0.25}}});
    out += row.dump() + "\n";
  }
  return out;
}

TEST(PrepareChat, WeightsLieBesideTheTokensAndSamplesCarryThem) {
  Folder folder;
  const std::string tokenizer = make_tokenizer(folder);
  folder.write("tok/chat_template.jinja", kGeneration);
  folder.write("c.jsonl", rows_of(200));
  PrepareOptions o = chat_options(folder, tokenizer, {folder / "c.jsonl"}, "out");
  o.workers = 3;
  const PrepareReport r = prepare(o, given_tokenizer(tokenizer));
  EXPECT_EQ(r.train.documents, 150);
  EXPECT_EQ(r.val.documents, 50);
  const PreparedData d = open_prepared(o.output);
  EXPECT_TRUE(d.chat);
  const text::Tokenizer t = text::Tokenizer::load(d.tokenizer_path);
  for (const auto& [prefix, counts] : {std::pair(d.train_prefix, d.train), std::pair(d.val_prefix, d.val)}) {
    const IndexedTokens set = IndexedTokens::open(prefix);
    const auto weights = TokenWeights::open(prefix, set.tokens());
    ASSERT_TRUE(weights);
    weights->check();
    for (int64_t i = 0; i < set.sequences(); ++i) {
      std::vector<int32_t> ids(static_cast<size_t>(set.length(i))), learned;
      std::vector<float> w(ids.size());
      set.read(i, 0, set.length(i), ids.data());
      weights->read(set.begin(i), set.length(i), w.data());
      const std::string text = t.decode(ids);
      const int number = std::stoi(text.substr(text.rfind(' ')));
      for (size_t k = 0; k < ids.size(); ++k) {
        if (w[k] == 0) continue;
        learned.push_back(ids[k]);
        EXPECT_EQ(w[k], number % 3 == 0 ? 1.0f : 0.25f);
      }
      EXPECT_EQ(t.decode(learned), "the answer " + std::to_string(number) + "<|im_end|>");
    }
  }
  const auto tokens = std::make_shared<const IndexedTokens>(IndexedTokens::open(d.train_prefix));
  const TokenWindows windows(tokens, 64, false);
  float sum = 0;
  for (float w : windows.at(0).loss_weights) sum += w;
  EXPECT_GT(sum, 0);
  EXPECT_LT(sum, 40);
  const std::string shown = show_documents(d, 1);
  EXPECT_NE(shown.find("learn 1    "), std::string::npos) << shown;
  EXPECT_NE(shown.find("skip       [|"), std::string::npos) << shown;
  EXPECT_NE(show_documents(d, 1, [](const std::string& text, bool learned) { return learned ? "<green>" + text : text; }).find("<green>"), std::string::npos);
  EXPECT_EQ(inspect_data(o.output)["sets"][0]["weights"], "all right");
  std::string damaged = slurp(d.train_prefix + ".weights");
  damaged[3] ^= 1;
  folder.write("out/train_text_document.weights", damaged);
  EXPECT_NE(error_of<InputError>([&] { inspect_data(o.output); }).find("its hash differs"), std::string::npos);
}

TEST(PrepareChat, StoppedRunsGoOnAndEndEqual) {
  Folder folder;
  const std::string tokenizer = make_tokenizer(folder);
  for (int i = 0; i < 12; ++i) folder.write("c/" + std::to_string(i) + ".jsonl", rows_of(30 + i));
  PrepareOptions o = chat_options(folder, tokenizer, {folder / "c"}, "whole");
  o.dedup = o.append_eod = true;
  prepare(o, given_tokenizer(tokenizer));
  o.output = folder / "cut";
  std::atomic<bool> stop{false};
  o.stop = &stop;
  int stops = 0;
  for (int64_t at = 20;; at += 15) {
    stop = false;
    o.progress = [&](const PrepareProgress& p) { stop = stop || p.documents >= at; };
    try {
      EXPECT_TRUE(prepare(o, given_tokenizer(tokenizer)).resumed);
      break;
    } catch (const Interrupted&) {
      ++stops;
      std::ofstream(folder / "cut/train_text_document.weights.part", std::ios::app) << "lost";
    }
  }
  EXPECT_GE(stops, 2);
  for (const char* name : {"train_text_document.bin", "train_text_document.idx", "train_text_document.weights", "val_text_document.bin", "val_text_document.weights", "manifest.json"}) {
    EXPECT_EQ(slurp(folder / "cut/" + std::string(name)), slurp(folder / "whole/" + std::string(name))) << name;
  }
}

TEST(PrepareChat, TextAndRowsOfNoSchemaAreRefused) {
  Folder folder;
  const std::string tokenizer = make_tokenizer(folder);
  folder.write("a.txt", "text");
  folder.write("b.jsonl", "{\"other\":1}\n");
  EXPECT_NE(error_of<InputError>([&] { prepare(chat_options(folder, tokenizer, {folder / "a.txt"}, "o1"), given_tokenizer(tokenizer)); }).find("a.txt': plain text holds no conversations"), std::string::npos);
  EXPECT_NE(error_of<InputError>([&] { prepare(chat_options(folder, tokenizer, {folder / "b.jsonl"}, "o2"), given_tokenizer(tokenizer)); }).find("b.jsonl' line 1: no known schema"), std::string::npos);
}

TEST(Weights, ExactForUpTo256DifferentOnes) {
  Folder folder;
  TokenWeightsWriter writer(folder / "w", {});
  std::vector<float> all(1000);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<float>(i * 7 % 256) / 3;
  writer.add(all);
  writer.finish();
  const auto w = TokenWeights::open(folder / "w", 1000);
  std::vector<float> got(1000);
  w->read(0, 1000, got.data());
  EXPECT_EQ(got, all);
  EXPECT_THROW(w->read(999, 2, got.data()), InputError);
  EXPECT_THROW(TokenWeights::open(folder / "w", 999), InputError);
  EXPECT_EQ(TokenWeights::open(folder / "none", 5), nullptr);
  TokenWeightsWriter more(folder / "m", {});
  std::vector<float> many(257);
  for (size_t i = 0; i < many.size(); ++i) many[i] = static_cast<float>(i);
  EXPECT_NE(error_of<InputError>([&] { more.add(many); }).find("more than 256"), std::string::npos);
}

}  // namespace
}  // namespace weft::data
