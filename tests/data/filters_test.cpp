// Filters of `prepare`: what they measure, whom they drop, and that every dropped document is counted.
#include "data/filters.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "data/indexed.h"
#include "data/tokenizers.h"
#include "folder.h"

namespace weft::data {
namespace {

const std::string kWhere = "line 1";

TEST(Filters, SharesAreOfBytesAndOfCharacters) {
  EXPECT_EQ(repeated_line_share(""), 0);
  EXPECT_EQ(repeated_line_share("a\n\n\nb\n"), 0);  // blank lines count for nothing
  EXPECT_EQ(repeated_line_share("ab\nab\ncd\n  ab\r\n"), 0.5);
  EXPECT_EQ(repeated_line_share("xx\nxx"), 0.5);
  EXPECT_EQ(symbol_share(""), 0);
  EXPECT_EQ(symbol_share("a b_1"), 0);
  EXPECT_EQ(symbol_share("a+b="), 0.5);
  EXPECT_EQ(symbol_share("\u6771\u4eac caf\u00e9 \u0915\u093f"), 0);  // letters and marks of any script
  EXPECT_EQ(symbol_share("\u2603\u6771"), 0.5);
}

int drop(const FilterConfig& c, std::string_view text, std::string_view line = {}, std::string_view path = "a/b.txt") {
  const Filters filters(c);
  return FilterPass(filters).dropped_by({text, line, kWhere, path});
}

TEST(Filters, PatternsLookAtTheTextOrAMember) {
  FilterConfig c;
  c.drop = {"(?i)lorem ipsum"};
  EXPECT_EQ(drop(c, "see Lorem Ipsum"), 0);
  EXPECT_EQ(drop(c, "see"), -1);
  c = {};
  c.keep = {"lang~^(en|de)$"}, c.drop = {"score~^-", "a~b~c"};
  EXPECT_EQ(drop(c, "x", R"({"lang":"en","score":3})"), -1);
  EXPECT_EQ(drop(c, "x", R"({"lang":"eng"})"), 0);
  EXPECT_EQ(drop(c, "x", R"({})"), 0) << "a member that is not there is empty";
  EXPECT_EQ(drop(c, "x", R"({"lang":"de","score":-0.5})"), 1) << "a number is its JSON";
  EXPECT_EQ(drop(c, "x", R"({"lang":"de","a":"b~c"})"), 2) << "the first ~ ends the name";
  c = {};
  c.drop = {"path~/test/", R"(\$~x)"};  // no name before ~ in the second: it is all pattern
  EXPECT_EQ(drop(c, "x", {}, "a/test/b.c"), 0);
  EXPECT_EQ(drop(c, "cost $~x", {}, "a/b.c"), 1);
  EXPECT_EQ(drop(c, "x", {}, "a/tests/b.c"), -1);
}

TEST(Filters, WhatIsWrongIsNamed) {
  FilterConfig c;
  c.keep = {"lang~(en"};
  EXPECT_NE(error_of<ConfigError>([&] { Filters f(c); }).find("--keep 'lang~(en'"), std::string::npos);
  c = {};
  c.drop = {"lang~"};
  EXPECT_NE(error_of<ConfigError>([&] { Filters f(c); }).find("--drop: got 'lang~', want [FIELD~]PATTERN"), std::string::npos);
  c = {};
  c.max_symbols = 1.5;
  EXPECT_NE(error_of<ConfigError>([&] { Filters f(c); }).find("--max-symbols: got 1.5"), std::string::npos);
}

TEST(Filters, PrepareCountsEveryDroppedDocument) {
  Folder folder;
  std::string lines;
  for (int i = 0; i < 40; ++i) {
    const char* text = i % 4 == 0 ? "same line\\nsame line\\nsame line" : i % 4 == 1 ? "%$#!@^&*()" : "an ordinary sentence";
    lines += "{\"text\":\"" + std::string(text) + "\",\"lang\":\"" + (i % 8 == 2 ? "fr" : "en") + "\",\"n\":" + std::to_string(i) + "}\n";
  }
  folder.write("t.jsonl", lines);
  PrepareOptions o;
  o.inputs = {folder / "t.jsonl"};
  o.output = folder / "out";
  o.hold_out_every = 0;
  o.filters.max_symbols = 0.5, o.filters.max_repeated_lines = 0.4, o.filters.keep = {"lang~^en$"}, o.filters.drop = {"nothing~x"};
  text::BpeTrainOptions train;
  train.vocab_size = 300;
  const PrepareReport r = prepare(o, trained_bpe(train));
  EXPECT_EQ(r.train.documents, 15);
  EXPECT_EQ(r.filtered, 25);
  EXPECT_EQ(r.filtered_by.at("--max-symbols 0.5"), 10);
  EXPECT_EQ(r.filtered_by.at("--max-repeats 0.4"), 10);
  EXPECT_EQ(r.filtered_by.at("--keep lang~^en$"), 5);
  ASSERT_EQ(r.warnings.size(), 1u);
  EXPECT_EQ(r.warnings[0], "no document has a \"nothing\", which --keep or --drop looks at");
  EXPECT_EQ(read_json_file(folder / "out/manifest.json")["counts"]["filtered_by"]["--max-symbols 0.5"], 10);
  const PrepareReport again = prepare(o, trained_bpe(train));
  EXPECT_TRUE(again.reused);
  EXPECT_EQ(again.filtered_by, r.filtered_by);
  o.filters.max_symbols = 0.4;  // other data
  EXPECT_THROW(prepare(o, trained_bpe(train)), ConfigError);
}

// The first part of a document that is longer than a block decides, and all of it goes.
TEST(Filters, ALongDocumentGoesAsAWhole) {
  Folder folder;
  std::string symbols, words;
  while (symbols.size() < (size_t{9} << 20)) symbols += "+-*/ %$ ";
  while (words.size() < (size_t{9} << 20)) words += "plain words on a line\n";
  folder.write("t/a.txt", symbols);
  folder.write("t/b.txt", words);
  PrepareOptions o;
  o.inputs = {folder / "t"};
  o.output = folder / "out";
  o.hold_out_every = 0;
  o.filters.max_symbols = 0.5;
  text::BpeTrainOptions train;
  train.vocab_size = 280;
  const PrepareReport r = prepare(o, trained_bpe(train));
  EXPECT_EQ(r.train.documents, 1);
  EXPECT_EQ(r.train.bytes, static_cast<int64_t>(words.size()));
  EXPECT_EQ(r.filtered, 1);
}

}  // namespace
}  // namespace weft::data
