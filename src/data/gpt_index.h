// The three index arrays of Megatron's GPTDataset, equal to the byte, with their cache files: a run of Megatron can be
// continued on the same order of samples.
//   document_index [E * documents]   sequences, repeated for E epochs and shuffled
//   sample_index   [n + 1, 2]        (place in document_index, offset) where each sample begins; neighbours share `extra` tokens
//   shuffle_index  [n]               the order of samples
#pragma once
#include <optional>
#include "base/json.h"

#include "data/indexed.h"
#include "data/npy.h"
#include "data/splits.h"

namespace weft::data {

struct GptIndexConfig {
  int64_t seq_len = 0;
  uint32_t seed = 1234;
  std::optional<int64_t> num_samples;  // none: one epoch
  bool extra_token = true;             // add_extra_token_to_sequence
  bool drop_last_partial = true;       // of the validation split; the others always drop it
};

struct GptPlan {  // the arithmetic before any array: enough to know the number of samples
  int64_t tokens_per_epoch = 0, epochs = 1, samples = 0;
  bool separate_last_epoch = false;
  int64_t samples_before_last_epoch = 0;
};
GptPlan plan_gpt(int64_t tokens_per_epoch, const GptIndexConfig&);

class GptIndex {
 public:
  static GptIndex build(const IndexedTokens&, std::pair<int64_t, int64_t> sequences, const GptIndexConfig&);
  // From `folder`/`stem`-{document,sample,shuffle}_index.npy; empty when one is missing.
  static std::optional<GptIndex> load(const std::string& folder, const std::string& stem);
  void save(const std::string& folder, const std::string& stem, const std::string& description) const;

  int64_t samples() const { return samples_; }
  int64_t document(int64_t place) const { return documents_[static_cast<size_t>(place)]; }
  int64_t shuffled(int64_t i) const { return wide_shuffle_.empty() ? static_cast<int64_t>(shuffle_[static_cast<size_t>(i)]) : wide_shuffle_[static_cast<size_t>(i)]; }
  std::pair<int64_t, int64_t> begin(int64_t sample) const {
    const size_t at = 2 * static_cast<size_t>(sample);
    if (!wide_samples_.empty()) return {wide_samples_[at], wide_samples_[at + 1]};
    return {sample_[at], sample_[at + 1]};
  }
  std::span<const int32_t> document_index() const { return documents_; }
  std::span<const int32_t> sample_index() const { return sample_; }        // empty when it needs 64 bits
  std::span<const uint32_t> shuffle_index() const { return shuffle_; }     // empty when it needs 64 bits

 private:
  std::shared_ptr<const void> owner_;  // vectors or maps that the spans look into
  std::span<const int32_t> documents_, sample_;
  std::span<const int64_t> wide_samples_, wide_shuffle_;
  std::span<const uint32_t> shuffle_;
  int64_t samples_ = 0;
};

// The text that names a cache: JSON of class, path, sizes, split and the tokenizer's own identifiers, as Megatron writes it.
struct GptCacheKey {
  std::string dataset_path;
  std::optional<int64_t> num_samples;
  Split split = Split::kTrain;
  uint32_t seed = 1234;
  int64_t seq_len = 0;
  std::optional<std::string> split_text;  // "99,1,0"; none with a blend per split
  Json tokenizer;                         // unique_identifiers of Megatron's tokenizer object
};
Json gpt_identifiers(const GptCacheKey&);
std::string gpt_stem(const std::string& description, Split);  // "<md5>-GPTDataset-train"
// Takes the cache when it is there, else builds and saves it. `folder` empty: "<prefix>/cache/GPTDataset_indices".
GptIndex open_gpt_index(const IndexedTokens&, const GptCacheKey&, const GptIndexConfig&, std::pair<int64_t, int64_t> sequences, std::string folder);

}  // namespace weft::data
