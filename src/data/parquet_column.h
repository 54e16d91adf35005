// One column of one row group, value by value: pages are unpacked as they are reached, so memory is that of a page and a dictionary.
// Encodings: plain, dictionary, RLE (booleans), delta binary packed, delta length and delta byte arrays. Pages v1 and v2;
// uncompressed, snappy, gzip, zstd. A page's CRC is checked where there is one.
#pragma once
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "data/parquet_file.h"

namespace weft::data {

class ParquetColumn {
 public:
  ParquetColumn(const ParquetFile& file, const ParquetNode& leaf, const ParquetChunk& chunk);
  // Levels of the entry that comes next; rep() is -1 at the end of the column.
  int rep() { return ready() ? (reps_.empty() ? 0 : reps_[at_]) : -1; }
  int def() { return need(), defs_.empty() ? 0 : defs_[at_]; }
  void skip() { value(); }
  // The entry's value and goes on: bytes of a kBytes column, JSON of any other; empty for a null (def below the column's).
  std::string_view value();

 private:
  bool ready();
  void need();
  void read_page();
  void read_dictionary(std::string_view packed, size_t bytes, int64_t count);
  void read_values(std::string_view bytes, int32_t encoding, int64_t count);
  std::vector<std::string_view> plain(std::string_view bytes, int64_t count);
  std::string_view keep(std::string text) { return texts_.emplace_back(std::move(text)); }
  std::string unpack(std::string_view packed, size_t bytes) const;
  [[noreturn]] void fail(const std::string& what) const;
  const ParquetFile& file_;
  const ParquetNode& leaf_;
  ParquetChunk chunk_;
  int64_t next_page_, left_;  // byte of the file; entries in pages not yet read
  std::string page_, dictionary_bytes_;
  std::vector<std::string_view> dictionary_, values_;
  std::deque<std::string> dictionary_texts_, texts_;  // JSON of numbers, joined byte arrays
  std::vector<uint8_t> reps_, defs_;                  // empty: all 0
  bool has_dictionary_ = false;
  size_t at_ = 0, count_ = 0, value_at_ = 0;
};

}  // namespace weft::data
