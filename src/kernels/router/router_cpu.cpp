// One token at a time, in double where sums of exponentials meet: experts are few, so exactness is free here.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/router/router.h"

namespace weft::kernels {
namespace {

constexpr int kMaxExperts = 4096;

double softplus(double z) { return z > 20 ? z : std::log1p(std::exp(z)); }
double sigmoid(double z) { return 1 / (1 + std::exp(-z)); }
double activate(double z, Score score) { return score == Score::kSigmoid ? sigmoid(z) : std::sqrt(softplus(z)); }
double activate_grad(double z, Score score) {
  const double s = sigmoid(z);
  if (score == Score::kSigmoid) return s * (1 - s);
  return s / (2 * std::max(std::sqrt(softplus(z)), 1e-20));
}

struct Scratch {
  std::vector<double> s, biased;
  std::vector<int32_t> order;
  explicit Scratch(int experts) : s(static_cast<size_t>(experts)), biased(s), order(static_cast<size_t>(experts)) {}
};

double log_sum_exp(const float* z, int n) {
  double most = z[0];
  for (int e = 1; e < n; ++e) most = std::max(most, static_cast<double>(z[e]));
  double sum = 0;
  for (int e = 0; e < n; ++e) sum += std::exp(z[e] - most);
  return most + std::log(sum);
}

// The k best of `score`, ties to the lower index, into order[0, k).
void best(const std::vector<double>& score, std::vector<int32_t>& order, int n, int k) {
  for (int e = 0; e < n; ++e) order[static_cast<size_t>(e)] = e;
  std::partial_sort(order.begin(), order.begin() + k, order.begin() + n, [&](int32_t a, int32_t b) {
    const double x = score[static_cast<size_t>(a)], y = score[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  });
}

void keep_best_groups(const RouterFwd& a, Scratch& t) {
  const int size = a.experts / a.groups, each = std::max(1, a.k / a.group_topk);
  std::vector<double> group(static_cast<size_t>(a.groups));
  for (int g = 0; g < a.groups; ++g) {
    std::vector<double> scores(t.biased.begin() + g * size, t.biased.begin() + (g + 1) * size);
    std::partial_sort(scores.begin(), scores.begin() + each, scores.end(), std::greater<>());
    for (int i = 0; i < each; ++i) group[static_cast<size_t>(g)] += scores[static_cast<size_t>(i)];
  }
  std::vector<int32_t> order(static_cast<size_t>(a.groups));
  best(group, order, a.groups, a.group_topk);
  for (int i = a.group_topk; i < a.groups; ++i) {
    const auto first = t.biased.begin() + order[static_cast<size_t>(i)] * size;
    std::fill(first, first + size, -INFINITY);
  }
}

void padding_row(const RouterFwd& a, int64_t row) {
  for (int j = 0; j < a.k; ++j) a.indices[row * a.k + j] = -1, a.weights[row * a.k + j] = 0;
  if (a.scores != nullptr) std::fill(a.scores + row * a.experts, a.scores + (row + 1) * a.experts, 0.0f);
  if (a.lse != nullptr) a.lse[row] = 0;
}

void nan_row(const RouterFwd& a, int64_t row) {
  for (int j = 0; j < a.k; ++j) a.indices[row * a.k + j] = j, a.weights[row * a.k + j] = NAN;
  if (a.scores != nullptr) std::fill(a.scores + row * a.experts, a.scores + (row + 1) * a.experts, NAN);
  if (a.lse != nullptr) a.lse[row] = NAN;
}

void route_row(const RouterFwd& a, int64_t row, Scratch& t) {
  const float* z = a.logits + row * a.experts;
  const bool softmax = a.score == Score::kSoftmaxPre || a.score == Score::kSoftmaxPost;
  for (int e = 0; e < a.experts; ++e)
    if (std::isnan(z[e])) return nan_row(a, row);
  const double lse = log_sum_exp(z, a.experts);
  double total = 1e-20;
  for (int e = 0; e < a.experts; ++e) {
    const size_t i = static_cast<size_t>(e);
    t.s[i] = softmax ? std::exp(z[e] - lse) : activate(z[e], a.score);
    total += t.s[i];
    t.biased[i] = (a.score == Score::kSoftmaxPost ? z[e] : t.s[i]) + (a.bias == nullptr ? 0.0f : a.bias[e]);
  }
  if (a.groups > 1 && a.group_topk < a.groups) keep_best_groups(a, t);
  best(t.biased, t.order, a.experts, a.k);
  double chosen = 0;
  for (int j = 0; j < a.k; ++j) chosen += t.s[static_cast<size_t>(t.order[static_cast<size_t>(j)])];
  for (int j = 0; j < a.k; ++j) {
    const int32_t e = t.order[static_cast<size_t>(j)];
    double w = t.s[static_cast<size_t>(e)];
    if (a.score == Score::kSoftmaxPost) w /= chosen;  // softmax over the chosen is softmax over all, renormalised
    if (!softmax && a.k > 1) w /= chosen + 1e-20;
    a.indices[row * a.k + j] = e, a.weights[row * a.k + j] = static_cast<float>(w * a.scaling);
  }
  if (a.scores != nullptr)
    for (int e = 0; e < a.experts; ++e) a.scores[row * a.experts + e] = static_cast<float>(t.s[static_cast<size_t>(e)] / (softmax ? 1 : total));
  if (a.lse != nullptr) a.lse[row] = static_cast<float>(lse);
}

void grad_row(const RouterBwd& a, int64_t row, std::vector<double>& s, std::vector<double>& ds) {
  const float* z = a.logits + row * a.experts;
  float* out = a.dlogits + row * a.experts;
  const int32_t* chosen = a.indices + row * a.k;
  std::fill(out, out + a.experts, 0.0f);
  if (chosen[0] < 0) return;
  const bool softmax = a.score == Score::kSoftmaxPre || a.score == Score::kSoftmaxPost;
  const double lse = softmax || a.dlse != nullptr ? log_sum_exp(z, a.experts) : 0;
  double total = 1e-20, selected = 0;
  for (int e = 0; e < a.experts; ++e) {
    s[static_cast<size_t>(e)] = softmax ? std::exp(z[e] - lse) : activate(z[e], a.score);
    total += s[static_cast<size_t>(e)];
    ds[static_cast<size_t>(e)] = 0;
  }
  for (int j = 0; j < a.k; ++j) selected += s[static_cast<size_t>(chosen[j])];
  // d s, through the weights of the chosen ...
  if (a.dweights != nullptr) {
    const bool normalised = a.score == Score::kSoftmaxPost || (!softmax && a.k > 1);
    const double denominator = normalised ? selected + (softmax ? 0 : 1e-20) : 1;
    double dot = 0;
    for (int j = 0; j < a.k; ++j) dot += a.dweights[row * a.k + j] * s[static_cast<size_t>(chosen[j])] / denominator;
    for (int j = 0; j < a.k; ++j)
      ds[static_cast<size_t>(chosen[j])] += a.scaling * (a.dweights[row * a.k + j] - (normalised ? dot : 0)) / denominator;
  }
  // ... and through the normalised scores of all.
  if (a.dscores != nullptr) {
    const float* d = a.dscores + row * a.experts;
    double dot = 0;
    if (!softmax)
      for (int e = 0; e < a.experts; ++e) dot += d[e] * s[static_cast<size_t>(e)] / total;
    for (int e = 0; e < a.experts; ++e) ds[static_cast<size_t>(e)] += (d[e] - dot) / (softmax ? 1 : total);
  }
  double dot = 0;
  if (softmax)
    for (int e = 0; e < a.experts; ++e) dot += ds[static_cast<size_t>(e)] * s[static_cast<size_t>(e)];
  for (int e = 0; e < a.experts; ++e) {
    const double se = s[static_cast<size_t>(e)], d = ds[static_cast<size_t>(e)];
    double dz = softmax ? se * (d - dot) : d * activate_grad(z[e], a.score);
    if (a.dlse != nullptr) dz += a.dlse[row] * std::exp(z[e] - lse);
    out[e] = static_cast<float>(dz);
  }
}

template <class Args>
Support supports(const Args& a, const Device& device) {
  if (device.kind != Device::kCpu) return {"runs on the CPU only"};
  if (a.experts > kMaxExperts) return {"more than 4096 experts"};
  return {};
}

}  // namespace

Support supports_router_fwd_cpu(const RouterFwd& a, const Device& device) { return supports(a, device); }
Support supports_router_bwd_cpu(const RouterBwd& a, const Device& device) { return supports(a, device); }

void router_fwd_cpu(const RouterFwd& a, const Launch& launch) {
  parallel_for(launch.parallel, a.tokens, 1 + 8192 / (a.experts + 1), [&](int64_t begin, int64_t end) {
    Scratch scratch(a.experts);
    for (int64_t t = begin; t < end; ++t) {
      if (a.valid != nullptr && a.valid[t] == 0)
        padding_row(a, t);
      else
        route_row(a, t, scratch);
    }
  });
  if (a.counts == nullptr) return;
  for (int64_t i = 0; i < a.tokens * a.k; ++i)
    if (a.indices[i] >= 0) ++a.counts[a.indices[i]];
}

void router_bwd_cpu(const RouterBwd& a, const Launch& launch) {
  parallel_for(launch.parallel, a.tokens, 1 + 8192 / (a.experts + 1), [&](int64_t begin, int64_t end) {
    std::vector<double> s(static_cast<size_t>(a.experts)), ds(s);
    for (int64_t t = begin; t < end; ++t) grad_row(a, t, s, ds);
  });
}

}  // namespace weft::kernels
