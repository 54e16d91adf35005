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

void GptDataset::read(int64_t index, Sample& out) const {
  if (index < 0 || index >= size()) throw InputError("data: sample outside the set: got " + std::to_string(index) + ", want below " + std::to_string(size()));
  const int64_t sample = index_.shuffled(index);
  const auto [first, first_offset] = index_.begin(sample);
  const auto [last, last_offset] = index_.begin(sample + 1);
  const int64_t want = seq_len_ + 1;
  out.tokens.assign(static_cast<size_t>(want), config_.pad);
  out.loss_weights.assign(static_cast<size_t>(seq_len_), 1.0f);
  out.document_starts.assign(1, 0);
  out.streams.clear();
  if (streams_) {
    out.streams.resize(kNumStreams);
    for (int s = 0; s < kNumStreams; ++s) {
      if (streams_->has(s)) out.streams[static_cast<size_t>(s)].assign(static_cast<size_t>(seq_len_), -1);
    }
  }
  int64_t filled = 0;
  for (int64_t place = first; place <= last; ++place) {
    const int64_t document = index_.document(place);
    const int64_t begin = place == first ? first_offset : 0;
    const int64_t end = std::min<int64_t>(place == last ? last_offset + 1 : tokens_->length(document), begin + want - filled);
    if (config_.isolate_documents && filled > 0 && end > begin) {
      out.loss_weights[static_cast<size_t>(filled - 1)] = 0;
      if (filled < seq_len_) out.document_starts.push_back(static_cast<int32_t>(filled));
    }
    tokens_->read(document, begin, end - begin, out.tokens.data() + filled);
    for (int s = 0; s < static_cast<int>(out.streams.size()); ++s) {
      std::vector<int32_t>& row = out.streams[static_cast<size_t>(s)];
      if (!row.empty()) streams_->read(s, tokens_->begin(document) + begin, std::min(end - begin, seq_len_ - filled), row.data() + filled);
    }
    filled += end - begin;
  }
  if (config_.isolate_documents && filled < seq_len_) out.document_starts.push_back(static_cast<int32_t>(filled));
  for (int64_t i = 0; i < seq_len_; ++i) {
    if (out.tokens[static_cast<size_t>(i + 1)] == config_.pad) out.loss_weights[static_cast<size_t>(i)] = 0;
    if (config_.eod_mask_loss && out.tokens[static_cast<size_t>(i)] == config_.eod) out.loss_weights[static_cast<size_t>(i)] = 0;
  }
  std::replace(out.tokens.begin(), out.tokens.end(), config_.pad, 0);
}

BlendIndex blend_by_weights(const std::vector<double>& weights, int64_t size) {
  const size_t n = weights.size();
  if (n == 0 || n >= 32767) throw ConfigError("data: blend: got " + std::to_string(n) + " sets, want 1 to 32766");
  BlendIndex out;
  out.dataset.resize(static_cast<size_t>(size));
  out.sample.resize(static_cast<size_t>(size));
  std::vector<int64_t> counts(n, 0);
  std::vector<double> taken(n, 0);
  for (int64_t i = 0; i < size; ++i) {
    const double scale = std::max(static_cast<double>(i), 1.0);
    size_t best = 0;
    double best_error = weights[0] * scale - taken[0];
    for (size_t d = 1; d < n; ++d) {
      const double error = weights[d] * scale - taken[d];
      if (error > best_error) best_error = error, best = d;
    }
    out.dataset[static_cast<size_t>(i)] = static_cast<int16_t>(best);
    out.sample[static_cast<size_t>(i)] = counts[best]++;
    taken[best] += 1;
  }
  return out;
}

BlendIndex blend_exhaustively(const std::vector<int64_t>& sizes) {
  const size_t n = sizes.size();
  if (n == 0 || n >= 32767) throw ConfigError("data: blend: got " + std::to_string(n) + " sets, want 1 to 32766");
  const int64_t total = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  std::vector<double> weights, taken(n, 0);
  std::vector<size_t> open;
  for (size_t d = 0; d < n; ++d) {
    weights.push_back(static_cast<double>(sizes[d]) / static_cast<double>(total));
    if (sizes[d] > 0) open.push_back(d);
  }
  BlendIndex out;
  out.dataset.reserve(static_cast<size_t>(total));
  out.sample.reserve(static_cast<size_t>(total));
  std::vector<int64_t> counts(n, 0);
  for (int64_t i = 0; i < total; ++i) {
    const double scale = std::max(static_cast<double>(i), 1.0);
    size_t best = 0;
    double best_error = -std::numeric_limits<double>::infinity();
    for (size_t k = 0; k < open.size(); ++k) {
      const double error = weights[open[k]] * scale - taken[open[k]];
      if (error > best_error) best_error = error, best = k;
    }
    const size_t d = open[best];
    out.dataset.push_back(static_cast<int16_t>(d));
    out.sample.push_back(counts[d]++);
    taken[d] += 1;
    if (counts[d] == sizes[d]) open.erase(open.begin() + static_cast<int64_t>(best));
  }
  return out;
}

BlendedDataset::BlendedDataset(std::vector<std::shared_ptr<const Dataset>> parts, BlendIndex index) : parts_(std::move(parts)), index_(std::move(index)) {
  std::vector<int64_t> counts(parts_.size(), 0);
  for (int16_t d : index_.dataset) ++counts[static_cast<size_t>(d)];
  for (size_t d = 0; d < parts_.size(); ++d) {
    if (counts[d] > parts_[d]->size()) {
      throw ConfigError("data: the blend asks for more than set " + std::to_string(d) + " has: got " + std::to_string(counts[d]) + " samples, want at most " +
                        std::to_string(parts_[d]->size()) + "\ntry: a larger mid_level_dataset_surplus");
    }
  }
}

void BlendedDataset::read(int64_t index, Sample& out) const {
  if (index < 0 || index >= size()) throw InputError("data: sample outside the blend: got " + std::to_string(index) + ", want below " + std::to_string(size()));
  parts_[static_cast<size_t>(index_.dataset[static_cast<size_t>(index)])]->read(index_.sample[static_cast<size_t>(index)], out);
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
    const auto build = [&] { return samples ? blend_by_weights(weights, *samples) : blend_exhaustively(sizes); };
    if (config_.cache_folder.empty()) return std::make_shared<const BlendedDataset>(std::move(sets), build());
    const std::string description = python_json(identifiers);
    const std::string base = config_.cache_folder + "/" + md5_hex(description) + "-BlendedDataset-" + name_of(split_) + "-";
    BlendIndex index;
    if (std::filesystem::exists(base + "description.txt")) {
      const NpyFile dataset(base + "dataset_index.npy"), sample(base + "dataset_sample_index.npy");
      const auto d = dataset.values<int16_t>();
      const auto i = sample.values<int64_t>();
      index.dataset.assign(d.begin(), d.end());
      index.sample.assign(i.begin(), i.end());
      check_blend(index, parts.size(), base);
    } else {
      index = build();
      const int64_t n = static_cast<int64_t>(index.dataset.size());
      make_folders(config_.cache_folder);
      write_npy(base + "dataset_index.npy", "<i2", {n}, index.dataset.data(), 2 * n);
      write_npy(base + "dataset_sample_index.npy", "<i8", {n}, index.sample.data(), 8 * n);
      write_file_atomic(base + "description.txt", description);
    }
    return std::make_shared<const BlendedDataset>(std::move(sets), std::move(index));
  }

  static void check_blend(const BlendIndex& index, size_t parts, const std::string& base) {
    bool good = index.dataset.size() == index.sample.size();
    for (int16_t d : index.dataset) good = good && d >= 0 && static_cast<size_t>(d) < parts;
    if (!good) throw InputError("data: the cache '" + base + "*' does not fit together\ntry: remove these files");
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
