#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/sample/sample.h"

namespace weft::kernels {
namespace {

constexpr double kUnit = 1099511627776.0;  // 2^40: the mass of the highest token

WEFT_CLONES void exp_below(float* z, int32_t n, float highest) {
#pragma omp simd
  for (int32_t i = 0; i < n; ++i) z[i] = exp_f32(z[i] - highest);
}

template <class T>
float at_row(const T* values, int64_t r, float otherwise) { return values == nullptr ? otherwise : static_cast<float>(values[r]); }

template <class T>
void sample_row(const Sample& a, int64_t r, std::vector<float>& z, std::vector<uint64_t>& mass, std::vector<int32_t>& order) {
  const T* logits = static_cast<const T*>(a.logits) + r * a.stride;
  const int32_t n = a.vocab;
  const float temperature = at_row(a.temperature, r, 1), repetition = at_row(a.repetition, r, 1);
  const float presence = at_row(a.presence, r, 0), frequency = at_row(a.frequency, r, 0);
  const int32_t* counts = a.counts == nullptr ? nullptr : a.counts + r * n;
  const uint8_t* prompt = a.in_prompt == nullptr ? nullptr : a.in_prompt + r * n;
  const float inverse = temperature == 0 ? 1.0f : 1.0f / temperature;
  int32_t best = -1;
  float highest = -std::numeric_limits<float>::infinity();
  for (int32_t i = 0; i < n; ++i) {
    float v = to_f32(logits[i]);
    const int32_t count = counts == nullptr ? 0 : counts[i];
    if (count > 0 || (prompt != nullptr && prompt[i] != 0)) v = v > 0 ? v / repetition : v * repetition;
    v -= frequency * static_cast<float>(count) + (count > 0 ? presence : 0.0f);
    v = v == v ? v * inverse : -std::numeric_limits<float>::infinity();
    z[static_cast<size_t>(i)] = v;
    if (v > highest) highest = v, best = i;
  }
  a.token[r] = best;
  if (a.logprob != nullptr) a.logprob[r] = -std::numeric_limits<float>::infinity();
  if (best < 0) return;
  exp_below(z.data(), n, highest);
  double sum = 0;
  for (int32_t i = 0; i < n; ++i) sum += z[static_cast<size_t>(i)];

  if (temperature != 0) {
    uint64_t all = 0;
    for (int32_t i = 0; i < n; ++i) all += mass[static_cast<size_t>(i)] = static_cast<uint64_t>(static_cast<double>(z[static_cast<size_t>(i)]) * kUnit);
    const int32_t k = a.top_k == nullptr || a.top_k[r] <= 0 || a.top_k[r] > n ? n : a.top_k[r];
    const float p = at_row(a.top_p, r, 1);
    if (k < n || p < 1) {
      // A heap gives the tokens from the highest down, so that a short run costs little more than one pass.
      order.resize(static_cast<size_t>(n));
      for (int32_t i = 0; i < n; ++i) order[static_cast<size_t>(i)] = i;
      const auto lower = [&](int32_t x, int32_t y) {
        const float zx = z[static_cast<size_t>(x)], zy = z[static_cast<size_t>(y)];
        return zx < zy || (zx == zy && x > y);
      };
      if (k < n) {
        std::nth_element(order.begin(), order.begin() + (k - 1), order.end(), [&](int32_t x, int32_t y) { return lower(y, x); });
        order.resize(static_cast<size_t>(k));
        all = 0;
        for (const int32_t i : order) all += mass[static_cast<size_t>(i)];
      }
      std::vector<uint64_t> kept(static_cast<size_t>(n), 0);
      if (p < 1) {
        std::make_heap(order.begin(), order.end(), lower);
        const double enough = static_cast<double>(p) * static_cast<double>(all);
        uint64_t run = 0;
        for (auto end = order.end(); end != order.begin(); --end) {
          std::pop_heap(order.begin(), end, lower);
          const int32_t i = *(end - 1);
          kept[static_cast<size_t>(i)] = mass[static_cast<size_t>(i)];
          run += mass[static_cast<size_t>(i)];
          if (static_cast<double>(run) >= enough) break;
        }
      } else {
        for (const int32_t i : order) kept[static_cast<size_t>(i)] = mass[static_cast<size_t>(i)];
      }
      mass.swap(kept);
    }
    const double floor = static_cast<double>(at_row(a.min_p, r, 0)) * kUnit;
    uint64_t left = 0;
    for (int32_t i = 0; i < n; ++i) {
      uint64_t& m = mass[static_cast<size_t>(i)];
      if (static_cast<double>(m) < floor && i != best) m = 0;
      left += m;
    }
    const double mark = static_cast<double>(a.uniform[r]) * static_cast<double>(left);
    uint64_t run = 0;
    for (int32_t i = 0; i < n; ++i) {
      run += mass[static_cast<size_t>(i)];
      if (static_cast<double>(run) > mark) {
        a.token[r] = i;
        break;
      }
    }
  }
  if (a.logprob != nullptr) a.logprob[r] = static_cast<float>(std::log(static_cast<double>(z[static_cast<size_t>(a.token[r])])) - std::log(sum));
}

template <class T>
void run(const Sample& a, const Launch& launch) {
  parallel_for(launch.parallel, a.rows, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> z(static_cast<size_t>(a.vocab));
    std::vector<uint64_t> mass(static_cast<size_t>(a.vocab));
    std::vector<int32_t> order;
    for (int64_t r = begin; r < end; ++r) sample_row<T>(a, r, z, mass, order);
  });
}

}  // namespace

Support supports_sample_cpu(const Sample& a, const Device& device) { return on_cpu(device, a.dtype); }

void sample_cpu(const Sample& a, const Launch& launch) { a.dtype == DType::kF32 ? run<float>(a, launch) : run<bf16>(a, launch); }

}  // namespace weft::kernels
