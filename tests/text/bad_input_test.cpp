// What files and texts can have wrong: each is refused by name, or handled as the table says.
#include <gtest/gtest.h>

#include <string>

#include "base/error.h"
#include "base/files.h"
#include "text/bpe_train.h"
#include "text/chat_template.h"

namespace weft::text {
namespace {

const char* const kModel = R"("model": {"type": "WordLevel", "unk_token": "u", "vocab": {"u": 0, "a": 1}})";

std::string refusal(const std::string& json) {
  try {
    Tokenizer::from_json(json, "t.json");
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}
std::string refused_rule(const std::string& member) { return refusal("{" + member + ", " + kModel + "}"); }

std::string template_refusal(const std::string& source, const nlohmann::ordered_json& variables = nlohmann::ordered_json::object()) {
  try {
    ChatTemplate(source, "t.jinja").render(variables);
  } catch (const InputError& e) {
    return e.what();
  }
  return "";
}

bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

Tokenizer byte_level(int32_t size = 300) {
  BpeTrainOptions o;
  o.vocab_size = size;
  BpeTrainer trainer(o);
  trainer.add("the cat and the hat and the bat");
  return trainer.train();
}

TEST(BadInput, UnknownRulesAreNamed) {
  EXPECT_TRUE(says(refused_rule(R"("normalizer": {"type": "Shout"})"), "Shout"));
  EXPECT_TRUE(says(refused_rule(R"("pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Scatter"}]})"), "Scatter"));
  EXPECT_TRUE(says(refused_rule(R"("decoder": {"type": "Mumble"})"), "Mumble"));
  EXPECT_TRUE(says(refused_rule(R"("post_processor": {"type": "Later"})"), "Later"));
  EXPECT_TRUE(says(refusal(R"({"model": {"type": "Guess", "vocab": {}}})"), "Guess"));
  EXPECT_TRUE(says(refused_rule(R"("surprise": 1)"), "surprise"));
  EXPECT_TRUE(says(refused_rule(R"("version": "9.0")"), "9.0"));
}

TEST(BadInput, APostProcessorWithIdsOutsideTheVocabularyIsRefused) {
  EXPECT_TRUE(says(refused_rule(R"("post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                    "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [65800], "tokens": ["<s>"]}}})"),
                   ".post_processor: got token id 65800, want below"));
}

TEST(BadInput, RulesThatNestWithoutEndAreRefused) {
  std::string nested = R"({"type": "NFC"})";
  for (int i = 0; i < 40; ++i) nested = R"({"type": "Sequence", "normalizers": [)" + nested + "]}";
  EXPECT_NE(refused_rule("\"normalizer\": " + nested), "");
  EXPECT_NE(refusal(std::string(100000, '[')), "");
  EXPECT_TRUE(says(refused_rule(R"("pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated", "invert": false})"), "pattern"));
}

TEST(BadInput, DuplicateKeysAndIdsAreRefused) {
  EXPECT_TRUE(says(refusal(R"({"model": {"type": "WordLevel", "unk_token": "u", "vocab": {"u": 0, "u": 1}}})"), "u"));
  EXPECT_TRUE(says(refusal(R"({"model": {"type": "WordLevel", "unk_token": "u", "vocab": {"u": 0, "a": 0}}})"), "another token"));
  EXPECT_NE(refusal(R"({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}})"), "");
}

TEST(BadInput, LoneSurrogatesAreNoText) {
  EXPECT_NE(refusal(R"({"model": {"type": "WordLevel", "unk_token": "u", "vocab": {"u": 0, "\ud800": 1}}})"), "");
  // As bytes in a text they are three invalid bytes, which byte-level vocabularies keep.
  const Tokenizer t = byte_level();
  std::string bytes;
  for (const int32_t id : t.encode("a\xED\xA0\x80z")) bytes += t.token_bytes(id);
  EXPECT_EQ(bytes, "a\xED\xA0\x80z");
}

TEST(BadInput, NulBytesAndEmptyTexts) {
  const Tokenizer t = byte_level();
  EXPECT_TRUE(t.encode("").empty());
  EXPECT_EQ(t.decode({}), "");
  const std::string text("a\0b\0\0c", 6);
  EXPECT_EQ(t.decode(t.encode(text)), text);
}

TEST(BadInput, AVeryLongLineIsOneText) {
  const Tokenizer t = byte_level();
  const std::string words(size_t{1} << 24, 'x');  // one word of 16 MiB
  EXPECT_EQ(t.encode(words).size(), words.size());
  std::string line;
  while (line.size() < (size_t{1} << 24)) line += "the cat and the hat ";
  const std::vector<int32_t> ids = t.encode(line);
  EXPECT_EQ(t.decode(ids).size(), line.size());
}

TEST(BadInput, DamagedFilesOfOtherFormatsAreRefused) {
  const std::string folder = testing::TempDir() + "/weft_bad_vocab";
  make_folders(folder);
  const std::pair<const char*, std::string> files[] = {
      {"a.tiktoken", "not base64 at all\n"}, {"b.tiktoken", "YQ== 0\nYQ== 1\n"},         {"c.gguf", std::string("GGUF\3\0\0\0", 8)},
      {"tokenizer.model", "\x0a\xff\xff\xff"}, {"tekken.json", "{\"vocab\": []}"},         {"tokenizer.json", "{"}};
  for (const auto& [name, content] : files) {
    write_file_atomic(folder + "/" + name, content);
    EXPECT_THROW(Tokenizer::load(folder + "/" + name), InputError) << name;
  }
  EXPECT_THROW(Tokenizer::load(folder + "/none.json"), InputError);
}

TEST(BadInput, TemplatesThatNeverEndAreStopped) {
  EXPECT_TRUE(says(template_refusal("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), "deeper than 50"));
  EXPECT_TRUE(says(template_refusal("{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ g() }}"), "deeper than 50"));
  EXPECT_TRUE(says(template_refusal("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"), "operations"));
  EXPECT_TRUE(says(template_refusal("{% set ns = namespace(s='x') %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"), "longer than"));
  EXPECT_TRUE(says(template_refusal("{{ 'x' * 999999999 }}"), "limit"));
  EXPECT_TRUE(says(template_refusal("{% set ns = namespace() %}{% set ns.me = ns %}"), "namespace"));
  EXPECT_TRUE(says(template_refusal("{% set ns = namespace(l=[]) %}{% for i in range(200) %}{% set ns.l = [ns.l] %}{% endfor %}"), "deeper than 100"));
  EXPECT_TRUE(says(template_refusal("{{ " + std::string(5000, '(') + "1" + std::string(5000, ')') + " }}"), "deeper than"));
}

TEST(BadInput, TemplatesNameTheLine) {
  EXPECT_TRUE(says(template_refusal("a\nb\n{{ x.y.z }}"), "t.jinja: line 3"));
  EXPECT_TRUE(says(template_refusal("{% include 'x' %}"), "include"));
  EXPECT_TRUE(says(template_refusal("\n{% if %}"), "line 2"));
  EXPECT_TRUE(says(template_refusal("\xFF"), "UTF-8"));
}

}  // namespace
}  // namespace weft::text
