#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "text/bpe_train.h"
#include "text/forms.h"

namespace weft::text {
namespace {

using Ids = std::vector<int32_t>;

Tokenizer small() {
  BpeTrainOptions o;
  o.vocab_size = 320;
  o.special_tokens = {"<|endoftext|>", "<|im_start|>"};
  BpeTrainer trainer(o);
  for (int i = 0; i < 20; ++i) trainer.add("the quick brown fox jumps over the lazy dog, the end. \xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80");
  return trainer.train();
}

TEST(Tokenizer, BytesComeBack) {
  const Tokenizer t = small();
  const std::string text = "the \xF0\x9F\x98\x80 fox\r\n\t\xE4\xB8\xAD  end";
  EXPECT_EQ(t.decode(t.encode(text)), text);
  std::string bytes;
  const std::string bad("\xFF\xC3 \xE4\xB8 a\0b", 10);
  for (const int32_t id : t.encode(bad)) bytes += t.token_bytes(id);
  EXPECT_EQ(bytes, bad);
}

TEST(Tokenizer, SpecialTokensInTextArePlainUnlessAsked) {
  const Tokenizer t = small();
  const std::string text = "the<|endoftext|>fox";
  const Ids plain = t.encode(text);
  EXPECT_EQ(std::count(plain.begin(), plain.end(), 0), 0);
  const Ids parsed = t.encode(text, {.parse_special = true});
  EXPECT_EQ(std::count(parsed.begin(), parsed.end(), 0), 1);
  EXPECT_EQ(t.decode(plain), text);
  EXPECT_EQ(t.decode(parsed), text);
  EXPECT_EQ(t.decode(parsed, true), "thefox");
  EXPECT_EQ(t.eos_id(), 0);
  EXPECT_TRUE(t.is_special(1));
}

TEST(Tokenizer, StreamingNeverSplitsACharacter) {
  const Tokenizer t = small();
  const std::string text = "a\xF0\x9F\x99\x82\xE4\xBA\xBA\xC3\xB6 z";
  StreamDecoder stream(t);
  std::string out;
  for (const int32_t id : t.encode(text)) {
    const std::string part = stream.push(id);
    out += part;
    EXPECT_EQ(text.compare(0, out.size(), out), 0);
    EXPECT_TRUE(out.size() == text.size() || (static_cast<uint8_t>(text[out.size()]) & 0xC0) != 0x80) << out;
  }
  EXPECT_EQ(out + stream.finish(), text);
  StreamDecoder cut(t);
  EXPECT_EQ(cut.push(t.encode("\xE4").at(0)), "");
  EXPECT_EQ(cut.finish(), "\xEF\xBF\xBD");
}

TEST(Tokenizer, OffsetsCoverTheText) {
  const Tokenizer t = small();
  const std::string text = "the quick \xE4\xB8\xAD" "fox <|im_start|>";
  const Encoding e = t.encode_with_offsets(text, {.parse_special = true});
  EXPECT_EQ(e.ids, t.encode(text, {.parse_special = true}));
  size_t at = 0;
  for (const ByteRange& r : e.offsets) {
    EXPECT_LE(r.begin, at);
    at = r.end;
  }
  EXPECT_EQ(at, text.size());
}

TEST(Tokenizer, JsonGoesRound) {
  const Tokenizer t = small();
  const std::string json = t.to_json();
  const Tokenizer again = Tokenizer::from_json(json);
  EXPECT_EQ(again.to_json(), json);
  EXPECT_EQ(again.content_hash(), t.content_hash());
  EXPECT_EQ(t.content_hash().size(), 32u);
}

TEST(Tokenizer, BatchesDoNotDependOnThreads) {
  const Tokenizer t = small();
  std::vector<std::string> texts;
  for (int i = 0; i < 100; ++i) texts.push_back("the fox number " + std::to_string(i * 7919) + std::string(static_cast<size_t>(i), 'q'));
  const std::vector<std::string_view> views(texts.begin(), texts.end());
  EXPECT_EQ(t.encode_batch(views, {}, 1), t.encode_batch(views, {}, 4));
}

TEST(Tokenizer, LongWordsAreNotQuadratic) {
  const Tokenizer t = small();
  const std::string text(3'000'000, 't');
  EXPECT_EQ(t.decode(t.encode(text)), text);
}

void refused(const std::string& json, const std::string& part) {
  try {
    Tokenizer::from_json(json, "t.json");
    ADD_FAILURE() << "taken: " << json;
  } catch (const InputError& e) {
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    EXPECT_EQ(std::string(e.what()).rfind("t.json", 0), 0u) << e.what();
  }
}

TEST(Tokenizer, BadFilesAreRefusedByFileAndRule) {
  refused("", "offset");
  refused("[]", "want an object");
  refused("{\"model\": {}, \"model\": {}}", "stands twice");
  refused(std::string(100, '['), "deeper than 64");
  refused("{\"nope\": 1}", "unknown key");
  refused("{\"version\": \"2.0\"}", "version");
  refused(R"({"model": {"type": "Magic"}})", "Magic");
  refused(R"({"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}})", "whole number");
  refused(R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []}})", "another token");
  refused(R"({"model": {"type": "BPE", "vocab": {"a": 67000000}, "merges": []}})", "holes");
  refused(R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}})", "not in the vocabulary");
  refused(R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a"]}})", "one space");
  refused(R"({"model": {"type": "BPE", "vocab": {}, "merges": [], "dropout": 0.1}})", "dropout");
  refused(R"({"pre_tokenizer": {"type": "Odd"}, "model": {"vocab": {}, "merges": []}})", "Odd");
  refused(R"({"decoder": {"type": "Odd"}, "model": {"vocab": {}, "merges": []}})", "Odd");
  refused(R"({"added_tokens": [{"id": 7, "content": "x"}], "model": {"vocab": {}, "merges": []}})", "got id 7, want 0");
  EXPECT_THROW(Tokenizer::load("/nonexistent/tokenizer.json"), InputError);
}

TEST(Forms, U11A7IsNoTrailingConsonant) {
  std::vector<Change> out;
  to_form("\xE1\x84\x89\xE1\x85\xB5\xE1\x86\xA7", Form::kNfc, out);  // U+1109 U+1175 U+11A7
  ASSERT_EQ(out.size(), 2u);
  EXPECT_EQ(out[0].code, 0xC2DCu);
  EXPECT_EQ(out[1].code, 0x11A7u);
}

}  // namespace
}  // namespace weft::text
