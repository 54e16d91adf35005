#include "data/token_weights.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "base/error.h"

namespace weft::data {
namespace {

constexpr char kMagic[8] = {'W', 'E', 'F', 'T', 'L', 'O', 'S', '1'};
constexpr size_t kTail = 4 + 8 + 8 + 8;

std::string part_name(const std::string& prefix) { return prefix + ".weights.part"; }

}  // namespace

std::shared_ptr<const TokenWeights> TokenWeights::open(const std::string& prefix, int64_t tokens) {
  const std::string path = prefix + ".weights";
  if (!std::filesystem::exists(path)) return nullptr;
  auto out = std::make_shared<TokenWeights>();
  out->path_ = path;
  out->map_ = std::make_shared<const MappedFile>(path);
  const std::string_view all = out->map_->text();
  const auto fail = [&](const std::string& rule) { throw InputError("weights '" + path + "': " + rule); };
  if (all.size() < kTail || std::memcmp(all.data() + all.size() - 8, kMagic, 8) != 0) fail("not a file of weights, or cut off");
  uint32_t entries;
  uint64_t count;
  std::memcpy(&entries, all.data() + all.size() - kTail, 4);
  std::memcpy(&count, all.data() + all.size() - kTail + 4, 8);
  if (entries > 256 || count > all.size() || all.size() != count + 4 * size_t{entries} + kTail) fail("its size does not fit: got " + std::to_string(all.size()) + " bytes");
  if (static_cast<int64_t>(count) != tokens) fail("got " + std::to_string(count) + " tokens, want " + std::to_string(tokens) + " as in the .bin");
  out->tokens_ = tokens;
  out->codes_ = reinterpret_cast<const uint8_t*>(all.data());
  out->table_.assign(256, -1);
  std::memcpy(out->table_.data(), all.data() + count, 4 * size_t{entries});
  for (uint32_t i = 0; i < entries; ++i) {
    if (!std::isfinite(out->table_[i]) || out->table_[i] < 0) fail("weight " + std::to_string(i) + " of its table: got " + std::to_string(out->table_[i]) + ", want a number of at least 0");
  }
  return out;
}

void TokenWeights::read(int64_t token, int64_t count, float* out) const {
  if (token < 0 || count < 0 || token + count > tokens_) throw InputError("weights '" + path_ + "': read outside the data: got token " + std::to_string(token + count) + " of " + std::to_string(tokens_));
  float least = 0;
  for (int64_t i = 0; i < count; ++i) out[i] = table_[codes_[token + i]], least = std::min(least, out[i]);
  if (least < 0) throw InputError("weights '" + path_ + "': a code without a weight between tokens " + std::to_string(token) + " and " + std::to_string(token + count));
}

void TokenWeights::check() const {
  const std::string_view all = map_->text();
  uint64_t want;
  std::memcpy(&want, all.data() + all.size() - 16, 8);
  if (XXH3_64bits(all.data(), all.size() - 16) != want) throw InputError("weights '" + path_ + "': damaged: its hash differs");
}

TokenWeightsWriter::TokenWeightsWriter(const std::string& prefix, Mark from)
    : prefix_(prefix), part_(part_name(prefix), from.tokens), table_(std::move(from.table)) {}

void TokenWeightsWriter::add(std::span<const float> weights) {
  codes_.clear();
  size_t last = table_.size();
  for (float w : weights) {
    if (last == table_.size() || table_[last] != w) {
      last = static_cast<size_t>(std::find(table_.begin(), table_.end(), w) - table_.begin());
      if (last == table_.size()) {
        if (table_.size() == 256) throw InputError("weights '" + prefix_ + "': more than 256 different weights of turns in one set");
        table_.push_back(w);
      }
    }
    codes_.push_back(static_cast<char>(last));
  }
  part_.write(codes_.data(), codes_.size());
}

TokenWeightsWriter::Mark TokenWeightsWriter::sync() {
  part_.sync();
  return {part_.size(), table_};
}

void TokenWeightsWriter::finish() {
  const uint64_t tokens = static_cast<uint64_t>(part_.size());
  const uint32_t entries = static_cast<uint32_t>(table_.size());
  part_.write(table_.data(), 4 * table_.size());
  part_.write(&entries, 4);
  part_.write(&tokens, 8);
  part_.flush();
  uint64_t hash;
  {
    const MappedFile written(part_.path());
    hash = XXH3_64bits(written.text().data(), written.text().size());
  }
  part_.write(&hash, 8);
  part_.write(kMagic, 8);
  part_.close_as(prefix_ + ".weights");
}

}  // namespace weft::data
