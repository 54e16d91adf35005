// Samples made from rows while training: text tokenized on the fly, or documents of an indexed file, packed inside fixed blocks
// of rows. The rows are
// shuffled once by the seed; how many samples each block gives is counted once and kept, so that the position is one integer,
// the same for any number of ranks. Meant to be read in order (EpochOrder without shuffling): neighbours share a block.
#pragma once
#include <functional>
#include <list>
#include <mutex>

#include "data/dataset.h"
#include "data/rows.h"

namespace weft::data {

struct TokenRow {  // one conversation or document
  std::vector<int32_t> tokens;
  std::vector<float> weights;  // [tokens]: of predicting this token; the first one's is not used
  int64_t bytes = 0;           // of the text
};
// A row's sequences, in order: one, or several that must stay side by side in one sample (a preferred answer and its rival).
// Empty: the row is skipped. Called from several threads.
using RowEncoder = std::function<std::vector<TokenRow>(std::string_view line, const std::string& where)>;

class RowSource {
 public:
  virtual ~RowSource() = default;
  virtual int64_t size() const = 0;
  virtual std::vector<TokenRow> row(int64_t index) const = 0;  // called from several threads
  virtual std::string identity() const = 0;                    // changes when the rows do
};
std::shared_ptr<const RowSource> text_source(std::shared_ptr<const Rows> rows, RowEncoder encoder);
// Documents of an indexed file with the weights of PREFIX.weights, or 1.
std::shared_ptr<const RowSource> stored_source(std::shared_ptr<const IndexedTokens> tokens);

struct RowConfig {
  int64_t seq_len = 0;
  enum Fill : uint8_t {
    kPack,    // sequences stay whole: first fit into samples, cut on the right when longer than one; the rest is padding at weight 0
    kStream,  // sequences run on from one sample to the next
  } fill = kPack;
  int64_t align = 1;            // kPack: each sequence begins at a multiple of this; the padding belongs to the sequence before
  int64_t block_rows = 1024;
  bool shuffle = true;
  uint64_t seed = 1234;
  int32_t pad = 0;
  std::string identity;         // of the encoder (tokenizer hash, template); part of the cache's name
  std::string cache_folder;     // empty: no cache
  int workers = 1;
};

class RowDataset final : public Dataset {
 public:
  RowDataset(std::shared_ptr<const RowSource> rows, const RowConfig& config);  // counts all blocks unless cached
  RowDataset(std::shared_ptr<const Rows> rows, RowEncoder encoder, const RowConfig& config) : RowDataset(text_source(std::move(rows), std::move(encoder)), config) {}
  int64_t size() const override { return starts_.back(); }
  void read(int64_t index, Sample& out) const override { out = *sample(index); }
  DocumentStarts starts(int64_t index) const override {
    const auto s = sample(index);
    return {s->document_starts, s->inputs()};
  }
  int64_t truncated_rows() const { return truncated_; }  // longer than seq_len; known when the counts were made
  int64_t skipped_rows() const { return skipped_; }

 private:
  using Block = std::vector<Sample>;
  struct Made { Block samples; int64_t truncated = 0, skipped = 0; };
  std::shared_ptr<const Sample> sample(int64_t index) const;  // holds its block
  Made make_block(int64_t block) const;
  void pack(std::vector<std::vector<TokenRow>>& groups, Made& out) const;
  void stream(std::vector<std::vector<TokenRow>>& groups, Made& out) const;
  bool load_counts(const std::string& path);
  std::shared_ptr<const RowSource> rows_;
  RowConfig config_;
  std::vector<int64_t> starts_;  // first sample of each block, and the end
  int64_t truncated_ = 0, skipped_ = 0;
  mutable std::mutex mutex_;
  mutable std::list<std::pair<int64_t, std::shared_ptr<const Block>>> recent_;  // the last few blocks
};

}  // namespace weft::data
