// KL divergence over rows of logits, forward and backward.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "kernels/kl/kl.h"

namespace weft::check {
using namespace kernels;
namespace {

void kl(Checker& checker, int64_t rows, int64_t vocab, double scale, double temperature, DType t, bool odd = false) {
  const std::string shape = std::to_string(rows) + "x" + std::to_string(vocab) + "/scale" + std::to_string(static_cast<int>(scale)) + (temperature != 1 ? "/T" : "") + (odd ? "/odd" : "");
  Case fwd(checker, "kl_fwd", shape, t), bwd(checker, "kl_bwd", shape, t);
  for (int seed = 1; seed <= (checker.options().small ? 1 : 3); ++seed) {
    Random random(seed);
    Array s = Array::normal(random, rows * vocab, t, scale), teacher = Array::normal(random, rows * vocab, t, scale), g = Array::normal(random, rows, DType::kF32);
    if (odd) {  // a teacher that rules tokens out, a row of one certain token, a NaN
      std::vector<double> p = teacher.start(), q = s.start();
      for (int64_t i = 0; i < rows * vocab; i += 3) p[i] = -INFINITY;
      for (int64_t c = 0; rows > 1 && c < vocab; ++c) p[vocab + c] = c == 1 % vocab ? 4 : -INFINITY;
      if (rows > 2) q[2 * vocab + vocab / 2] = NAN;
      teacher = Array::of(p, t), s = Array::of(q, t);
    }
    std::vector<double> loss(rows), sums(2 * rows), d(rows * vocab);
    for (int64_t r = 0; r < rows; ++r) {
      double log_sum[2];
      for (int side = 0; side < 2; ++side) {
        const Array& x = side == 0 ? s : teacher;
        double top = -INFINITY, sum = 0;
        for (int64_t c = 0; c < vocab; ++c) top = std::max(top, x[r * vocab + c] / temperature);
        for (int64_t c = 0; c < vocab; ++c) sum += std::exp(x[r * vocab + c] / temperature - top);
        sums[side * rows + r] = log_sum[side] = top + std::log(sum);
      }
      for (int64_t c = 0; c < vocab; ++c) {
        const double log_q = s[r * vocab + c] / temperature - log_sum[0], log_p = teacher[r * vocab + c] / temperature - log_sum[1];
        if (std::exp(log_p) > 0 || std::isnan(log_q)) loss[r] += std::exp(log_p) * (log_p - log_q);
        d[r * vocab + c] = g[r] / temperature * (std::exp(log_q) - std::exp(log_p));
      }
    }
    Array loss_a = Array::poison(rows, DType::kF32), sums_a = Array::poison(2 * rows, DType::kF32), d_a = Array::poison(rows * vocab, t);
    const KlFwd f{s.data(), teacher.data(), loss_a.as<float>(), sums_a.as<float>(), rows, vocab, static_cast<float>(temperature), t};
    if (fwd.run(supports_kl_fwd_sm90(f, checker.device()), 0, [&](const Launch& l) { kl_fwd_sm90(f, l); }, {&loss_a, &sums_a}))
      fwd.expect("loss", loss_a, loss, {2e-5, 1e-5}), fwd.expect("log sums", sums_a, sums, kSums);
    const KlBwd b{s.data(), teacher.data(), sums_a.as<float>(), g.as<float>(), d_a.data(), rows, vocab, static_cast<float>(temperature), t};
    if (bwd.run(supports_kl_bwd_sm90(b, checker.device()), 0, [&](const Launch& l) { kl_bwd_sm90(b, l); }, {&d_a})) {
      Tolerance near = rounded(t);
      near.relative += 1e-4, near.of_rms += 1e-5 * std::max(scale, 1.0);  // differences of two exponentials of sums
      bwd.expect("d_student", d_a, d, near);
    }
  }
}

}  // namespace

void check_kl(Checker& checker) {
  if (!checker.wants("kl")) return;
  if (checker.options().perf) {
    for (const int64_t vocab : {131072, 32768}) {
      const int64_t rows = (int64_t{1} << 29) / vocab;
      const DeviceRandom s(rows * vocab, DType::kBf16), t(rows * vocab, DType::kBf16), g(rows, DType::kF32);
      Array loss = Array::poison(rows, DType::kF32), sums = Array::poison(2 * rows, DType::kF32);
      const DeviceRandom d(rows * vocab, DType::kBf16);
      const std::string shape = std::to_string(rows) + "x" + std::to_string(vocab);
      const double bytes = 2.0 * static_cast<double>(rows * vocab);
      const KlFwd f{s.data(), t.data(), loss.as<float>(), sums.as<float>(), rows, vocab, 1.f, DType::kBf16};
      perf(checker, "kl_fwd", shape, DType::kBf16, 2 * bytes, 0, [&](const Launch& l) { kl_fwd_sm90(f, l); });
      const KlBwd b{s.data(), t.data(), sums.as<float>(), g.as<float>(), d.data(), rows, vocab, 1.f, DType::kBf16};
      perf(checker, "kl_bwd", shape, DType::kBf16, 3 * bytes, 0, [&](const Launch& l) { kl_bwd_sm90(b, l); });
    }
    return;
  }
  for (const DType t : {DType::kF32, DType::kBf16}) {
    kl(checker, 7, 65, 2, 1, t), kl(checker, 5, 8, 1, 2.5, t), kl(checker, 3, 1, 1, 1, t), kl(checker, 0, 8, 1, 1, t), kl(checker, 5, 24, 2, 1, t, true), kl(checker, 2, 5000, 20, 1, t);
    if (!checker.options().small) kl(checker, 40, 50257, 4, 1, t), kl(checker, 12, 32768, 100, 0.5, t);
  }
}

}  // namespace weft::check
