#include <cmath>

#include "check.h"
#include "kernels/activation/activation.h"
#include "kernels/add/add.h"
#include "kernels/bias/bias.h"
#include "kernels/glu/glu.h"
#include "kernels/rope/rope.h"

namespace weft::check {
namespace {

using namespace kernels;
using Values = std::vector<double>;

double phi(double x) { return 0.5 * (1 + std::erf(x / std::sqrt(2.0))); }
double sigma(double x) { return 1 / (1 + std::exp(-x)); }
const double kTanhScale = std::sqrt(2 / 3.14159265358979323846);

double act(Act k, double x) {
  switch (k) {
    case Act::kGeluExact:
      return x * phi(x);
    case Act::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(kTanhScale * (x + 0.044715 * x * x * x)));
    case Act::kQuickGelu:
      return x * sigma(1.702 * x);
    case Act::kSilu:
      return x * sigma(x);
    case Act::kRelu:
      return x > 0 ? x : 0;
    default:
      return x > 0 ? x * x : 0;
  }
}
Act act_of(Glu k) {
  switch (k) {
    case Glu::kSwiglu:
      return Act::kSilu;
    case Glu::kQuickGeglu:
      return Act::kQuickGelu;
    case Glu::kGegluExact:
      return Act::kGeluExact;
    case Glu::kGegluTanh:
      return Act::kGeluTanh;
    default:
      return Act::kRelu;
  }
}
double slope(Act k, double x) {  // fourth-order central difference: good to 1e-10 here
  if (k == Act::kRelu) return x > 0 ? 1 : 0;
  if (k == Act::kReluSquared) return x > 0 ? 2 * x : 0;
  const double h = 1e-3;
  return (8 * (act(k, x + h) - act(k, x - h)) - (act(k, x + 2 * h) - act(k, x - 2 * h))) / (12 * h);
}

void glu(Checker& checker, Glu kind, int64_t rows, int cols, DType t, double clamp, double offset, bool with_prob, int pad) {
  const std::string shape = std::to_string(rows) + "x" + std::to_string(cols) + "/kind" + std::to_string(static_cast<int>(kind)) +
                            (clamp > 0 ? "/clamp" : "") + (with_prob ? "/prob" : "") + (pad ? "/strided" : "");
  Case fwd(checker, "glu_fwd", shape, t), bwd(checker, "glu_bwd", shape, t);
  for (int seed = 1; seed <= (checker.options().small ? 1 : 3); ++seed) {
    Random random(seed);
    const int64_t in_stride = 2 * cols + pad, n = rows * cols, m = rows * in_stride;
    Array x = Array::normal(random, m, t, 2), dy = Array::normal(random, n, t),
          prob = Array::normal(random, rows, DType::kF32, 0.3, 0.5);
    if (clamp > 0 && n > 0) {  // a value on the bound itself
      Values v = x.start();
      v[0] = clamp, v[cols] = -clamp;
      x = Array::of(v, t);
    }
    Values y(n), dx(m, std::nan("")), dprob(rows);
    for (int64_t r = 0; r < rows; ++r)
      for (int c = 0; c < cols; ++c) {
        const double g = x[r * in_stride + c], u = x[r * in_stride + cols + c], p = with_prob ? prob[r] : 1, d = dy[r * cols + c];
        const double gc = clamp > 0 ? std::min(g, clamp) : g,
                     uc = (clamp > 0 ? std::max(-clamp, std::min(u, clamp)) : u) + offset;
        const double a = act(act_of(kind), gc);
        y[r * cols + c] = a * uc * p;
        dprob[r] += d * a * uc;
        dx[r * in_stride + c] = clamp > 0 && g > clamp ? 0 : d * p * slope(act_of(kind), gc) * uc;
        dx[r * in_stride + cols + c] = clamp > 0 && std::abs(u) > clamp ? 0 : d * p * a;
      }
    Array y_a = Array::poison(n, t), dx_a = Array::poison(m, t), dprob_a = Array::poison(rows, DType::kF32);
    const size_t size = bits(t) / 8;
    GluFwd f{x.data(),
             x.as<char>() + cols * size,
             with_prob ? prob.as<float>() : nullptr,
             y_a.data(),
             rows,
             in_stride,
             cols,
             static_cast<float>(clamp),
             static_cast<float>(offset),
             kind,
             t};
    if (fwd.run(supports_glu_fwd_sm90(f, checker.device()), 0, [&](const Launch& l) { glu_fwd_sm90(f, l); }, {&y_a}))
      fwd.expect("y", y_a, y, rounded(t));
    GluBwd b{dy.data(),
             f.gate,
             f.up,
             f.prob,
             dx_a.data(),
             dx_a.as<char>() + cols * size,
             with_prob ? dprob_a.as<float>() : nullptr,
             rows,
             in_stride,
             in_stride,
             cols,
             f.clamp,
             f.offset,
             kind,
             t};
    if (bwd.run(supports_glu_bwd_sm90(b, checker.device()), 0, [&](const Launch& l) { glu_bwd_sm90(b, l); }, {&dx_a, &dprob_a})) {
      bwd.expect("dx", dx_a, dx, rounded(t));
      if (with_prob) bwd.expect("dprob", dprob_a, dprob, kSums);
    }
  }
}

void activation(Checker& checker, Act kind, int64_t rows, int cols, DType t, bool with_prob) {
  Case fwd(checker, "act_fwd",
           std::to_string(rows) + "x" + std::to_string(cols) + "/kind" + std::to_string(static_cast<int>(kind)) +
               (with_prob ? "/prob" : ""),
           t);
  Case bwd(checker, "act_bwd",
           std::to_string(rows) + "x" + std::to_string(cols) + "/kind" + std::to_string(static_cast<int>(kind)) +
               (with_prob ? "/prob" : ""),
           t);
  for (int seed = 1; seed <= (checker.options().small ? 1 : 3); ++seed) {
    Random random(seed);
    const int64_t n = rows * cols;
    Array x = Array::normal(random, n, t, 2), dy = Array::normal(random, n, t),
          prob = Array::normal(random, rows, DType::kF32, 0.3, 0.5);
    Values y(n), dx(n), dprob(rows), weight(rows);
    for (int64_t i = 0; i < n; ++i) {
      const double p = with_prob ? prob[i / cols] : 1, a = act(kind, x[i]);
      y[i] = a * p, dx[i] = dy[i] * p * slope(kind, x[i]), dprob[i / cols] += dy[i] * a, weight[i / cols] += std::abs(dy[i] * x[i]);
    }
    // For bf16 results Phi(x) of the exact GELU is good to 1e-7 of one, not of itself: far down its tail nothing of x Phi(x) is left.
    Tolerance sums = kSums;
    if (t == DType::kBf16 && kind == Act::kGeluExact && rows > 0) sums.floor = 1e-7 * *std::max_element(weight.begin(), weight.end());
    Array y_a = Array::poison(n, t), dx_a = Array::poison(n, t), dprob_a = Array::poison(rows, DType::kF32);
    ActFwd f{x.data(), with_prob ? prob.as<float>() : nullptr, y_a.data(), rows, cols, kind, t};
    if (fwd.run(supports_act_fwd_sm90(f, checker.device()), 0, [&](const Launch& l) { act_fwd_sm90(f, l); }, {&y_a}))
      fwd.expect("y", y_a, y, rounded(t));
    ActBwd b{dy.data(), x.data(), f.prob, dx_a.data(), with_prob ? dprob_a.as<float>() : nullptr, rows, cols, kind, t};
    if (bwd.run(supports_act_bwd_sm90(b, checker.device()), 0, [&](const Launch& l) { act_bwd_sm90(b, l); }, {&dx_a, &dprob_a})) {
      bwd.expect("dx", dx_a, dx, rounded(t));
      if (with_prob) bwd.expect("dprob", dprob_a, dprob, sums);
    }
  }
}

void bias(Checker& checker, int64_t rows, int32_t cols, DType t) {
  Random random(static_cast<uint64_t>(rows * 7 + cols));
  const std::string shape = std::to_string(rows) + "x" + std::to_string(cols);
  const Array x = Array::normal(random, rows * cols, t), b = Array::normal(random, cols, t), db = Array::normal(random, cols, DType::kF32);
  const Array y = Array::poison(rows * cols, t);
  std::vector<double> want_y(static_cast<size_t>(rows * cols)), want_db = db.start();
  for (int64_t r = 0; r < rows; ++r)
    for (int32_t c = 0; c < cols; ++c) {
      want_y[static_cast<size_t>(r * cols + c)] = x[r * cols + c] + b[c];
      want_db[static_cast<size_t>(c)] += x[r * cols + c];
    }
  {
    Case c(checker, "bias_fwd", shape, t);
    const BiasFwd a{x.data(), b.data(), y.data(), rows, cols, t};
    if (c.run(supports_bias_fwd_sm90(a, checker.device()), 0, [&](const Launch& l) { bias_fwd_sm90(a, l); }, {&y})) c.expect("y", y, want_y, rounded(t));
  }
  Case c(checker, "bias_bwd", shape, t);
  const BiasBwd a{x.data(), db.as<float>(), rows, cols, t};
  if (c.run(supports_bias_bwd_sm90(a, checker.device()), workspace_bias_bwd_sm90(a), [&](const Launch& l) { bias_bwd_sm90(a, l); }, {&db}))
    c.expect("db", db, want_db, kSums);
}

void add(Checker& checker, int64_t count, int num, DType t) {
  Case c(checker, "add", std::to_string(count) + "/num" + std::to_string(num), t);
  Random random(count + num);
  std::vector<Array> in;
  Values want(count);
  Add a{};
  for (int i = 0; i < num; ++i) {
    in.push_back(Array::normal(random, count, t));
    a.in[i] = in.back().data();
    for (int64_t j = 0; j < count; ++j) want[j] += in.back()[j];
  }
  Array y = Array::poison(count, t);
  a.y = y.data(), a.count = count, a.num_in = num, a.dtype = t;
  if (c.run(supports_add_sm90(a, checker.device()), 0, [&](const Launch& l) { add_sm90(a, l); }, {&y}))
    c.expect("y", y, want, rounded(t));
}

void rope(Checker& checker, Rope::Pairing pairing, bool inverse, int64_t tokens, int heads, int dim, int begin, int rot, DType t,
          bool in_place, bool positions) {
  Case c(checker, "rope",
         std::to_string(tokens) + "x" + std::to_string(heads) + "x" + std::to_string(dim) + "/rot" + std::to_string(begin) + "+" +
             std::to_string(rot) + "/pair" + std::to_string(pairing) + (inverse ? "/inverse" : "") +
             (in_place ? "/in_place" : "") + (positions ? "/positions" : ""),
         t);
  for (int seed = 1; seed <= (checker.options().small ? 1 : 3); ++seed) {
    Random random(seed);
    const int table = static_cast<int>(tokens) + 9, half = rot / 2;
    const int64_t x_token = static_cast<int64_t>(heads) * dim + 16,
                  y_token = in_place ? x_token : static_cast<int64_t>(heads) * dim;
    Array x = Array::normal(random, tokens * x_token, t);
    Values cos(static_cast<int64_t>(table) * half), sin(cos.size()), pos(tokens);
    for (size_t i = 0; i < cos.size(); ++i) {
      const double angle = random.uniform() * 6.283;
      cos[i] = std::cos(angle), sin[i] = std::sin(angle);
    }
    for (double& p : pos) p = static_cast<double>(random.below(table));
    Array cos_a = Array::of(cos, DType::kF32), sin_a = Array::of(sin, DType::kF32), pos_a = Array::of(pos, DType::kI32);
    Values want = in_place ? x.start() : Values(tokens * y_token, std::nan(""));
    const bool read_adjacent = inverse ? pairing == Rope::kAdjacent : pairing != Rope::kHalf,
               write_adjacent = inverse ? pairing != Rope::kHalf : pairing == Rope::kAdjacent;
    for (int64_t i = 0; i < tokens; ++i)
      for (int h = 0; h < heads; ++h) {
        const double* from = x.start().data() + i * x_token + h * dim;
        double* to = want.data() + i * y_token + h * dim;
        const Values row(from, from + dim);
        for (int d = 0; d < dim; ++d) to[d] = row[d];
        for (int p = 0; p < half; ++p) {
          const int64_t at = (positions ? static_cast<int64_t>(pos[i]) : i) * half + p;
          const double cs = cos_a[at], sn = inverse ? -sin_a[at] : sin_a[at];
          const double u = row[begin + (read_adjacent ? 2 * p : p)], v = row[begin + (read_adjacent ? 2 * p + 1 : p + half)];
          to[begin + (write_adjacent ? 2 * p : p)] = u * cs - v * sn;
          to[begin + (write_adjacent ? 2 * p + 1 : p + half)] = u * sn + v * cs;
        }
      }
    Array y = in_place ? Array::of(x.start(), t) : Array::poison(tokens * y_token, t);
    Rope a{in_place ? y.data() : x.data(),
           y.data(),
           cos_a.as<float>(),
           sin_a.as<float>(),
           positions ? pos_a.as<int32_t>() : nullptr,
           tokens,
           x_token,
           dim,
           y_token,
           dim,
           heads,
           dim,
           begin,
           rot,
           table,
           pairing,
           inverse,
           t};
    if (c.run(supports_rope_sm90(a, checker.device()), 0, [&](const Launch& l) { rope_sm90(a, l); }, {&y}))
      c.expect("y", y, want, rounded(t));
  }
}

void perfs(Checker& checker) {
  const DType t = DType::kBf16;
  if (checker.wants("glu")) {
    const int64_t rows = 32768;
    for (int cols : {14336, 896, 21504}) {
      const int64_t r = cols == 896 ? rows * 4 : rows / 2, n = r * cols;
      DeviceRandom x(2 * n, t), dx(2 * n, t), y(n, t), prob(r, DType::kF32), dprob(r, DType::kF32);
      for (bool with_prob : {false, true}) {
        const std::string s = std::to_string(r) + "x" + std::to_string(cols) + (with_prob ? "/prob" : "");
        GluFwd f{x.data(),
                 x.as<uint16_t>() + cols,
                 with_prob ? prob.as<float>() : nullptr,
                 y.data(),
                 r,
                 2 * cols,
                 cols,
                 0,
                 0,
                 Glu::kSwiglu,
                 t};
        perf(checker, "glu_fwd", s, t, 6.0 * n, 0, [&](const Launch& l) { glu_fwd_sm90(f, l); });
        GluBwd b{y.data(),
                 f.gate,
                 f.up,
                 f.prob,
                 dx.data(),
                 dx.as<uint16_t>() + cols,
                 with_prob ? dprob.as<float>() : nullptr,
                 r,
                 2 * cols,
                 2 * cols,
                 cols,
                 0,
                 0,
                 Glu::kSwiglu,
                 t};
        perf(checker, "glu_bwd", s, t, 10.0 * n, 0, [&](const Launch& l) { glu_bwd_sm90(b, l); });
      }
    }
  }
  if (checker.wants("act")) {
    const int64_t rows = 32768, n = rows * 3072;
    DeviceRandom x(n, t), y(n, t), dx(n, t), prob(rows, DType::kF32), dprob(rows, DType::kF32);
    for (Act k : {Act::kGeluExact, Act::kGeluTanh, Act::kReluSquared}) {
      const std::string s = "32768x3072/kind" + std::to_string(static_cast<int>(k));
      ActFwd f{x.data(), nullptr, y.data(), rows, 3072, k, t};
      perf(checker, "act_fwd", s, t, 4.0 * n, 0, [&](const Launch& l) { act_fwd_sm90(f, l); });
      ActBwd b{y.data(), x.data(), nullptr, dx.data(), nullptr, rows, 3072, k, t};
      perf(checker, "act_bwd", s, t, 6.0 * n, 0, [&](const Launch& l) { act_bwd_sm90(b, l); });
      f.prob = b.prob = prob.as<float>(), b.dprob = dprob.as<float>();
      perf(checker, "act_fwd", s + "/prob", t, 4.0 * n, 0, [&](const Launch& l) { act_fwd_sm90(f, l); });
      perf(checker, "act_bwd", s + "/prob", t, 6.0 * n, 0, [&](const Launch& l) { act_bwd_sm90(b, l); });
    }
  }
  if (checker.wants("add")) {
    const int64_t n = 32768ll * 4096;
    DeviceRandom x(n, t), y(n, t), z(n, t), u(n, t);
    Add a{{x.data(), y.data(), z.data(), nullptr}, u.data(), n, 2, t};
    perf(checker, "add", "32768x4096/num2", t, 6.0 * n, 0, [&](const Launch& l) { add_sm90(a, l); });
    a.num_in = 3;
    perf(checker, "add", "32768x4096/num3", t, 8.0 * n, 0, [&](const Launch& l) { add_sm90(a, l); });
  }
  if (checker.wants("bias")) {
    const int64_t rows = 32768, cols = 4096;
    const DeviceRandom dy(rows * cols, t);
    Array db = Array::poison(cols, DType::kF32);
    const BiasBwd b{dy.data(), db.as<float>(), rows, static_cast<int32_t>(cols), t};
    perf(checker, "bias_bwd", "32768x4096", t, 2.0 * rows * cols, workspace_bias_bwd_sm90(b), [&](const Launch& l) { bias_bwd_sm90(b, l); });
  }
  if (checker.wants("rope")) {
    const int64_t tokens = 32768;
    DeviceRandom x(tokens * 32 * 192, t), y(tokens * 32 * 192, t), cos(tokens * 64, DType::kF32), sin(tokens * 64, DType::kF32);
    for (Rope::Pairing p : {Rope::kHalf, Rope::kAdjacent}) {
      Rope a{x.data(),
             x.data(),
             cos.as<float>(),
             sin.as<float>(),
             nullptr,
             tokens,
             32 * 128,
             128,
             32 * 128,
             128,
             32,
             128,
             0,
             128,
             static_cast<int32_t>(tokens),
             p,
             false,
             t};
      perf(checker, "rope", "32768x32x128/in_place/pair" + std::to_string(p), t, 4.0 * tokens * 32 * 128 + 8.0 * tokens * 64, 0,
           [&](const Launch& l) { rope_sm90(a, l); });
    }
    Rope m{x.data(),
           y.data(),
           cos.as<float>(),
           sin.as<float>(),
           nullptr,
           tokens,
           32 * 192,
           192,
           32 * 192,
           192,
           32,
           192,
           128,
           64,
           static_cast<int32_t>(tokens),
           Rope::kAdjacentToHalf,
           false,
           t};
    perf(checker, "rope", "32768x32x192/rot128+64/pair2", t, 4.0 * tokens * 32 * 192 + 8.0 * tokens * 32, 0,
         [&](const Launch& l) { rope_sm90(m, l); });
  }
}

}  // namespace

void check_elementwise(Checker& checker) {
  if (checker.options().perf) return perfs(checker);
  for (DType t : {DType::kBf16, DType::kF32}) {
    if (checker.wants("glu")) {
      for (Glu k : {Glu::kSwiglu, Glu::kQuickGeglu, Glu::kGegluExact, Glu::kGegluTanh, Glu::kReglu}) {
        glu(checker, k, 5, 24, t, 0, 0, false, 0);
        glu(checker, k, 37, 13, t, 1.5, 1, true, 3);
        glu(checker, k, 3, 2056, t, 2, 0, true, 8);
      }
      glu(checker, Glu::kSwiglu, 0, 8, t, 0, 0, false, 0);
      glu(checker, Glu::kSwiglu, 1, 1, t, 0, 0, true, 0);
      if (!checker.options().small)
        glu(checker, Glu::kSwiglu, 515, 896, t, 0, 0, true, 0), glu(checker, Glu::kSwiglu, 129, 896, t, 0, 0, false, 0);
    }
    if (checker.wants("act"))
      for (Act k : {Act::kGeluExact, Act::kGeluTanh, Act::kQuickGelu, Act::kSilu, Act::kRelu, Act::kReluSquared}) {
        activation(checker, k, 7, 13, t, false), activation(checker, k, 65, 40, t, true);
        activation(checker, k, 3, 2048, t, true), activation(checker, k, 1, 1, t, true), activation(checker, k, 0, 5, t, false);
        if (!checker.options().small) activation(checker, k, 311, 1037, t, false);
      }
    if (checker.wants("bias"))
      for (int64_t rows : {0, 1, 5, 1030})
        for (int32_t cols : {1, 8, 40, 257}) bias(checker, rows, cols, t);
    if (checker.wants("add"))
      for (int64_t n : {0, 1, 7, 8, 4097, 100003})
        for (int num : {2, 3, 4}) add(checker, n, num, t);
    if (checker.wants("rope"))
      for (bool inverse : {false, true}) {
        for (Rope::Pairing p : {Rope::kHalf, Rope::kAdjacent}) {
          rope(checker, p, inverse, 5, 3, 64, 0, 64, t, true, false);
          rope(checker, p, inverse, 7, 2, 24, 8, 10, t, false, true);
          rope(checker, p, inverse, 33, 4, 128, 0, 128, t, false, true);
          rope(checker, p, inverse, 6, 2, 192, 128, 64, t, true, true);
          rope(checker, p, inverse, 1, 1, 2, 0, 2, t, true, false);
          rope(checker, p, inverse, 4, 2, 7, 3, 4, t, true, true);
        }
        rope(checker, Rope::kAdjacentToHalf, inverse, 9, 5, 192, 128, 64, t, false, false);
        rope(checker, Rope::kAdjacentToHalf, inverse, 3, 1, 20, 8, 6, t, false, true);
      }
  }
}

}  // namespace weft::check
