#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "app/exit_codes.h"
#include "app/run_config.h"
#include "app/verb.h"
#include "base/error.h"
#include "base/files.h"

namespace weft::app {
namespace {

template <class E>
int code_of() {
  try {
    throw E("x");
  } catch (const std::exception& e) {
    int rows = 0;
    for (const ExitCode& row : exit_codes()) rows += row.matches(e);
    EXPECT_EQ(rows, 1);  // exactly one row
    return exit_code(e);
  }
}

}  // namespace

TEST(ExitCodes, EveryTypeOfErrorHasExactlyOneRow) {
  EXPECT_EQ(code_of<ConfigError>(), 2);
  EXPECT_EQ(code_of<UnsupportedError>(), 2);
  EXPECT_EQ(code_of<CommError>(), 11);
  EXPECT_EQ(code_of<HangError>(), 12);
  EXPECT_EQ(code_of<CheckpointError>(), 20);
  EXPECT_EQ(code_of<NonFiniteError>(), 30);
  EXPECT_EQ(code_of<ReplicaError>(), 31);
  EXPECT_EQ(code_of<InputError>(), 65);
  EXPECT_EQ(code_of<UnavailableError>(), 69);
  EXPECT_EQ(code_of<ShapeError>(), 70);
  EXPECT_EQ(code_of<CudaError>(), 70);
  EXPECT_EQ(code_of<InternalError>(), 70);
  EXPECT_EQ(code_of<OutOfMemoryError>(), 71);
  EXPECT_EQ(code_of<IoError>(), 74);
  EXPECT_EQ(code_of<SavedOnSignal>(), 75);
  EXPECT_EQ(code_of<Interrupted>(), 130);
  EXPECT_EQ(exit_code(std::bad_alloc()), 71);
  EXPECT_EQ(exit_code(std::runtime_error("x")), 70);
  // The types are counted from the header itself, so that a new one cannot be forgotten here.
  const std::string header = read_file(WEFT_SOURCE_DIR "/src/base/error.h");
  std::set<std::string> rows;
  for (const ExitCode& row : exit_codes()) rows.insert(row.error);
  size_t types = 0;
  for (size_t at = 0; (at = header.find(" : Error {", at)) != std::string::npos; ++at, ++types) {
    const size_t begin = header.rfind(' ', at - 1) + 1;
    EXPECT_TRUE(rows.contains(header.substr(begin, at - begin))) << header.substr(begin, at - begin);
  }
  EXPECT_GE(types, 16u);
}

TEST(CommandLine, HelpOfEveryVerbFitsAScreen) {
  for (const Verb& v : verbs()) {
    const std::string text = help_text(v.name);
    EXPECT_LE(std::count(text.begin(), text.end(), '\n'), 24) << v.name << "\n" << text;
    EXPECT_NE(text.find(v.line), std::string::npos) << v.name;
  }
}

TEST(CommandLine, PartsOfAVerbHaveAHelpOfTheirOwn) {
  EXPECT_NE(help_text("bench", "train").find("--micro-batch"), std::string::npos);
  EXPECT_EQ(help_text("bench").find("--micro-batch"), std::string::npos);
  EXPECT_NE(help_text("prepare", "structure").find("--document-tokens"), std::string::npos);
  EXPECT_NE(help_text("prepare").find("weft help prepare tokenizer|filters|limits|structure"), std::string::npos);
  EXPECT_THROW(help_text("bench", "trian"), ConfigError);
  EXPECT_THROW(help_text("doctor", "parts"), ConfigError);
}

TEST(CommandLine, DocsOfSettingsAreFresh) {
  EXPECT_EQ(read_file(WEFT_SOURCE_DIR "/docs/config.md"), settings_markdown()) << "try: ./weft config docs > docs/config.md";
}

TEST(CommandLine, ReadmeNamesEveryFloor) {
  const std::string readme = read_file(WEFT_SOURCE_DIR "/README.md");
  for (const auto& entry : std::filesystem::directory_iterator(WEFT_SOURCE_DIR "/src"))
    if (entry.is_directory()) {
      EXPECT_NE(readme.find("| `src/" + entry.path().filename().string() + "/` |"), std::string::npos) << entry.path();
    }
}

TEST(CommandLine, DefaultsLieWithinTheirRanges) { EXPECT_NO_THROW(load_run_config("", {})); }

TEST(CommandLine, ACommentedRecipeWithAllMarksTakenOffIsTheDefaultConfig) {
  RunConfig run;
  const auto node = config::bind(run);
  RunConfig again;
  const auto other = config::bind(again);
  std::vector<Problem> problems;
  config::read_toml(*other, config::to_toml(*node), "x", problems);
  EXPECT_TRUE(problems.empty());
  EXPECT_TRUE(config::diff(*node, *other).empty());
}

}  // namespace weft::app
