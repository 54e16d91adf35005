// Made-up tokens for tests of speed and of machinery. Whoever uses them says so: describe() begins with "mock".
#pragma once
#include <string>

#include "data/dataset.h"

namespace weft::data {

struct MockConfig {
  int64_t vocab_size = 32000, seq_len = 4096, size = 1 << 20;
  double mean = 4096, sigma = 1.1;              // documents: lognormal lengths with this mean, cut to [min, max]
  int64_t min_length = 1024, max_length = 8192;
  uint64_t seed = 1234;
};

// Samples filled with documents; in each, a token is (a * the one before + b) mod vocab with a, b of the document, except for
// one in eight that is random: there is something to learn, and a floor below which the loss cannot go.
class MockDataset final : public Dataset {
 public:
  explicit MockDataset(const MockConfig& config);
  int64_t size() const override { return config_.size; }
  void read(int64_t index, Sample& out) const override;
  std::string describe() const;

 private:
  MockConfig config_;
};

}  // namespace weft::data
