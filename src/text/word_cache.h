// Remembers the ids of words: most words of a text were seen a moment ago. One per thread; never changes results.
#pragma once
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace weft::text {

class WordCache {
 public:
  // Words of at most kShort bytes with at most three ids live in one table row; longer ones in a second table.
  static constexpr size_t kShort = 15, kLong = 128;
  struct Row {
    uint64_t low = 0, high = 0;  // the word's bytes, zero-filled; the last byte of `high` is its length, 0 is a free row
    int32_t ids[3];
    uint32_t count;
  };
  struct Key {
    uint64_t low, high;
  };
  WordCache() : rows_(kRows), long_rows_(kLongRows) {}

  // `readable` bytes may be read from word.data() on.
  static Key key_of(std::string_view word, size_t readable) {
    Key k{0, 0};
    if (readable >= 16) {
      std::memcpy(&k, word.data(), 16);
      const size_t n = word.size();
      if (n < 8) {
        k.low &= (uint64_t{1} << (n * 8)) - 1;
        k.high = 0;
      } else {
        k.high &= (uint64_t{1} << ((n - 8) * 8)) - 1;
      }
    } else {
      std::memcpy(&k, word.data(), word.size());
    }
    k.high |= uint64_t{word.size()} << 56;
    return k;
  }
  Row& row(Key k) {
    uint64_t h = (k.low ^ k.high * 0x9E3779B97F4A7C15u) * 0xD6E8FEB86659FD93u;
    return rows_[(h >> 32 ^ h >> 48) & (kRows - 1)];
  }

  // Longer words: false when the word is not there.
  bool find_long(std::string_view word, uint64_t hash, std::vector<int32_t>& ids) const {
    const LongRow& r = long_rows_[hash & (kLongRows - 1)];
    if (r.hash != hash || r.length != word.size() || std::memcmp(bytes_.data() + r.byte_at, word.data(), word.size()) != 0) return false;
    ids.insert(ids.end(), ids_.begin() + r.id_at, ids_.begin() + r.id_at + r.count);
    return true;
  }
  void put_long(std::string_view word, uint64_t hash, const int32_t* ids, size_t count) {
    if (bytes_.size() + word.size() > kLongBytes || ids_.size() + count > kLongBytes) {  // full: start again
      bytes_.clear(), ids_.clear();
      std::fill(long_rows_.begin(), long_rows_.end(), LongRow{});
    }
    long_rows_[hash & (kLongRows - 1)] = {hash, static_cast<uint32_t>(bytes_.size()), static_cast<uint32_t>(ids_.size()),
                                          static_cast<uint16_t>(word.size()), static_cast<uint16_t>(count)};
    bytes_.insert(bytes_.end(), word.begin(), word.end());
    ids_.insert(ids_.end(), ids, ids + count);
  }

 private:
  struct LongRow {
    uint64_t hash = 0;
    uint32_t byte_at = 0, id_at = 0;
    uint16_t length = 0, count = 0;
  };
  static constexpr size_t kRows = 1 << 15, kLongRows = 1 << 14, kLongBytes = 1 << 20;
  std::vector<Row> rows_;
  std::vector<LongRow> long_rows_;
  std::vector<char> bytes_;
  std::vector<int32_t> ids_;
};

}  // namespace weft::text
