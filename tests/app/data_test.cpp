// Every source of data that a recipe can name, through weft prepare, train and eval as a user calls them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "base/files.h"
#include "base/json.h"
#include "program.h"

namespace weft {
namespace fs = std::filesystem;
namespace {

class DataVerbs : public testing::Test {
 protected:
  fs::path dir = fs::temp_directory_path() / ("weft_data_verbs_" + std::to_string(::getpid()));
  void SetUp() override {
    fs::create_directories(dir);
    std::ofstream text(dir / "t.jsonl"), chat(dir / "c.jsonl");
    for (int i = 0; i < 300; ++i) {
      text << "{\"text\":\"line " << i % 17 << " of the text, item " << (i * i) % 23 << "\"}\n";
      chat << R"({"messages":[{"role":"user","content":"item )" << i % 9 << R"(?"},{"role":"assistant","content":"line )" << i % 17 << "\"}]}\n";
    }
    text.close(), chat.close();
    std::ofstream(dir / "m.jinja") << "{%- for m in messages -%}[{{ m.role }}]{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{%- endfor -%}";
    ASSERT_EQ(run("$weft prepare t.jsonl -o data --vocab-size 300 --append-eod"), 0) << said();
  }
  void TearDown() override { fs::remove_all(dir); }
  int run(const std::string& command) { return run_program(dir, command); }
  std::string said() { return read_file(dir / "out") + read_file(dir / "err"); }
  std::string train(const std::string& run_folder, const std::string& more) {
    return "$weft train --run " + run_folder + " --no-peak --threads 1 --steps 4 --set data.seq_len=32 --set model.model_dim=32 --set model.pattern=-* --set 'model.symbols.*.num_heads=2' --set train.batch=4" +
           " --set train.micro_batch=2 --set eval.every=2 --set eval.samples=4 --set train.precision=fp32 " + more;
  }
};

TEST_F(DataVerbs, TrainReadsEverySourceAndGoesOnWhereItStopped) {
  const struct { const char *name, *settings, *says; } sources[] = {
      {"megatron", R"(--set data.tokenizer=data/tokenizer.json --set 'data.source={kind="megatron",blend=["0.6","data/train_text_document","0.4","data/val_text_document"],split="80,10,10",cache="cache"}')", "Megatron's order"},
      {"text", R"(--set data.tokenizer=data/tokenizer.json --set 'data.source={kind="text",train=["t.jsonl"],valid=["t.jsonl"]}')", "text tokenized on the fly"},
      {"chat", R"(--set data.tokenizer=data/tokenizer.json --set 'data.source={kind="chat",train=["c.jsonl"],valid=["c.jsonl"],chat_template="m.jinja"}')", "conversations tokenized on the fly"},
      {"mock", R"(--set 'data.source={kind="mock",vocab_size=100,min_length=4,max_length=40,mean=20}')", "mock data"},
      {"packed", R"(--data data --set 'data.source={kind="prepared",fill="pack"}')", "documents packed"},
  };
  for (const auto& s : sources) {
    const std::string name = s.name;
    ASSERT_EQ(run(train(name, s.settings)), 0) << name << said();
    EXPECT_NE(said().find(s.says), std::string::npos) << name << said();
    EXPECT_EQ(fs::exists(dir / name / "tokenizer.json"), name != "mock");
    // Cut in two: the same losses. The number of steps stays, as Megatron's sample counts depend on it.
    ASSERT_EQ(run(train(name + "2", s.settings + std::string(" --set checkpoint.every=1"))), 0) << said();
    fs::remove_all(dir / (name + "2/checkpoints/step-00000004"));
    ASSERT_EQ(run(train(name + "2", s.settings + std::string(" --set checkpoint.every=1"))), 0) << name << said();
    EXPECT_NE(said().find("going on from step 3"), std::string::npos) << name << said();
    EXPECT_EQ(read_file(dir / name / "loss.tsv"), read_file(dir / (name + "2") / "loss.tsv")) << name;
    ASSERT_EQ(run("$weft eval " + name + " --threads 1 --samples 2"), 0) << name << said();
  }
  EXPECT_TRUE(fs::exists(dir / "cache"));
  ASSERT_EQ(run("$weft eval megatron --threads 1 --split test"), 0) << said();
  EXPECT_EQ(run("$weft eval mock --threads 1 --split test"), 2) << said();
}

TEST_F(DataVerbs, PrepareChatShowsWhatIsLearned) {
  ASSERT_EQ(run("$weft prepare c.jsonl -o chat --tokenizer data/tokenizer.json --chat-template m.jinja --show 1 && $weft inspect data chat --json i.json"), 0) << said();
  const std::string out = said();
  EXPECT_NE(out.find("document 0: "), std::string::npos) << out;
  EXPECT_NE(out.find("  learn 1    "), std::string::npos) << out;
  EXPECT_NE(out.find("  skip       ["), std::string::npos) << out;
  EXPECT_EQ(out.find("\033["), std::string::npos) << "no colours where there is no terminal";
  EXPECT_EQ(read_json_file(dir / "i.json")["sets"][0]["weights"], "all right");
  ASSERT_EQ(run(train("r", "--data chat")), 0) << said();
  EXPECT_NE(said().find("documents packed"), std::string::npos) << said();
}

TEST_F(DataVerbs, InspectDataChecksAPrefixAgainstItsFolder) {
  ASSERT_EQ(run("$weft inspect data data/val_text_document --json i.json"), 0) << said();
  const Json i = read_json_file(dir / "i.json");
  EXPECT_EQ(i["manifest"], "agrees");
  EXPECT_EQ(i["sets"].size(), 1u);
  EXPECT_TRUE(i["sets"][0]["first"][0]["text"].get<std::string>().starts_with("line ")) << i;
  EXPECT_EQ(run("$weft inspect data data/val_text_document --vocab-size 20"), 65);
  EXPECT_EQ(run("$weft inspect dota data"), 2);
}

}  // namespace
}  // namespace weft
