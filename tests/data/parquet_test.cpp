// Small Parquet files in tests/data/seeds, and prepare over them. Equality with pyarrow over many settings: parquet_oracle.py.
#include "data/parquet_rows.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "data/prepare.h"
#include "data/snappy.h"
#include "folder.h"

namespace weft::data {
namespace {

const std::string kSeeds = WEFT_DATA_SEEDS;

std::vector<std::string> rows_of(const std::string& path, const std::vector<std::string>& columns, int64_t first = 0) {
  ParquetRows rows(path, columns, first);
  std::vector<std::string> out;
  for (std::string line; rows.next(line);) out.push_back(line);
  return out;
}

TEST(Parquet, RowsAsJsonLines) {
  for (const char* name : {"/parquet_v1_snappy", "/parquet_v2_zstd"}) {
    const auto rows = rows_of(kSeeds + name, {"text", "messages", "n"});
    ASSERT_EQ(rows.size(), 3u);
    EXPECT_EQ(rows[0], R"({"text":"first \"row\"\n","messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"hello"}],"n":1})");
    EXPECT_EQ(rows[1], R"({"text":null,"messages":[],"n":-2})");
    EXPECT_EQ(rows[2], R"({"text":"third","messages":null,"n":3})");
    EXPECT_EQ(rows_of(kSeeds + name, {"n"}, 2), (std::vector<std::string>{R"({"n":3})"}));
    EXPECT_TRUE(rows_of(kSeeds + name, {"n"}, 3).empty());
    EXPECT_NE(error_of<InputError>([&] { rows_of(kSeeds + name, {"body"}); }).find("no column \"body\": it has \"text\", \"messages\", \"n\""), std::string::npos);
  }
}

TEST(Parquet, TruncatedFilesAreRefused) {
  Folder folder;
  const std::string good = slurp(kSeeds + "/parquet_v2_zstd");
  for (size_t n = 0; n < good.size(); n += 13) {
    folder.write("t.parquet", good.substr(0, n));
    EXPECT_NE(error_of<InputError>([&] { rows_of(folder / "t.parquet", {"text"}); }), "") << n;
  }
}

TEST(Snappy, CopiesThatOverlapAndEveryDamage) {
  // 20 bytes: "ab", then a copy of 18 bytes from 2 back (it repeats itself).
  const std::string packed{20, 1 << 2, 'a', 'b', static_cast<char>((18 - 1) << 2 | 2), 2, 0};
  EXPECT_EQ(snappy_unpack(packed, 20, "s"), "abababababababababab");
  EXPECT_THROW(snappy_unpack(packed, 21, "s"), InputError);
  for (size_t n = 0; n < packed.size(); ++n) EXPECT_THROW(snappy_unpack(packed.substr(0, n), 20, "s"), InputError) << n;
}

class Letters final : public TextEncoder {
 public:
  void encode(std::string_view text, std::vector<int32_t>& out) const override {
    for (unsigned char c : text) out.push_back(c);
  }
  int64_t vocab_size() const override { return 256; }
  int32_t eod() const override { return -1; }
  std::string file() const override { return "{}"; }
};

TEST(Parquet, PrepareReadsItAndCountsRows) {
  Folder folder;
  folder.write("tree/a.parquet", slurp(kSeeds + "/parquet_v1_snappy"));
  folder.write("tree/b.jsonl", "{\"text\":\"from b\"}\n");
  PrepareOptions o;
  o.inputs = {folder / "tree"};
  o.output = folder / "out";
  o.hold_out_every = 0;
  TokenizerMaker maker;
  maker.identity = "letters";
  maker.needs_text = false;
  maker.make = [](const TextFeed&) { return std::make_unique<Letters>(); };
  maker.load = [](const std::string&) { return std::make_unique<Letters>(); };
  const PrepareReport r = prepare(o, maker);
  EXPECT_EQ(r.lines, 4);
  EXPECT_EQ(r.train.documents, 3);
  EXPECT_EQ(r.empty_documents, 1);  // the null in row 2
  EXPECT_EQ(r.train.bytes, static_cast<int64_t>(std::string("first \"row\"\nthirdfrom b").size()));
  o.key = "n", o.output = folder / "n";
  EXPECT_NE(error_of<InputError>([&] { prepare(o, maker); }).find("a.parquet' line 1, column "), std::string::npos);  // a number is no text
}

}  // namespace
}  // namespace weft::data
