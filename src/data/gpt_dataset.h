// Megatron's GPT samples: pieces of shuffled documents, seq_len + 1 tokens each, and blends of several such sets.
#pragma once
#include <array>
#include <memory>

#include "data/blend.h"
#include "data/dataset.h"
#include "data/gpt_index.h"

namespace weft::data {

struct GptSampleConfig {
  int32_t pad = -1;               // the tokenizer's pad id; -1 when it has none or it is also eod (nothing is masked then)
  int32_t eod = -1;
  bool eod_mask_loss = false;     // no loss where the input is eod
  bool isolate_documents = true;  // documents of a sample never see each other, and none predicts the next one's first token;
                                  // off: one run of tokens, as Megatron trains without its reset options
};

class GptDataset final : public Dataset {
 public:
  GptDataset(std::shared_ptr<const IndexedTokens> tokens, GptIndex index, int64_t seq_len, const GptSampleConfig& config);
  int64_t size() const override { return index_.samples(); }
  void read(int64_t index, Sample& out) const override;
  DocumentStarts starts(int64_t index) const override;
  const GptIndex& index() const { return index_; }

 private:
  // piece(document, begin, end, filled): tokens [begin, end) of a document stand at `filled` in the sample.
  template <class F> DocumentStarts for_each_piece(int64_t index, const F& piece) const;
  std::shared_ptr<const IndexedTokens> tokens_;
  std::shared_ptr<const SideStreams> streams_;  // PREFIX.idx.json; null when there is none
  GptIndex index_;
  int64_t seq_len_;
  GptSampleConfig config_;
};

struct GptDataConfig {
  std::optional<Blend> blend;                          // one blend for all splits, cut by `split` ...
  std::string split = "99,1,0";
  std::array<std::optional<Blend>, 3> blend_per_split;  // ... or one each; then `blend` is empty
  std::array<std::optional<int64_t>, 3> sizes;         // samples asked for; none: one epoch
  int64_t seq_len = 0;
  uint32_t seed = 1234;
  double surplus = 0.005;                              // mid_level_dataset_surplus
  bool drop_last_partial_validation = true;
  std::string cache_folder;                            // empty: beside each .bin, and no cache for blends
  Json tokenizer;                                      // unique_identifiers, part of the cache's name
  GptSampleConfig samples;
  IndexCheck check = IndexCheck::kStamped;
};
// Null when the configuration has nothing for this split.
std::shared_ptr<const Dataset> open_gpt(const GptDataConfig&, Split);

// Samples that Megatron asks for: train, then validation at every interval and at the end, then test.
std::array<std::optional<int64_t>, 3> gpt_sample_counts(int64_t train_iterations, int64_t global_batch, int64_t eval_interval, int64_t eval_iterations);

}  // namespace weft::data
