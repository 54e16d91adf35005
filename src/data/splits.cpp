#include "data/splits.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.h"
#include "base/text.h"

namespace weft::data {
namespace {

// numpy.sum of doubles: eight running sums below 129 elements, halves above.
double pairwise_sum(const double* x, int64_t n) {
  if (n < 8) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += x[i];
    return sum;
  }
  if (n <= 128) {
    double r[8];
    for (int k = 0; k < 8; ++k) r[k] = x[k];
    int64_t i = 8;
    for (; i + 8 <= n; i += 8) {
      for (int k = 0; k < 8; ++k) r[k] += x[i + k];
    }
    double sum = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
    for (; i < n; ++i) sum += x[i];
    return sum;
  }
  int64_t half = n / 2;
  half -= half % 8;
  return pairwise_sum(x, half) + pairwise_sum(x + half, n - half);
}

std::optional<double> number_of(const std::string& word) {
  double x;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), x);
  if (error != std::errc() || end != word.data() + word.size()) return std::nullopt;
  return x;
}

}  // namespace

const char* name_of(Split s) {
  constexpr const char* names[] = {"train", "valid", "test"};
  return names[static_cast<int>(s)];
}

std::vector<double> normalized(const std::vector<double>& weights) {
  std::vector<double> out = weights;
  const double sum = pairwise_sum(weights.data(), static_cast<int64_t>(weights.size()));
  for (double& w : out) w /= sum;
  return out;
}

SplitMatrix split_matrix(const std::string& split) {
  std::vector<double> parts;
  for (const std::string& word : weft::split(split, ',')) {
    const std::optional<double> x = number_of(std::string(trim(word)));
    if (!x || !(*x >= 0) || std::isinf(*x)) throw ConfigError("data: split: got '" + split + "', want up to three numbers of at least 0, as in '99,1,0'");
    parts.push_back(*x);
  }
  if (parts.size() > 3) throw ConfigError("data: split: got " + std::to_string(parts.size()) + " parts in '" + split + "', want at most 3");
  parts.resize(3, 0);
  if (parts[0] + parts[1] + parts[2] <= 0) throw ConfigError("data: split: got '" + split + "', want a part above 0");
  parts = normalized(parts);
  SplitMatrix out;
  double at = 0;
  for (size_t i = 0; i < 3; ++i) {
    const double next = at + parts[i];
    if (next > at) out[i] = {at, next};
    at = next;
  }
  return out;
}

std::pair<int64_t, int64_t> split_range(const std::pair<double, double>& f, int64_t sequences) {
  const double n = static_cast<double>(sequences);
  return {static_cast<int64_t>(std::nearbyint(f.first * n)), static_cast<int64_t>(std::nearbyint(f.second * n))};
}

int64_t samples_of_part(int64_t size, double weight, double surplus) {
  return static_cast<int64_t>(std::ceil(std::ceil(static_cast<double>(size) * weight) * (1 + surplus)));
}

Blend parse_blend(const std::vector<std::string>& words) {
  Blend out;
  if (words.empty()) throw ConfigError("data: blend: got nothing, want prefixes, or weights and prefixes in turn");
  size_t numbers = 0;
  for (size_t i = 0; i < words.size(); i += 2) numbers += number_of(words[i]).has_value();
  if (words.size() % 2 == 1 || numbers == 0) {
    for (const std::string& w : words) out.prefixes.emplace_back(trim(w));
    return out;
  }
  if (numbers != words.size() / 2) throw ConfigError("data: blend: got weights for " + std::to_string(numbers) + " of " + std::to_string(words.size() / 2) + " prefixes, want all or none");
  for (size_t i = 0; i < words.size(); i += 2) {
    out.weights.push_back(*number_of(words[i]));
    out.prefixes.emplace_back(trim(words[i + 1]));
    if (!(out.weights.back() > 0)) throw ConfigError("data: blend: weight of '" + out.prefixes.back() + "': got " + words[i] + ", want above 0");
  }
  return out;
}

}  // namespace weft::data
