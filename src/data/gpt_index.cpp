#include "data/gpt_index.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <numeric>

#include "base/cpu.h"
#include "base/error.h"
#include "data/big_array.h"
#include "data/numpy_random.h"
#include "data/ordered.h"
#include "data/python_text.h"

namespace weft::data {
namespace {

constexpr int64_t kMax32 = std::numeric_limits<int32_t>::max();

struct Arrays {
  BigArray<int32_t> documents, sample;
  BigArray<int64_t> wide_sample, wide_shuffle;
  BigArray<uint32_t> shuffle;
};
struct Maps { std::vector<NpyFile> files; };

// Fills `out` with epochs of [first, last) and shuffles them as one.
void fill_documents(int64_t first, int64_t last, int64_t epochs, NumpyRandom& random, std::span<int32_t> out) {
  const int64_t n = last - first;
  for (int64_t e = 0; e < epochs; ++e) std::iota(out.begin() + e * n, out.begin() + (e + 1) * n, static_cast<int32_t>(first));
  random.shuffle(out);
}

// The lengths of documents in their shuffled order, block after block. Fetching them is random reads of the length table, the
// slowest part of the walk: several threads do it, each block ahead of where the walk is.
class LengthFeed {
 public:
  LengthFeed(const IndexedTokens& tokens, std::span<const int32_t> documents)
      : table_(reinterpret_cast<const char*>(tokens.raw_lengths().data())), documents_(documents),
        work_(documents.size() > 4 * kBlock ? std::clamp(cpu::threads() - 1, 1, 4) : 1, [this](size_t& first) { return fetch(first); }) {}
  std::span<const int32_t> next() {
    while (given_ < documents_.size() && work_.pending() < 8) work_.give(given_), given_ += kBlock;
    current_ = *work_.take(true);
    return current_;
  }

 private:
  static constexpr size_t kBlock = size_t{1} << 18;
  std::vector<int32_t> fetch(size_t first) const {
    constexpr size_t kAhead = 64;
    const size_t last = std::min(first + kBlock, documents_.size());
    std::vector<int32_t> out(last - first);
    for (size_t i = first; i < last; ++i) {
      if (i + kAhead < last) __builtin_prefetch(table_ + 4 * static_cast<int64_t>(documents_[i + kAhead]));
      std::memcpy(&out[i - first], table_ + 4 * static_cast<int64_t>(documents_[i]), 4);
    }
    return out;
  }
  const char* table_;
  std::span<const int32_t> documents_;
  size_t given_ = 0;
  std::vector<int32_t> current_;
  OrderedWork<size_t, std::vector<int32_t>> work_;
};

// Walks the documents once; every sample begins where the one before began plus seq_len tokens.
template <class T>
void fill_samples(const IndexedTokens& tokens, std::span<const int32_t> documents, int64_t seq_len, int64_t extra, int64_t samples, std::span<T> out) {
  LengthFeed feed(tokens, documents);
  std::span<const int32_t> lengths = feed.next();
  size_t place = 0, first = 0;  // lengths[0] is of documents[first]
  int64_t offset = 0, length = lengths[0];
  T* at = out.data();
  *at++ = 0, *at++ = 0;
  for (int64_t i = 1; i <= samples; ++i) {
    int64_t need = seq_len + extra;
    for (;;) {
      const int64_t rest = length - offset;
      if (need <= rest) {
        offset += need - extra;
        break;
      }
      need -= rest;
      if (place + 1 == documents.size()) {  // the last, shorter sample
        offset = length - extra;
        break;
      }
      if (++place - first == lengths.size()) first = place, lengths = feed.next();
      length = lengths[place - first];
      offset = 0;
    }
    *at++ = static_cast<T>(place), *at++ = static_cast<T>(offset);
  }
}

template <class T>
void fill_shuffle(int64_t first, int64_t total, NumpyRandom& random, std::span<T> out) {
  std::iota(out.begin(), out.end(), T{0});
  random.shuffle(out.first(static_cast<size_t>(first)));
  if (first < total) random.shuffle(out.subspan(static_cast<size_t>(first)));
}

}  // namespace

GptPlan plan_gpt(int64_t tokens_per_epoch, const GptIndexConfig& c) {
  const int64_t extra = c.extra_token ? 1 : 0;
  if (c.seq_len < 1) throw ConfigError("data: seq_len: got " + std::to_string(c.seq_len) + ", want at least 1");
  if (tokens_per_epoch < 1 || (!c.num_samples && tokens_per_epoch < c.seq_len + extra && c.drop_last_partial)) {
    throw InputError("data: too few tokens for one sample: got " + std::to_string(tokens_per_epoch) + ", want at least " + std::to_string(c.seq_len + extra));
  }
  GptPlan p;
  p.tokens_per_epoch = tokens_per_epoch;
  if (c.num_samples) p.epochs = std::max<int64_t>(1, (*c.num_samples * c.seq_len + extra + tokens_per_epoch - 1) / tokens_per_epoch);
  const int64_t tokens = p.epochs * tokens_per_epoch - extra;
  // The partial last sample is counted in single precision, as upstream does: beyond 2^24 tokens it may be off.
  p.samples = c.drop_last_partial ? tokens / c.seq_len : static_cast<int64_t>(std::ceil(static_cast<float>(tokens) / static_cast<float>(c.seq_len)));
  if (p.epochs > 1) {
    p.samples_before_last_epoch = ((p.epochs - 1) * tokens_per_epoch - extra) / c.seq_len;
    const int64_t from_last = *c.num_samples - p.samples_before_last_epoch;
    const int64_t per_epoch = (tokens_per_epoch - extra) / c.seq_len;
    p.separate_last_epoch = from_last < static_cast<int64_t>(0.80 * static_cast<double>(per_epoch));
  }
  return p;
}

GptIndex GptIndex::build(const IndexedTokens& tokens, std::pair<int64_t, int64_t> range, const GptIndexConfig& config) {
  const auto [first, last] = range;
  if (first < 0 || last > tokens.sequences() || first >= last) {
    throw InputError("data: '" + tokens.prefix() + "': no sequence in this split: got [" + std::to_string(first) + ", " + std::to_string(last) + ") of " + std::to_string(tokens.sequences()));
  }
  if (last > kMax32) throw UnsupportedError("data: '" + tokens.prefix() + "': Megatron's order has 32-bit sequence numbers: got " + std::to_string(last) + ", want at most " + std::to_string(kMax32));
  const GptPlan plan = plan_gpt(tokens.begin(last) - tokens.begin(first), config);
  auto arrays = std::make_shared<Arrays>();
  NumpyRandom random(config.seed);
  const int64_t n = last - first;
  arrays->documents = BigArray<int32_t>(static_cast<size_t>(n * plan.epochs));
  const std::span<int32_t> documents = arrays->documents.span();
  if (plan.separate_last_epoch) {
    fill_documents(first, last, plan.epochs - 1, random, documents.first(static_cast<size_t>(n * (plan.epochs - 1))));
    fill_documents(first, last, 1, random, documents.last(static_cast<size_t>(n)));
  } else {
    fill_documents(first, last, plan.epochs, random, documents);
  }
  int32_t longest = 0;
  for (int64_t i = 0; i < tokens.sequences(); ++i) longest = std::max(longest, tokens.length(i));
  const int64_t extra = config.extra_token ? 1 : 0;
  const size_t size = 2 * static_cast<size_t>(plan.samples + 1);
  if (std::max<int64_t>(static_cast<int64_t>(documents.size()), longest) <= kMax32) {
    arrays->sample = BigArray<int32_t>(size);
    fill_samples<int32_t>(tokens, documents, config.seq_len, extra, plan.samples, arrays->sample.span());
  } else {
    arrays->wide_sample = BigArray<int64_t>(size);
    fill_samples<int64_t>(tokens, documents, config.seq_len, extra, plan.samples, arrays->wide_sample.span());
  }
  const int64_t before = plan.separate_last_epoch ? plan.samples_before_last_epoch : plan.samples;
  if (plan.samples >= int64_t{0xFFFFFFFF} - 1) {
    arrays->wide_shuffle = BigArray<int64_t>(static_cast<size_t>(plan.samples));
    fill_shuffle<int64_t>(before, plan.samples, random, arrays->wide_shuffle.span());
  } else {
    arrays->shuffle = BigArray<uint32_t>(static_cast<size_t>(plan.samples));
    fill_shuffle<uint32_t>(before, plan.samples, random, arrays->shuffle.span());
  }
  GptIndex out;
  out.documents_ = arrays->documents;
  out.sample_ = arrays->sample;
  out.wide_samples_ = arrays->wide_sample;
  out.shuffle_ = arrays->shuffle;
  out.wide_shuffle_ = arrays->wide_shuffle;
  out.samples_ = plan.samples;
  out.owner_ = std::move(arrays);
  return out;
}

std::optional<GptIndex> GptIndex::load(const std::string& folder, const std::string& stem) {
  const std::string base = folder + "/" + stem + "-";
  for (const char* name : {"description.txt", "document_index.npy", "sample_index.npy", "shuffle_index.npy"}) {
    if (!std::filesystem::exists(base + name)) return std::nullopt;
  }
  auto maps = std::make_shared<Maps>();
  for (const char* name : {"document_index.npy", "sample_index.npy", "shuffle_index.npy"}) maps->files.emplace_back(base + name);
  const NpyFile &documents = maps->files[0], &sample = maps->files[1], &shuffle = maps->files[2];
  if (sample.shape().size() != 2 || sample.shape()[1] != 2 || shuffle.shape().size() != 1 || sample.shape()[0] != shuffle.shape()[0] + 1) {
    throw InputError("data: the cache '" + base + "*' does not fit together: sample and shuffle index differ in length\ntry: remove these files");
  }
  GptIndex out;
  out.documents_ = documents.values<int32_t>();
  if (sample.type() == "<i4") out.sample_ = sample.values<int32_t>();
  else out.wide_samples_ = sample.values<int64_t>();
  if (shuffle.type() == "<u4") out.shuffle_ = shuffle.values<uint32_t>();
  else out.wide_shuffle_ = shuffle.values<int64_t>();
  out.samples_ = shuffle.shape()[0];
  out.owner_ = std::move(maps);
  return out;
}

void GptIndex::save(const std::string& folder, const std::string& stem, const std::string& description) const {
  make_folders(folder);
  const std::string base = folder + "/" + stem + "-";
  const int64_t n = static_cast<int64_t>(documents_.size());
  write_npy(base + "document_index.npy", "<i4", {n}, documents_.data(), 4 * n);
  if (wide_samples_.empty()) write_npy(base + "sample_index.npy", "<i4", {samples_ + 1, 2}, sample_.data(), 8 * (samples_ + 1));
  else write_npy(base + "sample_index.npy", "<i8", {samples_ + 1, 2}, wide_samples_.data(), 16 * (samples_ + 1));
  if (wide_shuffle_.empty()) write_npy(base + "shuffle_index.npy", "<u4", {samples_}, shuffle_.data(), 4 * samples_);
  else write_npy(base + "shuffle_index.npy", "<i8", {samples_}, wide_shuffle_.data(), 8 * samples_);
  write_file_atomic(base + "description.txt", description);  // last: a cache counts when all four are there
}

Json gpt_identifiers(const GptCacheKey& key) {
  Json j;
  j["class"] = "GPTDataset";
  j["dataset_path"] = key.dataset_path;
  j["num_samples"] = key.num_samples ? Json(*key.num_samples) : Json(nullptr);
  j["index_split"] = name_of(key.split);
  j["random_seed"] = key.seed;
  j["sequence_length"] = key.seq_len;
  j["split"] = key.split_text ? Json(*key.split_text) : Json(nullptr);
  j["split_matrix"] = nullptr;
  if (key.split_text) {
    Json rows = Json::array();
    bool first = true;
    for (const auto& part : split_matrix(*key.split_text)) {
      if (!part) rows.push_back(nullptr);
      else rows.push_back(Json::array({first ? Json(0) : Json(part->first), Json(part->second)}));  // the sum starts as a whole 0
      first = false;
    }
    j["split_matrix"] = rows;
  }
  j["tokenizer"] = key.tokenizer;
  return j;
}

std::string gpt_stem(const std::string& description, Split split) { return md5_hex(description) + "-GPTDataset-" + name_of(split); }

GptIndex open_gpt_index(const IndexedTokens& tokens, const GptCacheKey& key, const GptIndexConfig& config, std::pair<int64_t, int64_t> sequences, std::string folder) {
  if (folder.empty()) folder = tokens.prefix() + "/cache/GPTDataset_indices";
  const std::string description = python_json(gpt_identifiers(key));
  const std::string stem = gpt_stem(description, key.split);
  if (auto cached = GptIndex::load(folder, stem)) {
    const GptPlan plan = plan_gpt(tokens.begin(sequences.second) - tokens.begin(sequences.first), config);
    if (cached->samples() != plan.samples || static_cast<int64_t>(cached->document_index().size()) != plan.epochs * (sequences.second - sequences.first)) {
      throw InputError("data: the cache '" + folder + "/" + stem + "-*' belongs to other data: got " + std::to_string(cached->samples()) + " samples, want " + std::to_string(plan.samples) + "\ntry: remove these files");
    }
    return *cached;
  }
  GptIndex index = GptIndex::build(tokens, sequences, config);
  index.save(folder, stem, description);
  return index;
}

}  // namespace weft::data
