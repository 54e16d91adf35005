#include "data/prepare.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/json.h"
#include "data/indexed.h"
#include "folder.h"

namespace weft::data {
namespace {

class Bytes final : public TextEncoder {  // id = byte, 256 = end of document
 public:
  void encode(std::string_view text, std::vector<int32_t>& out) const override {
    for (unsigned char c : text) out.push_back(c);
  }
  int64_t vocab_size() const override { return 257; }
  int32_t eod() const override { return 256; }
  std::string file() const override { return "{\"bytes\":true}"; }
};

TokenizerMaker bytes_maker(std::string* sample = nullptr) {
  TokenizerMaker maker;
  maker.identity = "bytes";
  maker.make = [sample](const TextFeed& feed) {
    std::string text;
    while (feed(text)) {
      if (sample != nullptr) *sample += text;
    }
    return std::make_unique<Bytes>();
  };
  maker.load = [](const std::string&) { return std::make_unique<Bytes>(); };
  return maker;
}

std::vector<std::string> documents(const std::string& prefix) {
  const IndexedTokens set = IndexedTokens::open(prefix);
  std::vector<std::string> out;
  for (int64_t i = 0; i < set.sequences(); ++i) {
    std::vector<int32_t> ids(static_cast<size_t>(set.length(i)));
    set.read(i, 0, set.length(i), ids.data());
    out.emplace_back();
    for (int32_t id : ids) out.back() += id == 256 ? "<eod>" : std::string(1, static_cast<char>(id));
  }
  return out;
}

PrepareOptions options_for(const Folder& folder, std::vector<std::string> inputs, const std::string& out = "out") {
  PrepareOptions o;
  o.inputs = std::move(inputs);
  o.output = folder / out;
  return o;
}

void many_files(const Folder& folder, int n) {
  for (int i = 0; i < n; ++i) {
    std::string text;
    for (int k = 0; k < 1 + i * 37 % 90; ++k) text += "file " + std::to_string(i) + " line " + std::to_string(k) + "\n";
    char name[32];
    std::snprintf(name, sizeof name, "tree/f%03d.txt", i);
    folder.write(name, text);
  }
}

TEST(Prepare, HoldsOutEveryTwentiethFileAndSaysSo) {
  Folder folder;
  many_files(folder, 45);
  PrepareOptions o = options_for(folder, {folder / "tree"});
  o.append_eod = true;
  std::string sample;
  const PrepareReport r = prepare(o, bytes_maker(&sample));
  EXPECT_EQ(r.train.documents, 43);
  EXPECT_EQ(r.val.documents, 2);
  EXPECT_EQ(r.train.max_token, 256);
  const auto val = documents(folder / "out/val_text_document");
  ASSERT_EQ(val.size(), 2u);
  EXPECT_EQ(val[0], slurp(folder / "tree/f019.txt") + "<eod>");
  EXPECT_EQ(val[1], slurp(folder / "tree/f039.txt") + "<eod>");
  EXPECT_EQ(sample.find("file 19 "), std::string::npos);  // the tokenizer never sees validation text
  EXPECT_EQ(static_cast<int64_t>(sample.size()), r.train.bytes);
  const Json manifest = read_json_file(folder / "out/manifest.json");
  EXPECT_EQ(manifest["held_out_files"][1]["index"], 39);
  EXPECT_TRUE(manifest["held_out_files"][1]["path"].get<std::string>().ends_with("f039.txt"));
  const PreparedData d = open_prepared(folder / "out");
  EXPECT_EQ(d.train.tokens, r.train.bytes + 43);
  EXPECT_EQ(d.vocab_size, 257);
  EXPECT_EQ(IndexedTokens::open(d.train_prefix).tokens(), d.train.tokens);
  EXPECT_FALSE(std::filesystem::exists(folder / "out/prepare.state.json"));
}

TEST(Prepare, SameBytesForAnyNumberOfWorkers) {
  Folder folder;
  many_files(folder, 60);
  std::string big;
  for (int i = 0; i < 1200000; ++i) big += (i % 9 == 0 ? "\n" : "some words ");
  folder.write("tree/big.txt", big);
  std::string want;
  for (int workers : {1, 2, 5}) {
    PrepareOptions o = options_for(folder, {folder / "tree"}, "out" + std::to_string(workers));
    o.workers = workers;
    o.memory = int64_t{256} << 20;
    prepare(o, bytes_maker());
    std::string got;
    for (const char* name : {"train_text_document.bin", "train_text_document.idx", "val_text_document.bin", "val_text_document.idx"}) got += slurp(o.output + "/" + name);
    if (workers == 1) want = got;
    EXPECT_TRUE(got == want) << workers;
  }
  EXPECT_GT(want.size(), 10u << 20);
}

TEST(Prepare, JsonLinesWithEveryTwentiethLineHeldOut) {
  Folder folder;
  std::string text = "\xEF\xBB\xBF";
  for (int i = 0; i < 40; ++i) text += "{\"id\":" + std::to_string(i) + ",\"body\":\"doc " + std::to_string(i) + "\"}\n";
  text += "\n{\"body\":\"\"}\r\n{\"body\":\"\\ud800\"}\n{\"body\":\"last\"}";
  folder.write("d.jsonl", text);
  PrepareOptions o = options_for(folder, {folder / "d.jsonl"});
  o.key = "body";
  const PrepareReport r = prepare(o, bytes_maker());
  EXPECT_EQ(r.lines, 44);
  EXPECT_EQ(r.empty_documents, 1);
  EXPECT_EQ(r.replaced_utf8, 1);
  EXPECT_EQ(r.documents_with_replacements, 1);
  EXPECT_EQ(r.warnings.size(), 1u);
  const auto train = documents(folder / "out/train_text_document");
  EXPECT_EQ(train.size(), 40u);
  EXPECT_EQ(train.front(), "doc 0");
  EXPECT_EQ(train[38], "\xEF\xBF\xBD");
  EXPECT_EQ(train.back(), "last");
  EXPECT_EQ(documents(folder / "out/val_text_document"), (std::vector<std::string>{"doc 19", "doc 39"}));
}

TEST(Prepare, StoppedRunsGoOnAndEndEqual) {
  Folder folder;
  many_files(folder, 60);
  PrepareOptions o = options_for(folder, {folder / "tree"}, "whole");
  o.dedup = o.append_eod = true;
  prepare(o, bytes_maker());
  o.output = folder / "cut";
  std::atomic<bool> stop{false};
  o.stop = &stop;
  int stops = 0;
  for (int64_t at = 5;; at += 9) {
    stop = false;
    o.progress = [&](const PrepareProgress& p) {
      if (std::string(p.stage) == "tokens" && p.documents >= at) stop = true;
    };
    try {
      const PrepareReport r = prepare(o, bytes_maker());
      EXPECT_TRUE(r.resumed);
      break;
    } catch (const Interrupted&) {
      ++stops;
      // what a kill leaves behind the last mark
      std::ofstream(folder / "cut/train_text_document.bin.part", std::ios::app) << "lost";
    }
  }
  EXPECT_GE(stops, 4);
  for (const char* name : {"train_text_document.bin", "train_text_document.idx", "val_text_document.bin", "val_text_document.idx", "manifest.json"}) {
    EXPECT_EQ(slurp(folder / "cut/" + std::string(name)), slurp(folder / "whole/" + std::string(name))) << name;
  }
  EXPECT_TRUE(prepare(o, bytes_maker()).reused);
  o.append_eod = false;
  EXPECT_NE(error_of<ConfigError>([&] { prepare(o, bytes_maker()); }).find("holds other data"), std::string::npos);
  o.overwrite = true;
  EXPECT_FALSE(prepare(o, bytes_maker()).reused);
}

TEST(Prepare, DedupAndLengthFilters) {
  Folder folder;
  std::string text;
  for (const char* t : {"aa", "bbb", "aa", "c", "bbb", "dddddddd"}) text += std::string("{\"text\":\"") + t + "\"}\n";
  folder.write("d.jsonl", text);
  PrepareOptions o = options_for(folder, {folder / "d.jsonl"});
  o.dedup = true;
  o.min_bytes = 2;
  o.max_bytes = 5;
  const PrepareReport r = prepare(o, bytes_maker());
  EXPECT_EQ(r.duplicates, 2);
  EXPECT_EQ(r.filtered, 2);
  EXPECT_EQ(documents(folder / "out/train_text_document"), (std::vector<std::string>{"aa", "bbb"}));
  EXPECT_EQ(open_prepared(o.output).val_prefix, "");
}

TEST(Prepare, RefusesBadInputWithFileAndLine) {
  Folder folder;
  const auto refused = [&](const std::string& name, const std::string& bytes) {
    folder.write(name, bytes);
    PrepareOptions o = options_for(folder, {folder / name}, name + ".out");
    return error_of<InputError>([&] { prepare(o, bytes_maker()); });
  };
  EXPECT_NE(refused("a.jsonl", "{\"text\":\"x\"}\n{\"text\":}\n").find("a.jsonl' line 2, column 9"), std::string::npos);
  EXPECT_NE(refused("b.jsonl", "{\"body\":\"x\"}\n").find("no member \"text\""), std::string::npos);
  EXPECT_NE(refused("c.jsonl", "\n\n").find("empty corpus"), std::string::npos);
  EXPECT_NE(refused("d.txt", "").find("empty corpus"), std::string::npos);
  PrepareOptions o = options_for(folder, {folder / "nowhere"});
  EXPECT_NE(error_of<InputError>([&] { prepare(o, bytes_maker()); }).find("no such file or folder"), std::string::npos);
  EXPECT_NE(error_of<InputError>([&] { open_prepared(folder / "nowhere"); }).find("no manifest.json"), std::string::npos);
  o.memory = 1000;
  EXPECT_NE(error_of<ConfigError>([&] { prepare(o, bytes_maker()); }).find("--memory"), std::string::npos);
}

TEST(Prepare, DiskFull) {
  Folder folder;
  many_files(folder, 3);
  std::filesystem::create_directories(folder / "out");
  std::filesystem::create_symlink("/dev/full", folder / "out/train_text_document.bin.part");
  PrepareOptions o = options_for(folder, {folder / "tree"});
  EXPECT_NE(error_of<IoError>([&] { prepare(o, bytes_maker()); }), "");
  EXPECT_FALSE(std::filesystem::exists(folder / "out/manifest.json"));
}

}  // namespace
}  // namespace weft::data
