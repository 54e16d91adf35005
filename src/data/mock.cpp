#include "data/mock.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"
#include "base/rng.h"

namespace weft::data {

MockDataset::MockDataset(const MockConfig& c) : config_(c) {
  if (c.vocab_size < 2 || c.seq_len < 1 || c.size < 1) throw ConfigError("mock: got vocab_size " + std::to_string(c.vocab_size) + ", seq_len " + std::to_string(c.seq_len) + ", size " + std::to_string(c.size) + ", want at least 2, 1 and 1");
  if (c.min_length < 1 || c.max_length < c.min_length || !(c.mean > 0) || !(c.sigma >= 0)) throw ConfigError("mock: lengths: want 1 <= min_length <= max_length, mean above 0, sigma at least 0");
}

std::string MockDataset::describe() const {
  return "mock data: " + std::to_string(config_.size) + " samples of " + std::to_string(config_.seq_len) + " made-up tokens, no real text";
}

void MockDataset::read(int64_t index, Sample& out) const {
  if (index < 0 || index >= config_.size) throw InputError("mock: sample outside the set: got " + std::to_string(index) + ", want below " + std::to_string(config_.size));
  const uint64_t key = rng::mix(rng::mix(config_.seed, "data.mock"), static_cast<uint64_t>(index));
  const int64_t n = config_.seq_len;
  const uint64_t vocab = static_cast<uint64_t>(config_.vocab_size);
  out.tokens.resize(static_cast<size_t>(n + 1));
  out.loss_weights.assign(static_cast<size_t>(n), 1.0f);
  out.document_starts.clear();
  out.streams.clear();
  const double mu = std::log(config_.mean) - config_.sigma * config_.sigma / 2;
  uint64_t draw = 0;
  for (int64_t at = 0; at <= n;) {
    // Box and Muller, on (0, 1].
    const double u = static_cast<double>((rng::bits(key, draw) >> 11) + 1) * 0x1p-53, v = static_cast<double>(rng::bits(key, draw + 1) >> 11) * 0x1p-53;
    const double length = std::exp(mu + config_.sigma * std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * v));
    const int64_t end = std::min<int64_t>(n + 1, at + std::clamp(static_cast<int64_t>(std::min(length, 1e15)), config_.min_length, config_.max_length));
    const uint64_t a = rng::bits(key, draw + 2) % 5 + 1, b = rng::bits(key, draw + 3) % vocab;
    draw += 4;
    if (at < n) out.document_starts.push_back(static_cast<int32_t>(at));
    if (at > 0) out.loss_weights[static_cast<size_t>(at - 1)] = 0;
    uint64_t token = b;
    const uint64_t document = rng::mix(key, draw);
    for (; at < end; ++at) {
      const uint64_t r = rng::bits(document, static_cast<uint64_t>(at));
      token = r % 8 == 0 ? (r >> 8) % vocab : (a * token + b) % vocab;
      out.tokens[static_cast<size_t>(at)] = static_cast<int32_t>(token);
    }
  }
}

}  // namespace weft::data
