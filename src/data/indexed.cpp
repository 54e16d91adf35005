#include "data/indexed.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "base/error.h"

namespace weft::data {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little endian and read as it lies");

constexpr char kMagic[9] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0};
constexpr int64_t kHead = 34;

template <class T>
void widen(const char* from, int64_t count, int32_t* out) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, from + i * static_cast<int64_t>(sizeof(T)), sizeof value);
    out[i] = static_cast<int32_t>(value);
  }
}

template <class T>
bool narrow(std::span<const int32_t> tokens, char* out) {
  bool fits = true;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const T value = static_cast<T>(tokens[i]);
    fits &= static_cast<int64_t>(value) == tokens[i];
    std::memcpy(out + i * sizeof(T), &value, sizeof value);
  }
  return fits;
}

}  // namespace

int bytes_of(TokenType t) {
  switch (t) {
    case TokenType::kU8: case TokenType::kI8: return 1;
    case TokenType::kI16: case TokenType::kU16: return 2;
    case TokenType::kI32: case TokenType::kF32: return 4;
    case TokenType::kI64: case TokenType::kF64: return 8;
  }
  return 0;
}

const char* name_of(TokenType t) {
  constexpr const char* names[] = {"?", "u8", "i8", "i16", "i32", "i64", "f64", "f32", "u16"};
  return names[static_cast<int>(t)];
}

TokenType token_type_for(int64_t vocab_size) { return vocab_size < 65500 ? TokenType::kU16 : TokenType::kI32; }

// -- reading -------------------------------------------------------------------------------------------------------

void IndexedTokens::broken(const char* rule, int64_t at, const std::string& got, const std::string& want) const {
  throw InputError("idx '" + prefix_ + ".idx': rule " + rule + " broken at byte " + std::to_string(at) + ": got " + got + ", want " + want);
}

IndexedTokens IndexedTokens::open(const std::string& prefix, IndexCheck check) {
  IndexedTokens set;
  set.prefix_ = prefix;
  set.idx_file_ = std::make_shared<const MappedFile>(prefix + ".idx");
  set.bin_file_ = std::make_shared<const MappedFile>(prefix + ".bin");
  set.idx_ = set.idx_file_->bytes();
  set.bin_ = set.bin_file_->bytes();
  set.check_header();
  set.hashes_ = BlockHashes::open(prefix, set.idx_, set.bin_);
  if (check == IndexCheck::kHeader) return set;
  const std::string stamp_path = prefix + ".idx.checked";
  std::string stamp;
  if (check == IndexCheck::kStamped) {
    for (const char* end : {".idx", ".bin"}) {
      FileStamp s = stamp_of(prefix + end);
      stamp += std::string(end) + " " + std::to_string(s.bytes) + " " + std::to_string(s.mtime_ns) + "\n";
    }
    if (stamp_of(stamp_path).bytes == static_cast<int64_t>(stamp.size()) && read_file(stamp_path) == stamp) return set;
  }
  set.check_entries();
  if (check == IndexCheck::kStamped) {
    try {
      write_file_atomic(stamp_path, stamp);
    } catch (const IoError&) {  // a read-only folder: the check is simply done again next time
    }
  }
  return set;
}

void IndexedTokens::check_header() {
  const int64_t size = static_cast<int64_t>(idx_.size()), bin_bytes = static_cast<int64_t>(bin_.size());
  if (size < kHead) broken("header-size", 0, std::to_string(size) + " bytes", "at least 34");
  if (std::memcmp(idx_.data(), kMagic, sizeof kMagic) != 0) broken("magic", 0, "other bytes", "\"MMIDIDX\\0\\0\"");
  const uint64_t version = load<uint64_t>(9);
  if (version != 1) broken("version", 9, std::to_string(version), "1");
  const uint8_t code = load<uint8_t>(17);
  if (code < 1 || code > 8) broken("token-type", 17, std::to_string(code), "1 to 8");
  type_ = static_cast<TokenType>(code);
  width_ = bytes_of(type_);
  // A count above the file's size cannot be right, and below it the products do not overflow.
  const uint64_t s = load<uint64_t>(18), d = load<uint64_t>(26);
  if (s > static_cast<uint64_t>(size) / 12) broken("sequence-count", 18, std::to_string(s), "at most " + std::to_string(size / 12) + " in a file of " + std::to_string(size) + " bytes");
  if (d < 1 || d > static_cast<uint64_t>(size) / 8) broken("document-count", 26, std::to_string(d), "1 to " + std::to_string(size / 8));
  sequences_ = static_cast<int64_t>(s);
  boundaries_ = static_cast<int64_t>(d);
  const int64_t plain = kHead + 12 * sequences_ + 8 * boundaries_;
  has_modes_ = sequences_ > 0 && size == plain + sequences_;
  if (size != plain && !has_modes_) {
    broken("index-size", 18, std::to_string(size) + " bytes", std::to_string(plain) + " for " + std::to_string(s) + " sequences and " + std::to_string(d) + " boundaries, or " + std::to_string(plain + sequences_) + " with modes");
  }
  tokens_ = bin_bytes / width_;
  if (bin_bytes % width_ != 0) broken("bin-size", 17, std::to_string(bin_bytes) + " bytes of .bin", "a multiple of " + std::to_string(width_));
  if (boundary(0) != 0) broken("first-document", kHead + 12 * sequences_, std::to_string(boundary(0)), "0");
  if (boundary(boundaries_ - 1) != sequences_) broken("last-document", plain - 8, std::to_string(boundary(boundaries_ - 1)), std::to_string(sequences_));
  if (sequences_ == 0 ? bin_bytes != 0 : pointer(sequences_ - 1) + int64_t{length(sequences_ - 1)} * width_ != bin_bytes) {
    broken("bin-end", kHead + 12 * sequences_ - 8, std::to_string(bin_bytes) + " bytes of .bin",
           sequences_ == 0 ? "0" : std::to_string(pointer(sequences_ - 1) + int64_t{length(sequences_ - 1)} * width_));
  }
}

void IndexedTokens::check_entries() const {
  if (hashes_) hashes_->check_idx();
  int64_t sum = 0;
  for (int64_t i = 0; i < sequences_; ++i) {
    const int32_t n = length(i);
    if (n <= 0) broken("length", kHead + 4 * i, std::to_string(n) + " tokens in sequence " + std::to_string(i), "at least 1");
    if (pointer(i) != sum) broken("pointer", kHead + 4 * sequences_ + 8 * i, std::to_string(pointer(i)) + " for sequence " + std::to_string(i), std::to_string(sum));
    sum += int64_t{n} * width_;
  }
  if (sum != static_cast<int64_t>(bin_.size())) broken("bin-end", kHead, std::to_string(bin_.size()) + " bytes of .bin", std::to_string(sum));
  for (int64_t i = 1; i < boundaries_; ++i) {
    if (boundary(i) < boundary(i - 1)) broken("document-order", kHead + 12 * sequences_ + 8 * i, std::to_string(boundary(i)), "at least " + std::to_string(boundary(i - 1)));
  }
}

int64_t IndexedTokens::sequence_at(int64_t token) const {
  int64_t low = 0, high = sequences_;  // the last sequence that begins at or before the token
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (begin(middle) <= token ? low : high) = middle;
  }
  return low;
}

void IndexedTokens::read(int64_t sequence, int64_t offset, int64_t count, int32_t* out) const {
  if (sequence < 0 || sequence >= sequences_ || offset < 0 || count < 0 || offset + count > length(sequence)) {
    throw InputError("idx '" + prefix_ + "': read outside the data: got tokens [" + std::to_string(offset) + ", " + std::to_string(offset + count) +
                     ") of sequence " + std::to_string(sequence) + ", want sequences below " + std::to_string(sequences_) + " and their own length");
  }
  const int64_t at = pointer(sequence);
  if (at < 0 || at % width_ != 0) broken("pointer", kHead + 4 * sequences_ + 8 * sequence, std::to_string(at), "a multiple of " + std::to_string(width_));
  read_flat(at / width_ + offset, count, out);
}

void IndexedTokens::read_flat(int64_t token, int64_t count, int32_t* out) const {
  if (token < 0 || count < 0 || token + count > tokens_) {
    throw InputError("bin '" + prefix_ + ".bin': read outside the data: got tokens [" + std::to_string(token) + ", " + std::to_string(token + count) +
                     "), want at most " + std::to_string(tokens_));
  }
  if (hashes_) hashes_->check_bin(static_cast<size_t>(token * width_), static_cast<size_t>((token + count) * width_));
  const char* from = reinterpret_cast<const char*>(bin_.data()) + token * width_;
  switch (type_) {
    case TokenType::kU8: return widen<uint8_t>(from, count, out);
    case TokenType::kI8: return widen<int8_t>(from, count, out);
    case TokenType::kI16: return widen<int16_t>(from, count, out);
    case TokenType::kU16: return widen<uint16_t>(from, count, out);
    case TokenType::kI32: std::memcpy(out, from, static_cast<size_t>(count) * 4); return;
    case TokenType::kI64:
      for (int64_t i = 0; i < count; ++i) {
        int64_t value;
        std::memcpy(&value, from + 8 * i, 8);
        if (value != static_cast<int32_t>(value)) throw InputError("bin '" + prefix_ + ".bin': token id out of range at token " + std::to_string(token + i) + ": got " + std::to_string(value) + ", want 32 bits");
        out[i] = static_cast<int32_t>(value);
      }
      return;
    case TokenType::kF32: case TokenType::kF64: break;
  }
  throw InputError("bin '" + prefix_ + ".bin': not token ids: got elements of type " + std::string(name_of(type_)) + ", want integers");
}

int64_t IndexedTokens::max_token() const {
  int64_t best = -1;
  std::vector<int32_t> chunk(1 << 16);
  for (int64_t at = 0; at < tokens_; at += static_cast<int64_t>(chunk.size())) {
    const int64_t n = std::min<int64_t>(tokens_ - at, static_cast<int64_t>(chunk.size()));
    read_flat(at, n, chunk.data());
    for (int64_t i = 0; i < n; ++i) {
      if (chunk[i] < 0) throw InputError("bin '" + prefix_ + ".bin': negative token id at token " + std::to_string(at + i) + ": got " + std::to_string(chunk[i]) + ", want at least 0");
      best = std::max<int64_t>(best, chunk[i]);
    }
    drop_pages(bin_, at * width_, (at + n) * width_);
  }
  return best;
}

// -- writing -------------------------------------------------------------------------------------------------------

IndexedWriter::IndexedWriter(std::string prefix, TokenType type) : IndexedWriter(std::move(prefix), type, Mark{}) {}

IndexedWriter::IndexedWriter(std::string prefix, TokenType type, const Mark& from)
    : prefix_(std::move(prefix)), type_(type), width_(bytes_of(type)),
      bin_(prefix_ + ".bin.part", from.bin_bytes),
      lengths_(prefix_ + ".lengths.part", 4 * from.sequences),
      documents_(prefix_ + ".documents.part", 8 * (from.boundaries - 1)),
      sequences_(from.sequences), boundaries_(from.boundaries) {}

int64_t IndexedWriter::tokens() const { return bin_.size() / width_; }

void IndexedWriter::put(std::span<const int32_t> tokens) {
  scratch_.resize(tokens.size() * static_cast<size_t>(width_));
  bool fits = false;
  switch (type_) {
    case TokenType::kU8: fits = narrow<uint8_t>(tokens, scratch_.data()); break;
    case TokenType::kI8: fits = narrow<int8_t>(tokens, scratch_.data()); break;
    case TokenType::kI16: fits = narrow<int16_t>(tokens, scratch_.data()); break;
    case TokenType::kU16: fits = narrow<uint16_t>(tokens, scratch_.data()); break;
    case TokenType::kI32: fits = narrow<int32_t>(tokens, scratch_.data()); break;
    case TokenType::kI64: fits = narrow<int64_t>(tokens, scratch_.data()); break;
    case TokenType::kF32: case TokenType::kF64: break;
  }
  if (!fits) {
    const auto [low, high] = std::minmax_element(tokens.begin(), tokens.end());
    throw InputError("idx '" + prefix_ + "': a token id does not fit: got ids " + std::to_string(*low) + " to " + std::to_string(*high) + ", want type " + name_of(type_));
  }
  bin_.write(scratch_.data(), scratch_.size());
}

void IndexedWriter::flush_length() {
  if (open_length_ < 0) return;
  const int32_t length = static_cast<int32_t>(open_length_);
  lengths_.write(&length, 4);
  open_length_ = -1;
}

void IndexedWriter::add_sequence(std::span<const int32_t> tokens) {
  if (tokens.empty()) throw InputError("idx '" + prefix_ + "': empty sequence: got 0 tokens, want at least 1");
  flush_length();
  put(tokens);
  ++sequences_;
  open_length_ = 0;
  if (tokens.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) throw InputError("idx '" + prefix_ + "': sequence too long: got " + std::to_string(tokens.size()) + " tokens, want below 2^31");
  open_length_ = static_cast<int64_t>(tokens.size());
}

void IndexedWriter::extend_sequence(std::span<const int32_t> tokens) {
  WEFT_CHECK(open_length_ >= 0, "extend_sequence without a sequence");
  if (open_length_ + static_cast<int64_t>(tokens.size()) > std::numeric_limits<int32_t>::max()) {
    throw InputError("idx '" + prefix_ + "': sequence too long: got " + std::to_string(open_length_ + static_cast<int64_t>(tokens.size())) + " tokens, want below 2^31");
  }
  put(tokens);
  open_length_ += static_cast<int64_t>(tokens.size());
}

void IndexedWriter::end_document() {
  documents_.write(&sequences_, 8);
  ++boundaries_;
}

void IndexedWriter::append(const IndexedTokens& other) {
  if (other.type() != type_) {
    throw InputError("idx '" + prefix_ + "': mixed token types: got " + std::string(name_of(other.type())) + " in '" + other.prefix() + "', want " + name_of(type_));
  }
  if (other.has_modes()) throw InputError("idx '" + other.prefix() + "': sequence modes cannot be merged into a set without them");
  flush_length();
  bin_.write(other.bin().data(), other.bin().size());
  lengths_.write(other.raw_lengths().data(), other.raw_lengths().size());
  for (int64_t i = 1; i <= other.documents(); ++i) {
    const int64_t boundary = sequences_ + other.boundary(i);
    documents_.write(&boundary, 8);
  }
  sequences_ += other.sequences();
  boundaries_ += other.documents();
}

IndexedWriter::Mark IndexedWriter::sync() {
  flush_length();
  bin_.sync(), lengths_.sync(), documents_.sync();
  return {bin_.size(), sequences_, boundaries_};
}

void IndexedWriter::finish() {
  flush_length();
  lengths_.flush(), documents_.flush();
  MappedFile lengths(lengths_.path()), documents(documents_.path());
  PartFile idx(prefix_ + ".idx.part", 0);
  const uint64_t head[2] = {static_cast<uint64_t>(sequences_), static_cast<uint64_t>(boundaries_)};
  const uint64_t version = 1;
  const uint8_t code = static_cast<uint8_t>(type_);
  idx.write(kMagic, sizeof kMagic);
  idx.write(&version, 8);
  idx.write(&code, 1);
  idx.write(head, 16);
  idx.write(lengths.text().data(), lengths.text().size());
  int64_t sum = 0;
  for (int64_t i = 0; i < sequences_; ++i) {
    int32_t n;
    std::memcpy(&n, lengths.text().data() + 4 * i, 4);
    idx.write(&sum, 8);
    sum += int64_t{n} * width_;
  }
  WEFT_CHECK(sum == bin_.size(), "lengths and .bin disagree");
  const int64_t first = 0;
  idx.write(&first, 8);
  idx.write(documents.text().data(), documents.text().size());
  bin_.close_as(prefix_ + ".bin");
  idx.close_as(prefix_ + ".idx");
  lengths_.discard(), documents_.discard();
}

void IndexedWriter::discard() { bin_.discard(), lengths_.discard(), documents_.discard(); }

}  // namespace weft::data
