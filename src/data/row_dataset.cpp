#include "data/row_dataset.h"

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

#include "base/error.h"
#include "base/json.h"
#include "base/rng.h"
#include "data/indexed.h"
#include "data/order.h"
#include "data/ordered.h"
#include "data/packing.h"
#include "data/part_file.h"
#include "data/prepare_state.h"
#include "data/token_weights.h"

namespace weft::data {
namespace {

constexpr size_t kBlocksKept = 8;

int64_t length_of(const std::vector<TokenRow>& group, int64_t align) {
  int64_t n = 0;
  for (const TokenRow& r : group) n += aligned(static_cast<int64_t>(r.tokens.size()), align);
  return n;
}

class TextSource final : public RowSource {
 public:
  TextSource(std::shared_ptr<const Rows> rows, RowEncoder encoder) : rows_(std::move(rows)), encoder_(std::move(encoder)) {}
  int64_t size() const override { return rows_->size(); }
  std::vector<TokenRow> row(int64_t i) const override { return encoder_(rows_->line(i), rows_->where(i)); }
  std::string identity() const override { return rows_->identity(); }

 private:
  std::shared_ptr<const Rows> rows_;
  RowEncoder encoder_;
};

class StoredSource final : public RowSource {
 public:
  explicit StoredSource(std::shared_ptr<const IndexedTokens> tokens) : tokens_(std::move(tokens)), weights_(TokenWeights::open(tokens_->prefix(), tokens_->tokens())) {}
  int64_t size() const override { return tokens_->documents(); }
  std::vector<TokenRow> row(int64_t i) const override {
    const int64_t begin = tokens_->begin(tokens_->boundary(i)), n = tokens_->begin(tokens_->boundary(i + 1)) - begin;
    TokenRow out;
    out.tokens.resize(static_cast<size_t>(n));
    out.weights.assign(static_cast<size_t>(n), 1.0f);
    tokens_->read_flat(begin, n, out.tokens.data());
    if (weights_) weights_->read(begin, n, out.weights.data());
    return {std::move(out)};
  }
  std::string identity() const override {
    std::string out = tokens_->prefix();
    for (const char* end : {".idx", ".bin", ".weights"}) {
      const FileStamp s = stamp_of(tokens_->prefix() + end);
      out += fmt::format("\t{}\t{}", s.bytes, s.mtime_ns);
    }
    return out;
  }

 private:
  std::shared_ptr<const IndexedTokens> tokens_;
  std::shared_ptr<const TokenWeights> weights_;
};

// A sample under construction: n + 1 tokens, the weights of the last n.
struct Builder {
  explicit Builder(int64_t n, int32_t pad) : tokens(static_cast<size_t>(n + 1), pad), weights(static_cast<size_t>(n + 1), 0.0f) {}
  void add(std::span<const int32_t> t, std::span<const float> w, bool begins) {
    if (begins || at == 0) {
      if (at < static_cast<int64_t>(tokens.size()) - 1) starts.push_back(static_cast<int32_t>(at));
    }
    std::copy(t.begin(), t.end(), tokens.begin() + at);
    std::copy(w.begin(), w.end(), weights.begin() + at);
    if (begins || at == 0) weights[static_cast<size_t>(at)] = 0;
    at += static_cast<int64_t>(t.size());
  }
  Sample finish(bool padding_of_its_own) {
    if (padding_of_its_own && at < static_cast<int64_t>(tokens.size()) - 1) starts.push_back(static_cast<int32_t>(at));
    Sample s;
    s.tokens = std::move(tokens);
    s.loss_weights.assign(weights.begin() + 1, weights.end());
    s.document_starts = std::move(starts);
    return s;
  }
  std::vector<int32_t> tokens;
  std::vector<float> weights;
  std::vector<int32_t> starts;
  int64_t at = 0;
};

}  // namespace

std::shared_ptr<const RowSource> text_source(std::shared_ptr<const Rows> rows, RowEncoder encoder) { return std::make_shared<const TextSource>(std::move(rows), std::move(encoder)); }
std::shared_ptr<const RowSource> stored_source(std::shared_ptr<const IndexedTokens> tokens) { return std::make_shared<const StoredSource>(std::move(tokens)); }

RowDataset::RowDataset(std::shared_ptr<const RowSource> rows, const RowConfig& config) : rows_(std::move(rows)), config_(config), starts_{0} {
  if (config_.seq_len < 2) throw ConfigError("rows: seq_len: got " + std::to_string(config_.seq_len) + ", want at least 2");
  if (config_.align < 1 || config_.seq_len % config_.align != 0) {
    throw ConfigError("rows: seq_len must be a multiple of the alignment: got " + std::to_string(config_.seq_len) + ", want a multiple of " + std::to_string(config_.align));
  }
  if (config_.block_rows < 1) throw ConfigError("rows: block_rows: got " + std::to_string(config_.block_rows) + ", want at least 1");
  const std::string key = hex_hash(fmt::format("rows 1 {} {} {} {} {} {} {} {}", rows_->identity(), config_.identity, config_.seq_len, static_cast<int>(config_.fill),
                                               config_.align, config_.block_rows, config_.shuffle, config_.seed));
  const std::string path = config_.cache_folder.empty() ? "" : config_.cache_folder + "/" + key + "-rows.json";
  if (!path.empty() && load_counts(path)) return;
  const int64_t blocks = (rows_->size() + config_.block_rows - 1) / config_.block_rows;
  OrderedWork<int64_t, Made> work(std::max(1, config_.workers), [this](int64_t& b) {
    Made made = make_block(b);
    for (Sample& s : made.samples) s = {};  // only their number is wanted
    return made;
  });
  for (int64_t given = 0, taken = 0; taken < blocks; ++taken) {
    while (given < blocks && work.pending() < 4 * std::max(1, config_.workers)) work.give(given++);
    const Made made = *work.take(true);
    starts_.push_back(starts_.back() + static_cast<int64_t>(made.samples.size()));
    truncated_ += made.truncated;
    skipped_ += made.skipped;
  }
  if (size() == 0) throw InputError("rows: no sample in " + std::to_string(rows_->size()) + " rows");
  if (!path.empty()) {
    make_folders(config_.cache_folder);
    write_json_file(path, {{"starts", starts_}, {"truncated", truncated_}, {"skipped", skipped_}});
  }
}

bool RowDataset::load_counts(const std::string& path) {
  if (!std::filesystem::exists(path)) return false;
  const Json j = read_json_file(path);
  try {
    starts_ = j.at("starts").get<std::vector<int64_t>>();
    truncated_ = j.at("truncated").get<int64_t>();
    skipped_ = j.at("skipped").get<int64_t>();
  } catch (const nlohmann::json::exception& e) {
    throw InputError("rows: the cache '" + path + "' is damaged: " + e.what() + "\ntry: remove it");
  }
  const int64_t blocks = (rows_->size() + config_.block_rows - 1) / config_.block_rows;
  if (static_cast<int64_t>(starts_.size()) != blocks + 1 || starts_[0] != 0 || !std::is_sorted(starts_.begin(), starts_.end())) {
    throw InputError("rows: the cache '" + path + "' is damaged\ntry: remove it");
  }
  return true;
}

RowDataset::Made RowDataset::make_block(int64_t block) const {
  const int64_t first = block * config_.block_rows, last = std::min(first + config_.block_rows, rows_->size());
  const uint64_t key = rng::mix(config_.seed, "data.rows");
  Made out;
  std::vector<std::vector<TokenRow>> groups;
  for (int64_t i = first; i < last; ++i) {
    const int64_t row = config_.shuffle ? permute(i, rows_->size(), key) : i;
    std::vector<TokenRow> group = rows_->row(row);
    std::erase_if(group, [](const TokenRow& r) { return r.tokens.empty(); });
    for (const TokenRow& r : group) WEFT_CHECK(r.tokens.size() == r.weights.size(), "a weight for every token");
    if (group.empty()) ++out.skipped;
    else groups.push_back(std::move(group));
  }
  if (config_.fill == RowConfig::kPack) pack(groups, out);
  else stream(groups, out);
  return out;
}

void RowDataset::pack(std::vector<std::vector<TokenRow>>& groups, Made& out) const {
  std::vector<int64_t> lengths;
  for (auto& group : groups) {
    // A group that is too long is cut on the right, each of its sequences to its share.
    const int64_t share = config_.seq_len / static_cast<int64_t>(group.size()) / config_.align * config_.align;
    if (share == 0) throw InputError("rows: a row of " + std::to_string(group.size()) + " sequences does not fit in seq_len " + std::to_string(config_.seq_len));
    if (length_of(group, config_.align) > config_.seq_len) {
      ++out.truncated;
      for (TokenRow& r : group) {
        if (static_cast<int64_t>(r.tokens.size()) > share) r.tokens.resize(static_cast<size_t>(share)), r.weights.resize(static_cast<size_t>(share));
      }
    }
    lengths.push_back(length_of(group, config_.align));
  }
  for (const Pack& p : pack_first_fit(lengths, config_.seq_len)) {
    Builder b(config_.seq_len, config_.pad);
    for (int64_t m : p.members) {
      for (const TokenRow& r : groups[static_cast<size_t>(m)]) {
        b.add(r.tokens, r.weights, true);
        b.at = aligned(b.at, config_.align);
      }
    }
    out.samples.push_back(b.finish(true));
  }
}

void RowDataset::stream(std::vector<std::vector<TokenRow>>& groups, Made& out) const {
  Builder b(config_.seq_len, config_.pad);
  const int64_t want = config_.seq_len + 1;
  for (const auto& group : groups) {
    for (const TokenRow& r : group) {
      const int64_t n = static_cast<int64_t>(r.tokens.size());
      for (int64_t at = 0; at < n;) {
        const int64_t take = std::min(n - at, want - b.at);
        b.add(std::span(r.tokens).subspan(static_cast<size_t>(at), static_cast<size_t>(take)), std::span(r.weights).subspan(static_cast<size_t>(at), static_cast<size_t>(take)), at == 0);
        at += take;
        if (b.at == want) {  // the last target is the next sample's first input
          const int32_t token = b.tokens.back();
          const float weight = b.weights.back();
          out.samples.push_back(b.finish(false));
          b = Builder(config_.seq_len, config_.pad);
          if (at < n) b.add({&token, 1}, {&weight, 1}, false);
        }
      }
    }
  }
  if (b.at > 1) out.samples.push_back(b.finish(true));
}

std::shared_ptr<const Sample> RowDataset::sample(int64_t index) const {
  if (index < 0 || index >= size()) throw InputError("rows: sample outside the set: got " + std::to_string(index) + ", want below " + std::to_string(size()));
  const int64_t block = std::upper_bound(starts_.begin(), starts_.end(), index) - starts_.begin() - 1;
  std::shared_ptr<const Block> samples;
  {
    std::lock_guard lock(mutex_);
    for (auto it = recent_.begin(); it != recent_.end() && !samples; ++it) {
      if (it->first == block) samples = it->second, recent_.splice(recent_.begin(), recent_, it);
    }
  }
  if (!samples) {
    samples = std::make_shared<const Block>(make_block(block).samples);
    const int64_t counted = starts_[static_cast<size_t>(block) + 1] - starts_[static_cast<size_t>(block)];
    if (static_cast<int64_t>(samples->size()) != counted) {
      throw InputError("rows: block " + std::to_string(block) + " gives other samples than were counted: got " + std::to_string(samples->size()) + ", want " + std::to_string(counted));
    }
    std::lock_guard lock(mutex_);
    recent_.emplace_front(block, samples);
    if (recent_.size() > kBlocksKept) recent_.pop_back();
  }
  return {samples, &(*samples)[static_cast<size_t>(index - starts_[static_cast<size_t>(block)])]};
}

}  // namespace weft::data
