// C++ sources with side streams from the first verb to the last: prepare --structure, train with structure and n-gram embeddings, go
// on after a stop, eval.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/files.h"
#include "base/json.h"
#include "program.h"

namespace weft {
namespace fs = std::filesystem;
namespace {

class StructureVerbs : public testing::Test {
 protected:
  fs::path dir = fs::temp_directory_path() / ("weft_structure_verbs_" + std::to_string(::getpid()));
  void SetUp() override {
    fs::create_directories(dir / "tree");
    for (int f = 0; f < 30; ++f) {
      std::ofstream out(dir / "tree" / ("part" + std::to_string(f) + ".cpp"));
      out << "// Part " << f << ".\nstruct Pair" << f << " {\n  int first, second;\n};\n\n";
      for (int k = 0; k < 8; ++k) {
        out << "// Sums up to x.\nint sum" << f << '_' << k << "(int x) {\n  int out = " << (f * 7 + k) % 10 << ";\n  for (int i = 0; i < x; ++i) out += i * " << k + 1 << ";\n  return "
            << (k > 0 ? "sum" + std::to_string(f) + "_" + std::to_string(k - 1) + "(out)" : "out") << ";\n}\n\n";
      }
    }
    code = run("$weft prepare tree --structure cpp -o data --vocab-size 300 --append-eod --show 1");
    shown = said();
  }
  void TearDown() override { fs::remove_all(dir); }
  int run(const std::string& command) { return run_program(dir, command); }
  std::string said() { return read_file(dir / "out") + read_file(dir / "err"); }
  std::string train(const std::string& folder, const std::string& more = "") {
    return "$weft train --run " + folder + " --data data --no-peak --threads 1 --steps 40 --set data.seq_len=64 --set model.model_dim=32 --set model.pattern=-* --set 'model.symbols.*.num_heads=2'"
           " --set model.structure.dim=16 --set model.structure.streams=5 --set model.ngram.rows=1000 --set model.ngram.heads=2 --set train.batch=4 --set train.micro_batch=2"
           " --set eval.every=20 --set eval.samples=8 --set schedule.lr=0.01 --set checkpoint.every=10 --set checkpoint.keep_last=9 " + more;
  }
  int code = 0;
  std::string shown;
};

TEST_F(StructureVerbs, PrepareTrainGoOnAndEval) {
  if (code == 69) GTEST_SKIP() << "skipped: libclang is not on this machine";
  ASSERT_EQ(code, 0) << shown;
  EXPECT_NE(shown.find("240 functions and 210 calls among them in 30 files"), std::string::npos) << shown;
  EXPECT_NE(shown.find("\nfunction body "), std::string::npos) << shown;
  ASSERT_EQ(run("$weft inspect data data --json i.json"), 0) << said();
  const Json inspected = read_json_file(dir / "i.json");
  for (const Json& set : inspected["sets"]) {
    EXPECT_EQ(set["streams"]["documents"], "agree");
    for (const char* name : {"token_structure_ids", "token_dep_levels", "token_ast_depth", "token_sibling_index", "token_ast_node_type"}) {
      EXPECT_EQ(set["streams"]["streams"][name]["present"].get<int64_t>() + set["streams"]["streams"][name]["absent"].get<int64_t>(), set["tokens"]) << name;
    }
  }
  ASSERT_EQ(run(train("whole", "--json t.json")), 0) << said();
  const Json t = read_json_file(dir / "t.json");
  EXPECT_LT(t["last_val_bits_per_byte"].get<double>(), 0.6 * t["first_val_bits_per_byte"].get<double>());
  // Cut at step 20, and gone on: the same bits.
  ASSERT_EQ(run(train("cut")), 0) << said();
  fs::remove_all(dir / "cut/checkpoints/step-00000040");
  fs::remove_all(dir / "cut/checkpoints/step-00000030");
  ASSERT_EQ(run(train("cut")), 0) << said();
  EXPECT_NE(said().find("going on from step 20"), std::string::npos) << said();
  EXPECT_EQ(read_file(dir / "whole/loss.tsv"), read_file(dir / "cut/loss.tsv"));
  ASSERT_EQ(run("$weft eval cut --threads 1 --samples 8 --json e.json"), 0) << said();
  EXPECT_EQ(read_json_file(dir / "e.json")["loss"], t["last_val_loss"]);
  // The streams are inputs: a run that has none of them learns otherwise from the first update on.
  ASSERT_EQ(run(train("plain", "--set model.structure.dim=0 --set model.ngram.rows=0")), 0) << said();
  EXPECT_NE(read_file(dir / "whole/loss.tsv"), read_file(dir / "plain/loss.tsv"));
  // Text without streams is refused.
  std::ofstream(dir / "some.txt") << read_file(dir / "tree/part1.cpp") << read_file(dir / "tree/part2.cpp");
  ASSERT_EQ(run("$weft prepare some.txt -o text --tokenizer data"), 0) << said();
  EXPECT_EQ(run(train("none", "--data text")), 2) << said();
}

}  // namespace
}  // namespace weft
