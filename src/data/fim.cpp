#include "data/fim.h"

#include <algorithm>

#include "base/error.h"
#include "base/rng.h"
#include "data/utf8.h"

namespace weft::data {
namespace {

double uniform(uint64_t key, uint64_t n) { return static_cast<double>(rng::bits(key, n) >> 11) * 0x1p-53; }
int64_t below(uint64_t key, uint64_t n, int64_t count) { return std::min(count - 1, static_cast<int64_t>(uniform(key, n) * static_cast<double>(count))); }

// Byte offsets at which characters begin, and the end.
std::vector<size_t> boundaries_of(std::string_view text) {
  std::vector<size_t> out;
  for (size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xC0) != 0x80) out.push_back(i);
  }
  out.push_back(text.size());
  return out;
}

}  // namespace

FimDataset::FimDataset(std::shared_ptr<const Dataset> base, std::shared_ptr<const text::Tokenizer> tokenizer, const FimConfig& config)
    : base_(std::move(base)), tokenizer_(std::move(tokenizer)), config_(config) {
  for (const auto& [name, rate] : {std::pair("rate", config_.rate), {"spm_rate", config_.spm_rate}, {"fragment_rate", config_.fragment_rate}}) {
    if (!(rate >= 0 && rate <= 1)) throw ConfigError("fim: " + std::string(name) + ": got " + std::to_string(rate) + ", want 0 to 1");
  }
  const auto id = [&](const std::string& token) {
    const int32_t i = tokenizer_->id_of(token);
    if (i < 0) throw ConfigError("fim: the tokenizer has no token \"" + token + "\"\ntry: name its own in fim.prefix, middle, suffix, pad and eod");
    return i;
  };
  prefix_ = id(config_.prefix), middle_ = id(config_.middle), suffix_ = id(config_.suffix), pad_ = id(config_.pad), eod_ = id(config_.eod);
  if (!config_.split.empty()) split_ = id(config_.split);
}

void FimDataset::permute_segment(std::span<const int32_t> segment, uint64_t key, double rate, std::vector<int32_t>& out) const {
  const auto keep = [&] { out.insert(out.end(), segment.begin(), segment.end()); };
  if (segment.empty() || uniform(key, 0) >= rate) return keep();
  const std::string text = tokenizer_->decode(segment, /*skip_special=*/true);
  // A part that begins or ends inside a character is left alone: its bytes are no text of their own.
  if (valid_utf8_prefix(text) != text.size() || text.find("\xEF\xBF\xBD") != std::string::npos) return keep();
  if (!config_.no_prefix.empty() && text.starts_with(config_.no_prefix)) return keep();
  const std::vector<size_t> at = boundaries_of(text);
  const int64_t n = static_cast<int64_t>(at.size());
  const auto [a, b] = std::minmax({below(key, 1, n), below(key, 2, n)});
  const std::string_view view = text;
  const size_t cut1 = at[static_cast<size_t>(a)], cut2 = at[static_cast<size_t>(b)];
  const auto put = [&](std::string_view part) { tokenizer_->encode_append(part, {}, out); };
  if (uniform(key, 3) < config_.spm_rate) {
    out.push_back(prefix_), out.push_back(suffix_);
    put(view.substr(cut2));
    out.push_back(middle_);
    put(view.substr(0, cut1));
    put(view.substr(cut1, cut2 - cut1));
  } else {
    out.push_back(prefix_);
    put(view.substr(0, cut1));
    out.push_back(suffix_);
    put(view.substr(cut2));
    out.push_back(middle_);
    put(view.substr(cut1, cut2 - cut1));
  }
}

void FimDataset::read(int64_t index, Sample& out) const {
  base_->read(index, out);
  if (!out.streams.empty()) throw ConfigError("fim: the set has side streams, which do not follow text that is moved: want one of both");
  const uint64_t key = rng::mix(rng::mix(config_.seed, "data.fim"), static_cast<uint64_t>(index));
  const int64_t length = static_cast<int64_t>(out.tokens.size());
  // Documents of the base, each ending behind its eod; a filled-up end (weight 0) is no document.
  int64_t there = length;
  while (there > 1 && out.loss_weights[static_cast<size_t>(there - 2)] == 0 && out.tokens[static_cast<size_t>(there - 1)] != eod_) --there;
  std::vector<int32_t> made, starts{0};
  uint64_t segment = 0;
  for (int64_t begin = 0; begin < there;) {
    const auto stop = std::find(out.tokens.begin() + begin, out.tokens.begin() + there, eod_);
    const int64_t end = stop - out.tokens.begin();
    const std::span<const int32_t> part(out.tokens.data() + begin, static_cast<size_t>(end - begin));
    const uint64_t segment_key = rng::mix(key, segment++);
    if (split_ >= 0 && std::find(part.begin(), part.end(), split_) != part.end()) {
      const bool chosen = uniform(segment_key, 0) < config_.rate;
      uint64_t fragment = 0;
      for (auto from = part.begin(); from <= part.end();) {
        const auto to = std::find(from, part.end(), split_);
        permute_segment(std::span<const int32_t>(from, to), rng::mix(segment_key, ++fragment), chosen ? config_.fragment_rate : 0, made);
        if (to == part.end()) break;
        made.push_back(split_);
        from = to + 1;
      }
    } else {
      permute_segment(part, segment_key, config_.rate, made);
    }
    if (end < there) made.push_back(eod_);
    begin = end + 1;
    starts.push_back(static_cast<int32_t>(std::min<int64_t>(static_cast<int64_t>(made.size()), length)));
  }
  const int64_t filled = std::min<int64_t>(static_cast<int64_t>(made.size()), length);
  made.resize(static_cast<size_t>(length), pad_);
  out.tokens = std::move(made);
  std::fill(out.loss_weights.begin(), out.loss_weights.end(), 0.0f);
  std::fill_n(out.loss_weights.begin(), std::max<int64_t>(filled - 1, 0), 1.0f);
  out.document_starts.clear();
  for (int32_t s : starts) {
    if (s > 0 && s < length) out.loss_weights[static_cast<size_t>(s - 1)] = 0;
    if (s < length - 1 && (out.document_starts.empty() || s > out.document_starts.back())) out.document_starts.push_back(s);
  }
}

}  // namespace weft::data
