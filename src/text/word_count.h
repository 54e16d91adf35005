// Counts words: one block of bytes, one table. Grows by doubling; iteration order is the order of first sight.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

namespace weft::text {

class WordCount {
 public:
  struct Word {
    uint64_t begin;
    uint32_t length;
    uint32_t hash;
    int64_t count;
  };
  void add(std::string_view word, int64_t count = 1);
  std::string_view text(const Word& w) const { return std::string_view(bytes_.data() + w.begin, w.length); }
  const std::vector<Word>& words() const { return words_; }
  size_t memory_bytes() const { return bytes_.capacity() + words_.capacity() * sizeof(Word) + table_.capacity() * sizeof(uint32_t); }
  void clear();
  // Forgets the rarest words until at most `keep_bytes` of memory are needed; returns words and bytes of text given up.
  std::pair<int64_t, int64_t> drop_rarest(size_t keep_bytes);

 private:
  void grow(size_t slots);
  std::vector<char> bytes_;
  std::vector<Word> words_;
  std::vector<uint32_t> table_;  // index + 1, 0 is free
};

}  // namespace weft::text
