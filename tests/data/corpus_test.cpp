#include "data/corpus.h"

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include "base/error.h"
#include "folder.h"

namespace weft::data {
namespace {

std::string gzip(const std::string& text) {
  z_stream z{};
  deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&z, text.size()) + 64, '\0');
  z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  z.avail_in = static_cast<uInt>(text.size());
  z.next_out = reinterpret_cast<Bytef*>(out.data());
  z.avail_out = static_cast<uInt>(out.size());
  deflate(&z, Z_FINISH);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}
std::string zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}
std::string read_all(const std::string& path, int64_t step, int64_t skip = 0) {
  auto source = open_source(path, packed_by_name(path), skip);
  std::string out, chunk(static_cast<size_t>(step), '\0');
  for (int64_t n; (n = source->read(chunk.data(), step)) > 0;) out.append(chunk, 0, static_cast<size_t>(n));
  return out;
}
std::string lines(int n) {
  std::string out;
  for (int i = 0; i < n; ++i) out += "{\"text\":\"line number " + std::to_string(i * 7919) + "\"}\n";
  return out;
}

TEST(Source, PlainGzipAndZstdInSeveralParts) {
  Folder folder;
  const std::string a = lines(40000), b = lines(3);
  folder.write("p.txt", a + b);
  folder.write("g.gz", gzip(a) + gzip(b));
  folder.write("z.zst", zstd(a) + zstd(b));
  for (const char* name : {"p.txt", "g.gz", "z.zst"}) {
    EXPECT_EQ(read_all(folder / name, 65536), a + b) << name;
    EXPECT_EQ(read_all(folder / name, 1000, 777777), (a + b).substr(777777)) << name;
  }
}

TEST(Source, CutOffAndDamagedFilesAreRefused) {
  Folder folder;
  for (const auto& [name, bytes] : {std::pair<std::string, std::string>{"a.gz", gzip(lines(5000))}, {"a.zst", zstd(lines(5000))}}) {
    folder.write(name, bytes.substr(0, bytes.size() / 2));
    EXPECT_NE(error_of<InputError>([&] { read_all(folder / name, 4096); }).find("cut off"), std::string::npos) << name;
    std::string bad = bytes;
    for (size_t i = bad.size() / 2; i < bad.size() / 2 + 40; ++i) bad[i] = static_cast<char>(~bad[i]);
    folder.write(name, bad);
    EXPECT_NE(error_of<InputError>([&] { read_all(folder / name, 4096); }), "") << name;
    folder.write(name, "");
    EXPECT_NE(error_of<InputError>([&] { read_all(folder / name, 4096); }), "") << name;
  }
}

TEST(Corpus, ListsATreeInOrderAndCountsWhatItSkips) {
  Folder folder;
  folder.write("t/b/two.txt", "two");
  folder.write("t/a.txt", "one");
  folder.write("t/c.jsonl.gz", gzip(lines(1)));
  folder.write("t/.git/config", "x");
  folder.write("t/empty", "");
  folder.write("t/program", std::string("\x7f" "ELF\0\0", 6));
  std::filesystem::create_symlink("a.txt", folder / "t/link.txt");
  folder.write("t/out/tokenizer.json", "{}");
  const Corpus corpus = list_corpus({folder / "t", folder / "t/a.txt"}, folder / "t/out");
  ASSERT_EQ(corpus.files.size(), 3u);
  EXPECT_TRUE(corpus.files[0].path.ends_with("t/a.txt"));
  EXPECT_TRUE(corpus.files[1].path.ends_with("t/b/two.txt"));
  EXPECT_EQ(corpus.files[2].format, Format::kJsonl);
  EXPECT_EQ(corpus.files[2].packed, Packed::kGzip);
  const std::map<std::string, int64_t> want{{"hidden", 1}, {"empty", 1}, {"binary", 1}, {"symbolic link", 1}, {"output folder", 1}, {"listed twice", 1}};
  EXPECT_EQ(corpus.skipped, want);
  EXPECT_NE(error_of<InputError>([&] { list_corpus({folder / "absent"}); }).find("no such file"), std::string::npos);
  EXPECT_NE(error_of<InputError>([&] { list_corpus({folder / "t/.git"}); }), "no");
  folder.write("none/.hidden", "x");
  EXPECT_NE(error_of<InputError>([&] { list_corpus({folder / "none"}); }).find("empty corpus"), std::string::npos);
}

struct Whole { std::vector<std::string> documents; std::vector<Position> ends; };
Whole read_blocks(const Corpus& corpus, CorpusReader::Options options, Position from = {}) {
  CorpusReader reader(corpus, options, from);
  Whole out;
  Block block;
  while (reader.next(block)) {
    if (block.begins) out.documents.emplace_back(block.held_out ? "V:" : "T:");
    out.documents.back() += block.bytes;
    if (block.ends) out.ends.push_back(block.after);
    EXPECT_LE(static_cast<int64_t>(block.bytes.size()), 8 * options.block_bytes);
  }
  return out;
}

TEST(Corpus, BlocksHoldEveryByteAndReadingGoesOnFromAnyOfThem) {
  Folder folder;
  std::string words, solid(5000, 'x');
  for (int i = 0; i < 3000; ++i) words += "word" + std::to_string(i % 17) + (i % 11 == 0 ? "\n" : i % 3 == 0 ? " and " : "  ");
  folder.write("c/a.txt", words);
  folder.write("c/b.txt", solid);
  folder.write("c/c.jsonl", lines(100));
  folder.write("c/d.txt", "short");
  const Corpus corpus = list_corpus({folder / "c"});
  CorpusReader::Options options;
  options.block_bytes = 256;
  for (int64_t every : {0, 2, 20}) {
    options.hold_out_every = every;
    const Whole all = read_blocks(corpus, options);
    std::string joined;
    for (const std::string& d : all.documents) joined += d.substr(2);
    EXPECT_EQ(joined, words + solid + lines(100) + "short") << every;
    for (size_t i = 0; i < all.ends.size(); i += 3) {
      const Whole rest = read_blocks(corpus, options, all.ends[i]);
      ASSERT_EQ(rest.ends.size(), all.ends.size() - i - 1);
      for (size_t k = 0; k < rest.ends.size(); ++k) {
        EXPECT_EQ(rest.ends[k].offset, all.ends[i + 1 + k].offset);
        EXPECT_EQ(rest.ends[k].line, all.ends[i + 1 + k].line);
      }
    }
    if (every == 2) { EXPECT_TRUE(all.documents[1].starts_with("V:")); }  // b.txt, a whole file
    if (every == 20) {  // too few files: the end of a text is held out, from the begin of a line
      EXPECT_EQ(all.documents[0].substr(2) + all.documents[1].substr(2), words);
      EXPECT_TRUE(all.documents[1].starts_with("V:"));
      EXPECT_EQ(all.documents[0].back(), '\n');
      EXPECT_NEAR(static_cast<double>(all.documents[1].size()), static_cast<double>(words.size()) / 20, 120);
    }
  }
}

TEST(Corpus, ALineThatIsTooLongIsRefusedByName) {
  Folder folder;
  folder.write("long.jsonl", lines(3) + "{\"text\":\"" + std::string(5000, 'a') + "\"}\n" + lines(2));
  const Corpus corpus = list_corpus({folder / "long.jsonl"});
  for (int64_t block : {64, 100000}) {
    CorpusReader::Options options;
    options.block_bytes = block;
    options.max_line_bytes = 4000;
    const std::string text = error_of<InputError>([&] { read_blocks(corpus, options); });
    EXPECT_NE(text.find("long.jsonl' line 4: the line is too long"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace weft::data
