// weft prepare, killed at random moments and run again, gives the bytes of a run that nobody disturbed.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>

#include "base/files.h"
#include "base/rng.h"
#include "program.h"

namespace weft {
namespace fs = std::filesystem;
namespace {

constexpr int kKilled = 128 + 9;  // as a shell says it

class PrepareKilled : public testing::Test {
 protected:
  fs::path dir = fs::temp_directory_path() / ("weft_prepare_killed_" + std::to_string(::getpid()));
  void SetUp() override { fs::create_directories(dir); }
  void TearDown() override { fs::remove_all(dir); }
  int run(const std::string& command) { return run_program(dir, command); }
  std::string said() { return read_file(dir / "out") + read_file(dir / "err"); }

  std::map<std::string, std::string> files(const std::string& folder) {
    std::map<std::string, std::string> out;
    for (const auto& entry : fs::directory_iterator(dir / folder)) {
      if (const std::string name = entry.path().filename(); name != ".lock") out[name] = read_file(entry.path());
    }
    return out;
  }

  // `flags`: all but the output. Kills fall in the time that the fastest undisturbed run took, so that a slow machine sees them too.
  void kill_and_compare(const std::string& flags, uint64_t seed) {
    const auto now = [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); };
    double begin = now();
    ASSERT_EQ(run("$weft prepare " + flags + " -o whole"), 0) << said();
    double seconds = now() - begin;
    const auto whole = files("whole");
    int kills = 0, gone_on = 0;
    // As many rounds as it takes to have killed often enough, and to have gone on.
    for (uint64_t round = 0; round < 16 && (round < 2 || kills < 3 || gone_on == 0); ++round) {
      fs::remove_all(dir / "cut");
      for (uint64_t i = 0;; ++i) {
        ASSERT_LT(i, 60u) << "no end: " << said();
        // Later tries get more time: one of them ends.
        const double after = seconds * (rng::uniform(rng::mix(seed, round), i) * 0.7 + 0.1 * static_cast<double>(i));
        // In the foreground timeout does not kill itself with the group, but waits until the lock is free; a run that ends as the
        // signal comes keeps its own status (else 124).
        begin = now();
        const int code = run("timeout --foreground --preserve-status -s KILL " + std::to_string(after) + " $weft prepare " + flags + " -o cut --save-every 0");
        if (code == 0 && i == 0) seconds = std::min(seconds, now() - begin);
        if (code == 0) break;
        ASSERT_EQ(code, kKilled) << said();
        ++kills;
        EXPECT_FALSE(fs::exists(dir / "cut/manifest.json") && run("$weft inspect data cut") != 0) << said();
      }
      gone_on += said().find("went on from a stopped run") != std::string::npos;
      const auto cut = files("cut");
      for (const auto& [name, bytes] : whole) {
        ASSERT_TRUE(cut.contains(name)) << name << " is missing";
        EXPECT_EQ(cut.at(name) == bytes, true) << name << " differs, round " << round;
      }
      EXPECT_EQ(cut.size(), whole.size());
    }
    std::printf("%d kills, %d runs ended on an earlier one's work, %.1f s undisturbed\n", kills, gone_on, seconds);
    EXPECT_GE(kills, 3);
    EXPECT_GE(gone_on, 1);
  }
};

std::string word(uint64_t i) {
  std::string out;
  for (uint64_t bits = rng::bits(5, i % 5000); out.size() < 3 + i % 7; bits >>= 4) out += static_cast<char>('a' + bits % 16);
  return out;
}

TEST_F(PrepareKilled, TextWithATrainedTokenizerFiltersAndDedup) {
  fs::create_directories(dir / "t");
  for (int f = 0; f < 25; ++f) {
    std::ofstream out(dir / "t" / (std::to_string(f) + ".jsonl"));
    for (uint64_t line = 0; line < 1500; ++line) {
      out << "{\"text\":\"";
      for (uint64_t w = 0; w < 40; ++w) out << word(rng::bits(static_cast<uint64_t>(f), (line % 1200) * 40 + w)) << ' ';
      out << (line % 50 == 7 ? "bad" : "good") << "\"}\n";
    }
  }
  kill_and_compare("t --vocab-size 600 --append-eod --dedup --drop 'bad$' --max-symbols 0.5 --workers 2", 1);
}

TEST_F(PrepareKilled, ConversationsWithWeights) {
  std::ofstream text(dir / "some.txt"), chat(dir / "c.jsonl");
  for (uint64_t i = 0; i < 20000; ++i) text << word(i) << (i % 12 == 11 ? '\n' : ' ');
  for (uint64_t i = 0; i < 60000; ++i) {
    chat << R"({"messages":[{"role":"user","content":")" << word(i) << ' ' << word(3 * i) << R"(?"},{"role":"assistant","content":")" << word(7 * i) << ' ' << word(i + 1) << "\"}]}\n";
  }
  text.close(), chat.close();
  std::ofstream(dir / "m.jinja") << "{%- for m in messages -%}[{{ m.role }}]{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{%- endfor -%}";
  ASSERT_EQ(run("$weft prepare some.txt -o tok --vocab-size 500"), 0) << said();
  kill_and_compare("c.jsonl --tokenizer tok/tokenizer.json --chat-template m.jinja --hold-out 10 --workers 2", 2);
}

TEST_F(PrepareKilled, SourcesWithStreams) {
  fs::create_directories(dir / "tree");
  for (int f = 0; f < 30; ++f) {
    std::ofstream out(dir / "tree" / ("f" + std::to_string(f) + ".cpp"));
    out << "int g" << f << ";\n\n";
    for (int k = 0; k < 12; ++k) {
      out << "int f" << f << '_' << k << "(int x) {\n  int sum = " << k << ";\n  for (int i = 0; i < x; ++i) sum += i * g" << f << ";\n  return " << (k > 0 ? "f" + std::to_string(f) + "_" + std::to_string(k - 1) : "")
          << "(sum);\n}\n\n";
    }
  }
  if (run("$weft prepare tree --structure cpp -o probe --vocab-size 300") == 69) GTEST_SKIP() << "skipped: libclang is not on this machine";
  kill_and_compare("tree --structure cpp --vocab-size 300 --append-eod --workers 2", 3);
}

}  // namespace
}  // namespace weft
