// Byte-pair encoding of one word: merges by rank, lowest first, leftmost first (Sennrich et al. 2016, as Hugging Face runs it).
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/vocab.h"

namespace weft::text {

struct Merge {
  int32_t left, right, result;  // its rank is its place in the list; of equal pairs the last counts
};
struct BpeOptions {
  bool raw_bytes = false;       // words are bytes and every byte is a symbol (byte-level); else characters are
  bool byte_fallback = false;   // an unknown character becomes the tokens <0xAB> of its bytes
  bool fuse_unknown = false;    // neighbouring unknown characters become one unknown token
  bool ignore_merges = false;   // a word that is a token is that token
  int32_t unknown = -1;         // id, or -1: unknown characters vanish
  bool rank_by_result = false;  // a merge ranks by the id of its result (tiktoken), not by its place in the list
  std::string prefix, suffix;   // continuing_subword_prefix, end_of_word_suffix
};

class Bpe {
 public:
  struct Scratch {  // buffers of one thread
    struct Symbol {
      int32_t id;
      uint32_t length;  // bytes of the word
      int32_t before, after;
      uint32_t rank;    // of the merge with the next symbol, kNone when there is none
    };
    struct Entry {
      uint32_t rank;
      int32_t at;
      int32_t result;
    };
    std::vector<Symbol> symbols;
    std::vector<Entry> heap;
    std::string buffer;
  };
  static constexpr uint32_t kNone = 0xFFFFFFFF;

  // `vocab` holds raw bytes when options.raw_bytes is set. It must outlive this.
  Bpe(const Vocab& vocab, std::vector<Merge> merges, BpeOptions options);
  // Appends the ids of one word; with `ends`, also the offset in the word where each token ends.
  void encode(std::string_view word, Scratch&, std::vector<int32_t>& ids, std::vector<uint32_t>* ends = nullptr) const;

  const std::vector<Merge>& merges() const { return merges_; }
  const BpeOptions& options() const { return options_; }

 private:
  struct Slot {
    uint64_t pair = ~uint64_t{0};
    uint32_t rank = kNone;
    int32_t result = -1;
  };
  const Slot& find(int32_t left, int32_t right) const;
  void first_symbols(std::string_view word, Scratch&) const;
  void merge_short(Scratch&) const;
  void merge_long(Scratch&) const;
  const Vocab& vocab_;
  std::vector<Merge> merges_;
  BpeOptions options_;
  std::vector<Slot> table_;
  int32_t byte_id_[256];           // of a byte (raw_bytes), else of an ASCII character
  int32_t fallback_id_[256];       // of <0xAB>
};

}  // namespace weft::text
