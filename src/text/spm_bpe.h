// SentencePiece's BPE: of all neighbours whose joined text is a piece, join the best-scored (then the leftmost), until none is.
#pragma once
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "text/added.h"
#include "text/vocab.h"

namespace weft::text {

struct SpmBpeOptions {
  int32_t unknown = 0;
  bool byte_fallback = false;
  std::vector<uint8_t> usable;                       // [vocab] 1: may come out of a join
  std::shared_ptr<const AddedMatcher> user_symbols;  // stay whole
};

class SpmBpe {
 public:
  struct Scratch {
    struct Symbol {
      uint32_t begin, length;
      int32_t before, after;
      bool frozen;
    };
    struct Entry {
      float score;
      int32_t left, right;
      uint32_t length;
    };
    std::vector<Symbol> symbols;
    std::vector<Entry> heap;
  };
  SpmBpe(const Vocab& vocab, std::vector<double> scores, SpmBpeOptions options);
  void encode(std::string_view text, Scratch&, std::vector<int32_t>& ids, std::vector<uint32_t>* ends = nullptr) const;
  const std::vector<double>& scores() const { return scores_; }

 private:
  const Vocab& vocab_;
  std::vector<double> scores_;
  SpmBpeOptions options_;
  int32_t byte_id_[256];
};

}  // namespace weft::text
