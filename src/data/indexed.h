// Indexed token files: PREFIX.bin (tokens of all sequences, no header) and PREFIX.idx. Little endian, packed:
//   byte 0   "MMIDIDX\0\0"            9 bytes
//   9        u64 version = 1
//   17       u8 token type code       (TokenType)
//   18       u64 S sequences          26  u64 D document boundaries (documents + 1)
//   34       i32[S] lengths in tokens
//   34+4S    i64[S] byte offset of each sequence in .bin
//   34+12S   i64[D] document boundaries as sequence indices: first 0, last S
//   34+12S+8D  i8[S] modes, only in multimodal sets
// The arrays are not aligned: every access is a memcpy. Opening checks every rule and names the one that is broken.
#pragma once
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/files.h"
#include "data/block_hashes.h"
#include "data/part_file.h"

namespace weft::data {

enum class TokenType : uint8_t { kU8 = 1, kI8 = 2, kI16 = 3, kI32 = 4, kI64 = 5, kF64 = 6, kF32 = 7, kU16 = 8 };
int bytes_of(TokenType);
const char* name_of(TokenType);
TokenType token_type_for(int64_t vocab_size);  // u16 below 65,500, else i32

enum class IndexCheck : uint8_t {
  kFull,     // every rule, over every entry
  kHeader,   // header, counts and file sizes only; entries are checked as they are used
  kStamped,  // kFull once, then remembered in PREFIX.idx.checked under the size and time of both files; kHeader while it holds
};

class IndexedTokens {
 public:
  IndexedTokens() = default;
  // InputError `idx 'FILE': rule NAME broken at byte N: got X, want Y`.
  static IndexedTokens open(const std::string& prefix, IndexCheck check = IndexCheck::kFull);

  const std::string& prefix() const { return prefix_; }
  TokenType type() const { return type_; }
  int64_t sequences() const { return sequences_; }
  int64_t documents() const { return boundaries_ - 1; }
  int64_t tokens() const { return tokens_; }
  bool has_modes() const { return has_modes_; }
  bool has_hashes() const { return hashes_ != nullptr; }  // PREFIX.hashes is there: each block of .bin is checked when first read

  int32_t length(int64_t sequence) const { return load<int32_t>(34 + 4 * sequence); }
  int64_t pointer(int64_t sequence) const { return load<int64_t>(34 + 4 * sequences_ + 8 * sequence); }  // bytes
  int64_t begin(int64_t sequence) const { return sequence == sequences_ ? tokens_ : pointer(sequence) / width_; }  // tokens
  int64_t boundary(int64_t i) const { return load<int64_t>(34 + 12 * sequences_ + 8 * i); }  // first sequence of document i
  int8_t mode(int64_t sequence) const { return load<int8_t>(34 + 12 * sequences_ + 8 * boundaries_ + sequence); }
  int64_t sequence_at(int64_t token) const;  // which sequence holds this token of the whole file

  // Tokens [offset, offset + count) of one sequence, or of the file as one stream. Float files are refused.
  void read(int64_t sequence, int64_t offset, int64_t count, int32_t* out) const;
  void read_flat(int64_t token, int64_t count, int32_t* out) const;
  int64_t max_token() const;  // walks the whole .bin; -1 when it is empty
  void check_entries() const;  // the rules over every entry and, with a side file, the hashes of .idx; what kFull does after the header

  std::span<const std::byte> bin() const { return bin_; }
  std::span<const std::byte> raw_lengths() const { return idx_.subspan(34, static_cast<size_t>(4 * sequences_)); }

 private:
  template <class T>
  T load(int64_t at) const {
    T value;
    std::memcpy(&value, idx_.data() + at, sizeof value);
    return value;
  }
  void check_header();
  [[noreturn]] void broken(const char* rule, int64_t at, const std::string& got, const std::string& want) const;

  std::string prefix_;
  std::shared_ptr<const MappedFile> idx_file_, bin_file_;
  std::shared_ptr<const BlockHashes> hashes_;  // null without a side file
  std::span<const std::byte> idx_, bin_;
  TokenType type_ = TokenType::kI32;
  int width_ = 4;
  int64_t sequences_ = 0, boundaries_ = 1, tokens_ = 0;
  bool has_modes_ = false;
};

// Writes the same bytes as Megatron's builder. The lengths are spooled to disk, so memory does not grow with the corpus.
// Nothing appears under its final name before finish().
class IndexedWriter {
 public:
  struct Mark {  // a point to continue from: sizes of the parts
    int64_t bin_bytes = 0, sequences = 0, boundaries = 1;
  };
  IndexedWriter(std::string prefix, TokenType type);
  IndexedWriter(std::string prefix, TokenType type, const Mark& from);  // cuts the parts back to `from` and goes on

  void add_sequence(std::span<const int32_t> tokens);  // InputError when an id does not fit the type; empty ones are refused
  void extend_sequence(std::span<const int32_t> tokens);  // more tokens of the sequence that was added last
  void end_document();
  void add_document(std::span<const int32_t> tokens) { add_sequence(tokens), end_document(); }
  void append(const IndexedTokens& other);  // merge: its sequences and documents after ours, in 64 bits
  Mark sync();                               // everything so far is on the disk
  void finish();                             // .bin, then .idx
  void discard();

  int64_t tokens() const;
  int64_t sequences() const { return sequences_; }
  int64_t documents() const { return boundaries_ - 1; }

 private:
  void put(std::span<const int32_t> tokens);
  void flush_length();
  std::string prefix_;
  TokenType type_;
  int width_;
  PartFile bin_, lengths_, documents_;
  int64_t sequences_ = 0, boundaries_ = 1;
  int64_t open_length_ = -1;  // of the last sequence, which may still grow
  std::vector<char> scratch_;
};

}  // namespace weft::data
