// What `prepare` reads: source trees, text files, JSON lines, each plain or packed, and Parquet, as a fixed sequence of blocks.
// Goals: the sequence depends on nothing but the inputs; a block is bounded, whatever a file holds; reading can go on from
// any block. A text file is one document; a JSON line is one document, and so is a row of Parquet, which comes as a JSON line.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/parquet_rows.h"
#include "data/source.h"

namespace weft::data {

enum class Format : uint8_t { kText, kJsonl, kParquet };
struct CorpusFile {
  std::string path;
  Format format;
  Packed packed;
  int64_t bytes, mtime_ns;
};
struct Corpus {
  std::vector<CorpusFile> files;           // inputs in the order given, each tree sorted by path
  std::map<std::string, int64_t> skipped;  // reason -> files of trees that are not read
  int64_t bytes = 0;                       // as they lie on the disk
};
// In a tree: hidden names, symbolic links, empty and binary files (a NUL in the first 8 KiB) and `except` are skipped and
// counted. A file that is named itself is always read. InputError when an input is missing or nothing is left.
Corpus list_corpus(const std::vector<std::string>& inputs, const std::string& except = "");

// One in `every` is held out for validation: files when there are that many, else lines of JSONL and the last part of a text file.
enum class HoldOut : uint8_t { kNone, kFiles, kParts };
HoldOut hold_out_of(const Corpus&, int64_t every);

struct Position { int64_t file = 0, offset = 0, line = 0; };  // offset in unpacked bytes (Parquet: its share of the rows); lines before it
struct Block {
  int64_t file = 0, first_line = 0;        // first_line counts from 0
  std::string bytes;                       // JSONL and Parquet: whole lines. Text: a document or a part of one
  bool begins = true, ends = true;         // text: the first, the last part of its document
  bool held_out = false;                   // text: this document is validation
  Position after;                          // where the next block begins
};

class CorpusReader {
 public:
  struct Options {
    int64_t block_bytes = int64_t{4} << 20;       // a longer text is cut between a letter and a space before a letter
    int64_t max_line_bytes = int64_t{64} << 20;   // a longer JSON line is refused
    int64_t hold_out_every = 20;                  // 0: none
    std::vector<std::string> columns;             // of Parquet files; the first names the text in messages
  };
  CorpusReader(const Corpus& corpus, const Options& options, Position from = {});
  bool next(Block& out);  // false at the end; InputError with file and line

 private:
  void open_file();
  void fill(int64_t want);  // until that many bytes are there, or the file has ended
  bool next_lines(Block& out);
  bool next_text(Block& out);
  bool next_rows(Block& out);
  [[noreturn]] void line_too_long(int64_t line) const;
  const Corpus& corpus_;
  Options options_;
  HoldOut hold_out_;
  Position at_;
  std::unique_ptr<ByteSource> source_;
  std::unique_ptr<ParquetRows> rows_;
  std::string buffer_;
  int64_t cut_ = -1;  // text under kParts: where the validation part begins
  bool file_ended_ = false;
};

}  // namespace weft::data
