#include <cmath>
#include <cstring>

#include "check.h"
#include "kernels/cast/cast.h"
#include "kernels/common/random.cuh"
#include "kernels/dropout/dropout.h"
#include "kernels/hadamard/hadamard.h"
#include "kernels/newton_schulz/newton_schulz.h"
#include "kernels/quantize/quantize.h"

namespace weft::check {
namespace {

using namespace kernels;
using Values = std::vector<double>;

float multiplier(float amax, DType to, bool pow2) {
  if (!(amax > 0) || std::isinf(amax)) return 1;
  float m = (to == DType::kF8E4M3 ? 448.0f : 57344.0f) / amax;
  if (std::isinf(m)) m = 3.4028234663852886e38f;
  if (pow2) {
    uint32_t u;
    std::memcpy(&u, &m, 4);
    u &= 0x7f800000u;
    std::memcpy(&m, &u, 4);
  }
  return m;
}

void quantize(Checker& checker, int64_t rows, int cols, QuantBlock block, bool pow2, bool row_major, bool transposed, DType t,
              DType to) {
  Case c(checker, "quantize",
         std::to_string(rows) + "x" + std::to_string(cols) + "/block" + std::to_string(static_cast<int>(block)) +
             (pow2 ? "/pow2" : "") + (row_major ? "/q" : "") + (transposed ? "/q_t" : "") + "/" + name(to),
         t);
  for (int seed = 1; seed <= (checker.options().small ? 1 : 3); ++seed) {
    Random random(seed);
    const int64_t n = rows * cols, rb = (rows + 127) / 128, cb = (cols + 127) / 128;
    Array x = Array::normal(random, n, t, 3);
    Values v = x.start();
    for (int64_t i = 0; i < n; ++i) v[i] *= std::exp2(static_cast<double>((i / 128) % 9) - 4);
    if (n > 300)
      for (int j = 0; j < cols && j < 140; ++j) v[j] = 0;  // blocks of zeros
    x = Array::of(v, t);
    float whole = 0;
    for (double d : x.start()) whole = std::max(whole, static_cast<float>(std::abs(d)));
    auto amax = [&](int64_t r0, int64_t r1, int64_t c0, int64_t c1) {
      float m = 0;
      for (int64_t r = r0; r < std::min(r1, rows); ++r)
        for (int64_t k = c0; k < std::min<int64_t>(c1, cols); ++k) m = std::max(m, static_cast<float>(std::abs(x[r * cols + k])));
      return m;
    };
    const bool tensor = block == QuantBlock::kTensor, row = block == QuantBlock::kRow, line = block == QuantBlock::k1x128;
    Values scale(tensor ? 1
                 : row  ? rows
                 : line ? rows * cb
                        : rb * cb),
        scale_t(tensor ? 0
                : row  ? cols
                : line ? cols * rb
                       : rb * cb),
        q(n), q_t(n);
    for (size_t i = 0; i < scale.size(); ++i) {
      const int64_t s = static_cast<int64_t>(i);
      const float a = tensor ? whole
                      : row  ? amax(s, s + 1, 0, cols)
                      : line ? amax(s / cb, s / cb + 1, s % cb * 128, s % cb * 128 + 128)
                             : amax(s / cb * 128, s / cb * 128 + 128, s % cb * 128, s % cb * 128 + 128);
      scale[i] = 1.0f / multiplier(a, to, pow2);
      const float m = multiplier(a, to, pow2);
      const int64_t r0 = tensor ? 0
                         : row  ? s
                         : line ? s / cb
                                : s / cb * 128,
                    r1 = tensor        ? rows
                         : row || line ? r0 + 1
                                       : r0 + 128,
                    c0 = tensor || row ? 0 : s % cb * 128, c1 = tensor || row ? cols : c0 + 128;
      for (int64_t r = r0; r < std::min(r1, rows); ++r)
        for (int64_t k = c0; k < std::min<int64_t>(c1, cols); ++k)
          q[r * cols + k] = round_to(to, static_cast<float>(x[r * cols + k]) * m);
    }
    if (tensor)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t k = 0; k < cols; ++k) q_t[k * rows + r] = q[r * cols + k];
    for (size_t i = 0; i < scale_t.size(); ++i) {
      const int64_t s = static_cast<int64_t>(i),
                    c0 = row    ? s
                         : line ? s / rb
                                : s / rb * 128,
                    c1 = row || line ? c0 + 1 : c0 + 128, r0 = row ? 0 : s % rb * 128, r1 = row ? rows : r0 + 128;
      const float m = multiplier(amax(r0, r1, c0, c1), to, pow2);
      scale_t[i] = 1.0f / m;
      for (int64_t r = r0; r < std::min(r1, rows); ++r)
        for (int64_t k = c0; k < std::min<int64_t>(c1, cols); ++k)
          q_t[k * rows + r] = round_to(to, static_cast<float>(x[r * cols + k]) * m);
    }
    Array amax_a = Array::of({1e30}, DType::kF32), q_a = Array::poison(n, to), q_t_a = Array::poison(n, to),
          scale_a = Array::poison(scale.size(), DType::kF32), scale_t_a = Array::poison(scale_t.size(), DType::kF32);
    Amax m{x.data(), amax_a.as<float>(), n, false, t};
    Quantize a{x.data(),
               amax_a.as<float>(),
               row_major ? q_a.data() : nullptr,
               scale_a.as<float>(),
               transposed ? q_t_a.data() : nullptr,
               scale_t_a.as<float>(),
               rows,
               cols,
               block,
               pow2,
               t,
               to};
    if (!c.run(supports_quantize_sm90(a, checker.device()), workspace_quantize_sm90(a),
               [&](const Launch& l) { amax_sm90(m, l), quantize_sm90(a, l); }, {&amax_a, &q_a, &q_t_a, &scale_a, &scale_t_a}))
      return;
    c.expect("amax", amax_a, {whole}, kExact);
    if (n == 0) return;
    if (row_major) c.expect("q", q_a, q, kExact);
    if (row_major || tensor) c.expect("scale", scale_a, scale, kExact);
    if (transposed) c.expect("q_t", q_t_a, q_t, kExact);
    if (transposed && !tensor) c.expect("scale_t", scale_t_a, scale_t, kExact);
  }
}

void cast(Checker& checker, int64_t n, DType from, DType to, double scale) {
  Case c(checker, "cast", std::to_string(n) + "/to_" + name(to) + (scale != 1 ? "/scaled" : ""), from);
  Random random(n);
  Array x = Array::normal(random, n, from, from == DType::kF8E4M3 ? 30 : 300), y = Array::poison(n, to),
        s = Array::of({scale}, DType::kF32);
  if (n > 20) {  // specials, values past the FP8 range, ties
    Values v = x.start();
    const double odd[] = {0.0, -0.0, 448, 449, 464, 480, 1e6, -1e6, 57344, 65536, 1e-9, 0.0009765625, 17, 19, std::nan("")};
    for (int i = 0; i < 15; ++i) v[i] = odd[i];
    x = Array::of(v, from);
  }
  Values want(n);
  for (int64_t i = 0; i < n; ++i) want[i] = round_to(to, static_cast<float>(x[i]) * static_cast<float>(scale));
  Cast a{x.data(), y.data(), scale != 1 ? s.as<float>() : nullptr, n, from, to};
  if (c.run(supports_cast_sm90(a, checker.device()), 0, [&](const Launch& l) { cast_sm90(a, l); }, {&y}))
    c.expect("y", y, want, kExact);
}

void hadamard(Checker& checker, int64_t rows, int cols, DType t) {
  Case c(checker, "hadamard", std::to_string(rows) + "x" + std::to_string(cols), t);
  Random random(cols);
  const double scale = 1 / std::sqrt(static_cast<double>(cols));
  Array x = Array::normal(random, rows * cols, t), y = Array::poison(rows * cols, t);
  Values want(rows * cols);
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<double> v(x.start().begin() + r * cols, x.start().begin() + (r + 1) * cols);
    for (int i = 0; i < cols; ++i) {
      double sum = 0;
      for (int j = 0; j < cols; ++j) sum += __builtin_parity(i & j) ? -v[j] : v[j];
      want[r * cols + i] = sum * scale;
    }
  }
  Hadamard a{x.data(), y.data(), rows, cols, static_cast<float>(scale), t};
  if (c.run(supports_hadamard_sm90(a, checker.device()), 0, [&](const Launch& l) { hadamard_sm90(a, l); }, {&y}))
    c.expect("y", y, want, rounded(t));
}

void dropout(Checker& checker, int64_t n, double p, bool residual, int64_t offset, DType t) {
  Case c(checker, "dropout",
         std::to_string(n) + "/p" + std::to_string(static_cast<int>(p * 100)) + (residual ? "/residual" : "") +
             (offset ? "/offset" : ""),
         t);
  Random random(n);
  Array x = Array::normal(random, n, t), r = Array::normal(random, n, t), y = Array::poison(n, t);
  Values want(n);
  int64_t kept = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint64_t at = static_cast<uint64_t>(offset + i);
    const uint4 w = dev::philox(uint4{static_cast<uint32_t>(at / 4), static_cast<uint32_t>((at / 4) >> 32), 9, 0}, uint2{77, 0});
    const uint32_t word[4] = {w.x, w.y, w.z, w.w};
    const bool keep = word[at % 4] >= static_cast<uint32_t>(static_cast<double>(static_cast<float>(p)) * 4294967296.0);
    kept += keep;
    want[i] = (residual ? r[i] : 0) + (keep ? x[i] / (1 - static_cast<double>(static_cast<float>(p))) : 0);
  }
  Dropout a{x.data(), residual ? r.data() : nullptr, y.data(), n, 77, 9, offset, static_cast<float>(p), t};
  if (c.run(supports_dropout_sm90(a, checker.device()), 0, [&](const Launch& l) { dropout_sm90(a, l); }, {&y}))
    c.expect("y", y, want, rounded(t));
  if (n > 10000) c.expect_true("share kept", std::abs(static_cast<double>(kept) / static_cast<double>(n) - (1 - p)) < 0.02);
}

void newton_schulz(Checker& checker, int64_t n, DType t) {
  Case c(checker, "newton_schulz", std::to_string(n), t);
  Random random(n);
  Array g = Array::normal(random, n, t), m = Array::normal(random, n, DType::kF32), u = Array::poison(n, DType::kF32),
        scale = Array::of({0.5}, DType::kF32);
  Values m1(n), u1(n);
  const double mu = static_cast<double>(0.95f);
  for (int64_t i = 0; i < n; ++i) m1[i] = m[i] + (1 - mu) * (g[i] * 0.5 - m[i]), u1[i] = g[i] * 0.5 + mu * (m1[i] - g[i] * 0.5);
  MuonMomentum a{g.data(), m.as<float>(), u.as<float>(), scale.as<float>(), n, 0.95f, true, t};
  if (c.run(supports_muon_momentum_sm90(a, checker.device()), 0, [&](const Launch& l) { muon_momentum_sm90(a, l); }, {&m, &u}))
    c.expect("momentum", m, m1, {2e-6, 1e-6}), c.expect("u", u, u1, {2e-6, 1e-6});
  Array x = Array::normal(random, n, DType::kF32), y = Array::poison(n, t);
  double square = 0;
  for (double v : x.start()) square += v * v;
  Array sum = Array::of({square}, DType::kF64);
  Values y1(n);
  for (int64_t i = 0; i < n; ++i) y1[i] = x[i] / std::sqrt(square);
  ScaleByNorm s{x.as<float>(), sum.as<double>(), y.data(), n, t};
  if (c.run(supports_scale_by_norm_sm90(s, checker.device()), 0, [&](const Launch& l) { scale_by_norm_sm90(s, l); }, {&y}))
    c.expect("scaled", y, y1, rounded(t));
  Array p = Array::normal(random, n, t), z = Array::normal(random, n, t), o = Array::poison(n, t);
  Values o1(n);
  for (int64_t i = 0; i < n; ++i) o1[i] = static_cast<double>(-4.775f) * p[i] + static_cast<double>(2.0315f) * z[i];
  Polynomial q{p.data(), z.data(), o.data(), n, -4.775f, 2.0315f, t};
  if (c.run(supports_polynomial_sm90(q, checker.device()), 0, [&](const Launch& l) { polynomial_sm90(q, l); }, {&o}))
    c.expect("polynomial", o, o1, rounded(t));
}

void perfs(Checker& checker) {
  const DType t = DType::kBf16, f8 = DType::kF8E4M3;
  const int64_t rows = 32768, n = rows * 4096;
  DeviceRandom x(n, t), y(n, t);
  if (checker.wants("quantize")) {
    DeviceRandom q(n, DType::kU8, 0, 1), q_t(n, DType::kU8, 0, 1), scale(rows * 32, DType::kF32), scale_t(rows * 32, DType::kF32),
        amax(1, DType::kF32);
    for (QuantBlock b : {QuantBlock::kTensor, QuantBlock::kRow, QuantBlock::k1x128, QuantBlock::k128x128})
      for (bool both : {false, true}) {
        if (b == QuantBlock::k128x128 && !both) continue;
        Quantize a{x.data(),
                   amax.as<float>(),
                   q.data(),
                   scale.as<float>(),
                   both ? q_t.data() : nullptr,
                   scale_t.as<float>(),
                   rows,
                   4096,
                   b,
                   true,
                   t,
                   f8};
        perf(checker, "quantize", "32768x4096/block" + std::to_string(static_cast<int>(b)) + (both ? "/q/q_t" : "/q"), t,
             n * (both ? 4.0 : 3.0), workspace_quantize_sm90(a), [&](const Launch& l) { quantize_sm90(a, l); });
      }
    Amax m{x.data(), amax.as<float>(), n, false, t};
    perf(checker, "amax", "32768x4096", t, n * 2.0, 0, [&](const Launch& l) { amax_sm90(m, l); });
  }
  if (checker.wants("cast")) {
    DeviceRandom w(n, DType::kF32);
    Cast a{w.data(), y.data(), nullptr, n, DType::kF32, t};
    perf(checker, "cast", "134217728/to_bf16", DType::kF32, n * 6.0, 0, [&](const Launch& l) { cast_sm90(a, l); });
    Cast b{x.data(), w.data(), nullptr, n, t, f8};
    perf(checker, "cast", "134217728/to_f8e4m3", t, n * 3.0, 0, [&](const Launch& l) { cast_sm90(b, l); });
  }
  if (checker.wants("hadamard"))
    for (int cols : {64, 128, 4096}) {
      Hadamard a{x.data(), y.data(), n / cols, cols, 0.1f, t};
      perf(checker, "hadamard", std::to_string(n / cols) + "x" + std::to_string(cols), t, n * 4.0, 0,
           [&](const Launch& l) { hadamard_sm90(a, l); });
    }
  if (checker.wants("dropout")) {
    Dropout a{x.data(), nullptr, y.data(), n, 1, 2, 0, 0.1f, t};
    perf(checker, "dropout", "134217728", t, n * 4.0, 0, [&](const Launch& l) { dropout_sm90(a, l); });
  }
  if (checker.wants("newton_schulz")) {
    Polynomial a{x.data(), y.data(), y.data(), n, 1, 1, t};
    perf(checker, "newton_schulz", "134217728/polynomial", t, n * 6.0, 0, [&](const Launch& l) { polynomial_sm90(a, l); });
  }
}

}  // namespace

void check_quantize(Checker& checker) {
  if (checker.options().perf) return perfs(checker);
  if (checker.wants("quantize"))
    for (DType t : {DType::kBf16, DType::kF32})
      for (QuantBlock b : {QuantBlock::kTensor, QuantBlock::kRow, QuantBlock::k1x128, QuantBlock::k128x128}) {
        for (auto [q, q_t] : {std::pair<bool, bool>{true, false}, {true, true}, {false, true}}) {
          quantize(checker, 144, 256, b, true, q, q_t, t, DType::kF8E4M3),
              quantize(checker, 37, 203, b, false, q, q_t, t, DType::kF8E5M2);
          if (!checker.options().small) quantize(checker, 300, 1032, b, false, q, q_t, t, DType::kF8E4M3);
        }
        quantize(checker, 1, 1, b, false, true, true, t, DType::kF8E4M3);
      }
  if (checker.wants("cast"))
    for (DType from : {DType::kF32, DType::kBf16, DType::kF16, DType::kF8E4M3, DType::kF8E5M2})
      for (DType to : {DType::kF32, DType::kBf16, DType::kF16, DType::kF8E4M3, DType::kF8E5M2})
        for (int64_t n : {0, 1, 9, 4099}) cast(checker, n, from, to, n == 9 ? 0.37 : 1);
  for (DType t : {DType::kBf16, DType::kF32}) {
    if (checker.wants("hadamard"))
      for (int cols : {1, 2, 8, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192}) hadamard(checker, cols < 512 ? 35 : cols < 4096 ? 5 : 2, cols, t);
    if (checker.wants("dropout"))
      dropout(checker, 20003, 0.3, true, 0, t), dropout(checker, 100, 0.0, false, 400, t),
          dropout(checker, 15, 0.9, false, 12, t), dropout(checker, 0, 0.5, false, 0, t);
    if (checker.wants("newton_schulz")) newton_schulz(checker, 5, t), newton_schulz(checker, 4100, t);
  }
}

}  // namespace weft::check
