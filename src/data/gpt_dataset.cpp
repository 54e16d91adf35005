#include "data/gpt_dataset.h"

#include <algorithm>
#include <filesystem>
#include <numeric>

#include "base/error.h"
#include "data/python_text.h"

namespace weft::data {

GptDataset::GptDataset(std::shared_ptr<const IndexedTokens> tokens, GptIndex index, int64_t seq_len, const GptSampleConfig& config)
    : tokens_(std::move(tokens)), streams_(SideStreams::open(tokens_->prefix(), tokens_->tokens(), IndexCheck::kStamped)), index_(std::move(index)), seq_len_(seq_len), config_(config) {
  expect_random(tokens_->bin());
}

template <class F>
DocumentStarts GptDataset::for_each_piece(int64_t index, const F& piece) const {
  if (index < 0 || index >= size()) throw InputError("data: sample outside the set: got " + std::to_string(index) + ", want below " + std::to_string(size()));
  const int64_t sample = index_.shuffled(index);
  const auto [first, first_offset] = index_.begin(sample);
  const auto [last, last_offset] = index_.begin(sample + 1);
  const int64_t want = seq_len_ + 1;
  DocumentStarts out{{0}, seq_len_};
  int64_t filled = 0;
  for (int64_t place = first; place <= last; ++place) {
    const int64_t document = index_.document(place);
    const int64_t begin = place == first ? first_offset : 0;
    const int64_t end = std::min<int64_t>(place == last ? last_offset + 1 : tokens_->length(document), begin + want - filled);
    if (config_.isolate_documents && filled > 0 && end > begin && filled < seq_len_) out.starts.push_back(static_cast<int32_t>(filled));
    piece(document, begin, end, filled);
    filled += end - begin;
  }
  if (config_.isolate_documents && filled < seq_len_) out.starts.push_back(static_cast<int32_t>(filled));
  return out;
}

DocumentStarts GptDataset::starts(int64_t index) const {
  return for_each_piece(index, [](int64_t, int64_t, int64_t, int64_t) {});
}

void GptDataset::read(int64_t index, Sample& out) const {
  const int64_t want = seq_len_ + 1;
  out.tokens.resize(static_cast<size_t>(want));
  out.loss_weights.assign(static_cast<size_t>(seq_len_), 1.0f);
  out.streams.clear();
  if (streams_) {
    out.streams.resize(kNumStreams);
    for (int s = 0; s < kNumStreams; ++s) {
      if (streams_->has(s)) out.streams[static_cast<size_t>(s)].assign(static_cast<size_t>(seq_len_), -1);
    }
  }
  int64_t filled = 0;
  out.document_starts = for_each_piece(index, [&](int64_t document, int64_t begin, int64_t end, int64_t at) {
    if (config_.isolate_documents && at > 0 && end > begin) out.loss_weights[static_cast<size_t>(at - 1)] = 0;
    tokens_->read(document, begin, end - begin, out.tokens.data() + at);
    for (int s = 0; s < static_cast<int>(out.streams.size()); ++s) {
      std::vector<int32_t>& row = out.streams[static_cast<size_t>(s)];
      if (!row.empty()) streams_->read(s, tokens_->begin(document) + begin, std::min(end - begin, seq_len_ - at), row.data() + at);
    }
    filled = at + end - begin;
  }).starts;
  std::fill(out.tokens.begin() + filled, out.tokens.end(), config_.pad);
  if (config_.eod_mask_loss) {
    for (int64_t i = 0; i < seq_len_; ++i) {
      if (out.tokens[static_cast<size_t>(i)] == config_.eod) out.loss_weights[static_cast<size_t>(i)] = 0;
    }
  }
  if (config_.pad < 0 && filled == want) return;  // no pad id, and no padding: nothing is masked
  for (int64_t i = 0; i < seq_len_; ++i) {
    if (out.tokens[static_cast<size_t>(i + 1)] == config_.pad) out.loss_weights[static_cast<size_t>(i)] = 0;
  }
  std::replace(out.tokens.begin(), out.tokens.end(), config_.pad, 0);
}

namespace {

struct Part {
  std::shared_ptr<const GptDataset> dataset;
  Json identifiers;
};

class Opener {
 public:
  Opener(const GptDataConfig& config, Split split) : config_(config), split_(split) {}

  std::shared_ptr<const Dataset> open() const {
    const size_t s = static_cast<size_t>(split_);
    const bool each = !config_.blend;
    const std::optional<Blend>& blend = each ? config_.blend_per_split[s] : config_.blend;
    if (!blend) return nullptr;
    std::optional<std::pair<double, double>> fractions = std::pair{0.0, 1.0};
    if (!each) fractions = split_matrix(config_.split)[s];
    if (!fractions) return nullptr;
    const std::optional<int64_t> size = config_.sizes[s];
    const std::vector<std::string>& prefixes = blend->prefixes;
    const bool weighted = !blend->weights.empty();
    if (weighted && !size) throw ConfigError("data: a blend with weights needs a number of samples: got none for " + std::string(name_of(split_)));
    if (prefixes.size() == 1 && (each || !weighted)) return part(prefixes[0], *fractions, size).dataset;
    const std::vector<double> weights = normalized(blend->weights);
    std::vector<Part> parts;
    for (size_t i = 0; i < prefixes.size(); ++i) {
      parts.push_back(part(prefixes[i], *fractions, weighted ? std::optional(samples_of_part(*size, weights[i], config_.surplus)) : std::nullopt));
    }
    return mix(parts, weighted ? weights : std::vector<double>{}, size);
  }

 private:
  Part part(const std::string& prefix, std::pair<double, double> fractions, std::optional<int64_t> samples) const {
    auto tokens = std::make_shared<const IndexedTokens>(IndexedTokens::open(prefix, config_.check));
    GptCacheKey key{prefix, samples, split_, config_.seed, config_.seq_len, config_.blend ? std::optional(config_.split) : std::nullopt, config_.tokenizer};
    GptIndexConfig index{config_.seq_len, config_.seed, samples, true, split_ != Split::kValid || config_.drop_last_partial_validation};
    GptIndex built = open_gpt_index(*tokens, key, index, split_range(fractions, tokens->sequences()), config_.cache_folder);
    return {std::make_shared<const GptDataset>(std::move(tokens), std::move(built), config_.seq_len, config_.samples), gpt_identifiers(key)};
  }

  std::shared_ptr<const Dataset> mix(const std::vector<Part>& parts, std::vector<double> weights, std::optional<int64_t> size) const {
    Json identifiers;
    identifiers["class"] = "BlendedDataset";
    identifiers["datasets"] = Json::array();
    std::vector<std::shared_ptr<const Dataset>> sets;
    std::vector<int64_t> sizes;
    for (const Part& p : parts) {
      identifiers["datasets"].push_back(p.identifiers);
      sets.push_back(p.dataset);
      sizes.push_back(p.dataset->size());
    }
    identifiers["split"] = name_of(split_);
    std::optional<int64_t> samples;
    if (!weights.empty()) {
      samples = 0;
      for (double w : weights) *samples += samples_of_part(*size, w, 0);
      weights = normalized(weights);  // once more, as upstream does
      identifiers["weights"] = weights;
    } else if (size) {
      samples = std::min(*size, std::accumulate(sizes.begin(), sizes.end(), int64_t{0}));
      weights = normalized(std::vector<double>(sizes.begin(), sizes.end()));
      identifiers["weights"] = weights;
    } else {
      identifiers["weights"] = sizes;
    }
    identifiers["size"] = samples ? Json(*samples) : Json(nullptr);
    const BlendWalk walk = samples ? BlendWalk(weights) : BlendWalk(sizes);
    const int64_t n = samples ? *samples : std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
    if (config_.cache_folder.empty()) return std::make_shared<const BlendedDataset>(std::move(sets), std::make_shared<const PlannedBlend>(walk, n));
    const std::string description = python_json(identifiers);
    const std::string base = config_.cache_folder + "/" + md5_hex(description) + "-BlendedDataset-" + name_of(split_) + "-";
    if (!std::filesystem::exists(base + "description.txt")) {
      make_folders(config_.cache_folder);
      write_blend(base, walk, n);
      write_file_atomic(base + "description.txt", description);
    }
    return std::make_shared<const BlendedDataset>(std::move(sets), std::make_shared<const StoredBlend>(base));
  }

  const GptDataConfig& config_;
  Split split_;
};

}  // namespace

std::shared_ptr<const Dataset> open_gpt(const GptDataConfig& config, Split split) {
  for (const auto& b : config.blend_per_split) {
    if (b && config.blend) throw ConfigError("data: got one blend for all splits and one for a single split, want either");
  }
  return Opener(config, split).open();
}

std::array<std::optional<int64_t>, 3> gpt_sample_counts(int64_t train_iterations, int64_t global_batch, int64_t eval_interval, int64_t eval_iterations) {
  const int64_t evaluations = eval_interval > 0 ? train_iterations / eval_interval + 1 : 0;
  return {train_iterations * global_batch, evaluations * eval_iterations * global_batch, eval_iterations * global_batch};
}

}  // namespace weft::data
