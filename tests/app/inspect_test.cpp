// weft inspect tokens and template, as a user calls them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/files.h"
#include "text/bpe_train.h"
#include "program.h"

namespace weft::app {
namespace {

class Inspect : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path().string() + "/weft_inspect_" + std::to_string(::getpid());
    make_folders(folder_);
    text::BpeTrainOptions o;
    o.vocab_size = 280;
    text::BpeTrainer trainer(o);
    trainer.add("the cat and the hat");
    trainer.train().save(folder_ + "/tokenizer.json");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Standard output of a command; "code N" where it fails.
  std::string run(const std::string& command) {
    const int code = run_program(folder_, command);
    if (code == 0) return read_file(folder_ + "/out");
    return "code " + std::to_string(code) + ": " + read_file(folder_ + "/err");
  }
  std::string folder_;
};

TEST_F(Inspect, LinesToIdsAndBack) {
  const std::string ids = run("printf 'the cat\\n\\nthe<|endoftext|>\\r\\n' | $weft inspect tokens --tokenizer tokenizer.json");
  EXPECT_EQ(std::count(ids.begin(), ids.end(), '\n'), 3);
  EXPECT_NE(ids.find("\n[]\n"), std::string::npos) << ids;
  EXPECT_EQ(ids.find("[0"), std::string::npos) << ids;
  write_file_atomic(folder_ + "/ids", ids);
  EXPECT_EQ(run("$weft inspect tokens --tokenizer tokenizer.json --decode < ids"), "the cat\n\nthe<|endoftext|>\r\n");
  EXPECT_EQ(run("echo '<|endoftext|>' | $weft inspect tokens --tokenizer . --special"), "[0]\n");
}

TEST_F(Inspect, JsonLinesHoldLineEndsAndNul) {
  write_file_atomic(folder_ + "/lines", "\"a\\nb\\u0000\\u00e9\"\n\"\"\n");
  write_file_atomic(folder_ + "/ids", run("$weft inspect tokens --tokenizer tokenizer.json --json-lines < lines"));
  EXPECT_EQ(run("$weft inspect tokens --tokenizer tokenizer.json --json-lines --decode < ids"), "\"a\\nb\\u0000\xC3\xA9\"\n\"\"\n");
}

TEST_F(Inspect, ATemplateOfAFolder) {
  write_file_atomic(folder_ + "/tokenizer_config.json",
                    R"({"bos_token": {"content": "<s>"}, "chat_template": [{"name": "default", "template": "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"},
                      {"name": "tool_use", "template": "{{ tools | length }}"}]})");
  write_file_atomic(folder_ + "/m.json", R"([{"role": "user", "content": "hi"}])");
  EXPECT_EQ(run("$weft inspect template . --messages m.json"), "<s>[user]hi\n");
  EXPECT_EQ(run("$weft inspect template . --messages - --prompt < m.json"), "<s>[user]hi[assistant]\n");
  EXPECT_EQ(run("echo '[{\"type\": \"function\"}]' > t.json; $weft inspect template . --messages m.json --name tool_use --tools t.json"), "1\n");
  EXPECT_EQ(run("$weft inspect template . --messages m.json --json -"), "{\n  \"text\": \"<s>[user]hi\",\n  \"generated\": [\n    [\n      9,\n      11\n    ]\n  ]\n}\n");
  write_file_atomic(folder_ + "/chat_template.jinja", "{{ messages[0].content }}{{ extra }}");  // a file of its own goes first
  EXPECT_EQ(run("echo '{\"messages\": [{\"content\": \"x\"}], \"extra\": 7}' | $weft inspect template . --messages -"), "x7\n");
  EXPECT_EQ(run("$weft inspect template chat_template.jinja --messages m.json"), "hi\n");
}

}  // namespace
}  // namespace weft::app
