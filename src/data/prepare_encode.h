// A block of a corpus to tokens: what the workers of `prepare` do. Documents that filters drop are not encoded.
#pragma once
#include <optional>

#include "data/documents.h"
#include "data/filters.h"
#include "data/prepare.h"

namespace weft::data {

struct Hash128 {
  uint64_t low = 0, high = 0;
  bool operator==(const Hash128&) const = default;
};
struct HashOfHash { size_t operator()(const Hash128& h) const { return h.low; } };

struct Piece {  // a document of a block, or a part of one
  int64_t tokens, bytes;
  bool begins, ends, held_out;
  int64_t replaced = 0;
  Hash128 hash{};        // with dedup
  int dropped_by = -1;   // number of the filter's name; of a document in several parts the first part decides
};
struct Encoded {
  std::vector<int32_t> tokens;
  std::vector<float> weights;  // of rows
  std::vector<Piece> pieces;
  std::vector<int64_t> found;  // FilterPass::found
  int64_t file, lines = 0, raw_bytes;
  bool resumable = true;       // no document goes on in the next block
  Position after;
};

class BlockEncoder {
 public:
  BlockEncoder(const PrepareOptions& options, const Corpus& corpus, const DocumentRules& rules);
  const Filters& filters() const { return filters_; }
  Encoded encode(Block& block, const TextEncoder& encoder) const;  // frees the block's text
  // Texts of a block that training the tokenizer may see: not held out, whole documents only if they pass the filters. `wanted` is
  // asked first.
  void for_training(const Block& block, const std::function<bool(int64_t bytes)>& wanted, const std::function<void(std::string)>& use) const;

 private:
  void encode_rows(const Block& block, Encoded& out) const;
  const PrepareOptions& options_;
  const Corpus& corpus_;
  const DocumentRules& rules_;
  Filters filters_;
};

}  // namespace weft::data
