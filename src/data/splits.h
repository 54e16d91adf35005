// Which part of a data set is train, validation and test, and how a blend's requests are split: Megatron's arithmetic, in doubles.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace weft::data {

enum class Split : uint8_t { kTrain, kValid, kTest };
const char* name_of(Split);  // "train", "valid", "test"

using SplitMatrix = std::array<std::optional<std::pair<double, double>>, 3>;  // fractions of the sequences
SplitMatrix split_matrix(const std::string& split);  // "99,1,0"; ConfigError when no part is above 0 or there are more than three
// [round(low * n), round(high * n)), halves to even.
std::pair<int64_t, int64_t> split_range(const std::pair<double, double>& fractions, int64_t sequences);

std::vector<double> normalized(const std::vector<double>& weights);  // w / sum, summed pairwise as numpy does
// ceil(ceil(size * weight) * (1 + surplus)).
int64_t samples_of_part(int64_t size, double weight, double surplus);

struct Blend {
  std::vector<std::string> prefixes;
  std::vector<double> weights;  // empty: in proportion to their sizes
};
// "w1 p1 w2 p2 ..." or "p1 p2 ...". ConfigError when weights and prefixes do not alternate.
Blend parse_blend(const std::vector<std::string>& words);

}  // namespace weft::data
