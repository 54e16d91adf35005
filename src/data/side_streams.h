// Side streams: numbers beside every token of PREFIX.bin, one file a stream, named by PREFIX.idx.json:
//   {"format": "weft.streams.1", "token_count": N, "side_channel_paths": {
//      "token_structure_ids": {"path": "NAME_token_structure_ids.bin", "dtype": "uint8", "absent": 255, "xxh3_128": "..."}, ...}}
// A .bin holds one value a token, little endian, without a header: its length must be N values or opening fails. "absent" and
// "xxh3_128" may be left out by other writers: absent is then the largest value of an unsigned type and every negative one.
#pragma once
#include <array>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "data/indexed.h"
#include "data/part_file.h"

namespace weft::data {

struct StreamKind {
  const char* name;   // "token_structure_ids"; readers also take it without "token_"
  int bytes;          // of a value that we write: 1 or 2, unsigned, the largest is "absent"
  int classes;        // rows of the model's table (nam56r.md 8); larger ids count as the last
};
constexpr std::array<StreamKind, 5> kStreamKinds{{
    {"token_structure_ids", 1, 9}, {"token_dep_levels", 2, 16}, {"token_ast_depth", 2, 64}, {"token_sibling_index", 2, 64}, {"token_ast_node_type", 2, 256}}};
constexpr int kNumStreams = static_cast<int>(kStreamKinds.size());

class SideStreams {  // calls from several threads at once are fine
 public:
  // Null when there is no PREFIX.idx.json. InputError names file and rule. kFull reads everything against the hashes; kStamped does
  // so once and remembers it in PREFIX.idx.json.checked under sizes and times; kHeader looks at sizes only.
  static std::shared_ptr<const SideStreams> open(const std::string& prefix, int64_t tokens, IndexCheck check);
  bool has(int stream) const { return columns_[static_cast<size_t>(stream)].file != nullptr; }
  // Values of tokens [token, token + count); -1 where absent. The stream must be there.
  void read(int stream, int64_t token, int64_t count, int32_t* out) const;
  int64_t tokens() const { return tokens_; }
  const std::vector<std::string>& others() const { return others_; }  // streams in the file that have no use here
  bool has_hashes() const { return hashed_; }

 private:
  struct Column {
    std::shared_ptr<const MappedFile> file;
    std::string path, hash;
    int width = 0;
    bool is_signed = false;
    int64_t absent = -1;
  };
  void load(const Json& description, const std::string& prefix);
  std::array<Column, kNumStreams> columns_;
  std::vector<std::string> others_;
  int64_t tokens_ = 0;
  bool hashed_ = false;
};

// Streams of a sample: rows [kNumStreams][n], an empty row for a stream that the set lacks; -1 behind the last token.
// Null `streams` gives none at all.
void read_streams(const SideStreams* streams, int64_t token, int64_t there, int64_t n, std::vector<std::vector<int32_t>>& out);

class SideStreamWriter {  // all five, cut back to `tokens` first
 public:
  SideStreamWriter(std::string prefix, int64_t tokens);
  // As many values as tokens in every stream, -1 for absent. A value above the type's range is written as the last that fits.
  void add(const std::array<std::span<const int32_t>, kNumStreams>& values);
  void finish();   // the .bin files, then PREFIX.idx.json
  void discard();

 private:
  std::string prefix_;
  std::array<PartFile, kNumStreams> files_;
  std::vector<char> scratch_;
};

}  // namespace weft::data
