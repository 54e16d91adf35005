// The verbs train, eval and inspect as a user calls them.
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

class Verbs : public testing::Test {
 protected:
  fs::path dir = fs::temp_directory_path() / ("weft_verbs_" + std::to_string(::getpid()));
  void SetUp() override {
    fs::create_directories(dir / "text");
    for (int f = 0; f < 24; ++f) {
      std::ofstream out(dir / "text" / (std::to_string(f) + ".txt"));
      for (int i = 0; i < 200; ++i) out << "line " << i % 17 << " of file, item " << (i * i + f) % 23 << "\n";
    }
    ASSERT_EQ(run("$weft prepare text -o data --vocab-size 300"), 0) << said();
  }
  void TearDown() override { fs::remove_all(dir); }

  int run(const std::string& command) { return run_program(dir, command); }
  std::string said() { return read_file(dir / "out") + read_file(dir / "err"); }
  Json json(const char* name) { return read_json_file(dir / name); }

  const std::string small = " --data data --no-peak --threads 1 --set data.seq_len=32 --set model.model_dim=32 --set model.pattern=-* --set model.symbols.*.num_heads=2"
                            " --set train.batch=4 --set train.micro_batch=2 --set eval.every=20 --set schedule.lr=0.01 ";
};

}  // namespace

TEST_F(Verbs, TrainEvalAndInspectAgree) {
  ASSERT_EQ(run("$weft train --run r --steps 60 --json t.json" + small), 0) << said();
  const Json t = json("t.json");
  EXPECT_EQ(t["steps"], 60);
  EXPECT_EQ(t["samples"], 240);
  EXPECT_LT(t["last_val_bits_per_byte"].get<double>(), 0.8 * t["first_val_bits_per_byte"].get<double>());
  ASSERT_EQ(run("$weft eval r --json e.json --threads 1 --samples 256"), 0) << said();
  EXPECT_EQ(json("e.json")["loss"], t["last_val_loss"]) << "the same weights, the same text, the same bits";
  ASSERT_EQ(run("$weft inspect r --statistics --json i.json"), 0) << said();
  const Json i = json("i.json");
  EXPECT_EQ(i["step"], 60);
  EXPECT_GT(i["parameters"].get<int64_t>(), 256 * 32);
  for (const Json& tensor : i["tensors"])
    if (tensor.contains("non_finite")) { EXPECT_EQ(tensor["non_finite"], 0) << tensor; }
  ASSERT_EQ(run("$weft inspect r --plot p.svg"), 0) << said();
  EXPECT_NE(read_file(dir / "p.svg").find("validation"), std::string::npos);
  ASSERT_EQ(run("$weft inspect data --json d.json && $weft inspect data/tokenizer.json --json k.json"), 0) << said();
  EXPECT_GT(json("k.json")["vocab_size"].get<int>(), 256);
  ASSERT_EQ(run("$weft prepare text -o other --vocab-size 260 && $weft eval r --data other"), 65) << said();
  EXPECT_NE(said().find("another tokenizer than that of"), std::string::npos);
}

TEST_F(Verbs, ASignalSavesPrintsTheCommandAndTheCommandEndsTheRun) {
  ASSERT_EQ(run("$weft train --run whole --steps 400" + small), 0) << said();
  ASSERT_EQ(run("$weft train --run r --steps 400" + small + "& pid=$!; while ! grep -q ^30 r/loss.tsv 2>/dev/null; do sleep 0.02; done; kill -TERM $pid; wait $pid"), 75) << said();
  const std::string err = read_file(dir / "err");
  const size_t at = err.find("go on with: weft ");
  ASSERT_NE(at, std::string::npos) << err;
  const std::string command = err.substr(at + 17, err.find('\n', at) - at - 17);
  ASSERT_EQ(run("$weft " + command + " --no-peak"), 0) << command << "\n" << said();
  EXPECT_TRUE(read_file(dir / "r/loss.tsv") == read_file(dir / "whole/loss.tsv"));
  ASSERT_EQ(run("$weft train --run slow --steps 100000 --max-minutes 0.02" + small), 75) << said();
  EXPECT_NE(read_file(dir / "err").find("the time limit of 0.02 min"), std::string::npos);
}

TEST_F(Verbs, TheDemoJudgesWhatItWrites) {
  ASSERT_EQ(run("$weft demo --corpus text --folder demo --steps 6 --json d.json"), 0) << said();
  const Json d = json("d.json");
  for (const char* key : {"wall_s", "first_loss_s", "first_val_bits_per_byte", "last_val_bits_per_byte", "tokens_per_second", "memory_peak_bytes", "identifiers_unknown"})
    EXPECT_TRUE(d.contains(key)) << key;
  EXPECT_LT(d["last_val_bits_per_byte"].get<double>(), d["first_val_bits_per_byte"].get<double>());
  EXPECT_GT(d["samples"].size(), 0u);
  EXPECT_GT(d["identifiers"].get<int>(), 0) << said();
  EXPECT_LE(d["identifiers_known"].get<int>(), d["identifiers"].get<int>());
  EXPECT_GE(d["identifiers_known_fraction"].get<double>(), 0.8) << said();
  EXPECT_GE(d["longest_loop_tokens"].get<int>(), 0);
}

TEST_F(Verbs, CtrlCEndsPrepareWith130AndLeavesNothingThatLooksFinished) {
  std::ofstream out(dir / "noise.txt");  // no word comes twice: the tokenizer has much to do
  uint64_t state = 1;
  for (int i = 0; i < 12'000'000; ++i) out << static_cast<char>(i % 60 == 59 ? ' ' : 'a' + ((state = state * 6364136223846793005 + 1442695040888963407) >> 33) % 26);
  out.close();
  EXPECT_EQ(run("timeout --preserve-status -s INT 0.5 $weft prepare noise.txt -o noise"), 130) << said();
  EXPECT_FALSE(fs::exists(dir / "noise/manifest.json"));
}

}  // namespace weft
