#include <cmath>
#include <cstring>

#include "check.h"
#include "kernels/adamw/adamw.h"
#include "kernels/grad_norm/grad_norm.h"

namespace weft::check {
namespace {

using namespace kernels;
using Values = std::vector<double>;

float f32(double v) { return static_cast<float>(v); }

// mode 0: fp32 param; 1: bf16 param with master; 2: bf16 param with remainder; 3: bf16 param and moments, stochastic
void adamw(Checker& checker, int64_t n, int mode, DType grad_dtype, bool decoupled) {
  const DType param_dtype = mode == 0 ? DType::kF32 : DType::kBf16, moment_dtype = mode == 3 ? DType::kBf16 : DType::kF32;
  Case c(checker, "adamw",
         std::to_string(n) + "/mode" + std::to_string(mode) + "/grad_" + name(grad_dtype) + (decoupled ? "" : "/l2"),
         param_dtype);
  for (int seed = 1; seed <= (checker.options().small ? 1 : 3); ++seed) {
    Random random(seed);
    const double lr = 3e-3, b1 = 0.9, b2 = 0.95, eps = 1e-8, decay = 0.1, c1 = 1 - std::pow(b1, 7), c2 = 1 - std::pow(b2, 7),
                 factor = 0.37;
    Array master = Array::normal(random, n, DType::kF32, 0.05), grad = Array::normal(random, n, grad_dtype, 0.01),
          m = Array::normal(random, n, moment_dtype, 0.01);
    Values v0(n), p0(n), low(n);
    for (int64_t i = 0; i < n; ++i) {
      const double x = random.normal() * 0.01;
      v0[i] = x * x, p0[i] = master[i];
      if (mode == 2) {
        uint32_t u;
        const float f = f32(master[i]);
        std::memcpy(&u, &f, 4);
        low[i] = u & 0xffffu;
        const uint32_t high = (u + 0x8000u) & 0xffff0000u;
        float r;
        std::memcpy(&r, &high, 4);
        p0[i] = r;
      }
    }
    Array v = Array::of(v0, moment_dtype), param = Array::of(p0, param_dtype), remainder = Array::of(low, DType::kU16);
    Array scale = Array::of({factor}, DType::kF32), skip = Array::of({0}, DType::kI32),
          scalars = Array::of({lr, c1, c2}, DType::kF32);
    Values p1(n), m1(n), v1(n);
    for (int64_t i = 0; i < n; ++i) {
      double p = mode == 0 || mode == 3 ? param[i] : master[i], g = grad[i] * f32(factor);
      if (!decoupled) g += f32(decay) * p;
      m1[i] = f32(b1) * m[i] + (1 - f32(b1)) * g, v1[i] = f32(b2) * v[i] + (1 - f32(b2)) * g * g;
      if (decoupled) p -= f32(lr) * f32(decay) * p;
      p1[i] = p - f32(lr) * (m1[i] / f32(c1)) / (std::sqrt(v1[i] / f32(c2)) + eps);
    }
    AdamW a{};
    a.param = param.data(), a.grad = grad.data(), a.exp_avg = m.data(), a.exp_avg_sq = v.data(), a.grad_scale = scale.as<float>(),
    a.skip = skip.as<int32_t>();
    if (mode == 1) a.master = master.as<float>();
    if (mode == 2) a.remainder = remainder.as<uint16_t>();
    if (seed == 2)
      a.scalars = scalars.as<float>();
    else
      a.lr = f32(lr), a.correction1 = f32(c1), a.correction2 = f32(c2);
    a.count = n, a.beta1 = f32(b1), a.beta2 = f32(b2), a.eps = f32(eps), a.decay = f32(decay), a.decoupled = decoupled,
    a.stochastic = mode == 3, a.seed = 5, a.step = 7;
    a.param_dtype = param_dtype, a.grad_dtype = grad_dtype, a.moment_dtype = moment_dtype;
    if (!c.run(supports_adamw_sm90(a, checker.device()), 0, [&](const Launch& l) { adamw_sm90(a, l); },
               {&param, &m, &v, &master, &remainder}))
      return;
    const Tolerance fp32{3e-6, 2e-7}, one_ulp{0.0079, 1e-6};
    c.expect("exp_avg", m, m1, mode == 3 ? one_ulp : Tolerance{2e-6, 1e-6}),
        c.expect("exp_avg_sq", v, v1, mode == 3 ? one_ulp : Tolerance{2e-6, 1e-6});
    if (mode == 0) c.expect("param", param, p1, fp32);
    if (mode == 1) c.expect("master", master, p1, fp32), c.expect("param", param, p1, rounded(DType::kBf16));
    if (mode == 2) {
      c.expect("param", param, p1, rounded(DType::kBf16));
      const Values high = param.read(), rest = remainder.read();
      Values joined(n);
      for (int64_t i = 0; i < n; ++i) {
        const float h = f32(high[i]);
        uint32_t u;
        std::memcpy(&u, &h, 4);
        const uint32_t l = static_cast<uint32_t>(rest[i]);
        u = u - ((l & 0x8000u) << 1) + l;
        float f;
        std::memcpy(&f, &u, 4);
        joined[i] = f;
      }
      c.expect("joined master", Array::of(joined, DType::kF32), p1, fp32);
    }
    if (mode == 3) {
      c.expect("param", param, p1, one_ulp);
      if (n > 20000) {  // the rounding errors must average out: nearest rounding of a one-sided error would not
        const Values got = param.read();
        double bias = 0, size = 0;
        for (int64_t i = 0; i < n; ++i)
          bias += (got[i] - p1[i]) / std::abs(p1[i]), size += std::abs(got[i] - p1[i]) / std::abs(p1[i]);
        c.expect_true("stochastic rounding is biased", std::abs(bias) < 6 * size / std::sqrt(static_cast<double>(n)));
      }
    }
    Array skip1 = Array::of({1}, DType::kI32);  // a raised flag: nothing moves
    a.skip = skip1.as<int32_t>();
    if (c.run(supports_adamw_sm90(a, checker.device()), 0, [&](const Launch& l) { adamw_sm90(a, l); },
              {&param, &m, &v, &master, &remainder}))
      c.expect("skipped param", param, param.start(), kExact);
  }
}

void grad_norm(Checker& checker, const std::vector<int64_t>& counts, DType t, bool spoil) {
  int64_t total = 0;
  for (int64_t n : counts) total += n;
  Case c(checker, "grad_norm", std::to_string(counts.size()) + "spans/" + std::to_string(total) + (spoil ? "/inf" : ""), t);
  Random random(counts.size());
  std::vector<Array> arrays;
  std::vector<GradSpan> spans;
  double want = 0;
  for (int64_t n : counts) {
    Array a = Array::normal(random, n, t, 0.1);
    for (double v : a.start()) want += v * v;
    if (spoil && n > 2) {
      Values v = a.start();
      v[n / 2] = INFINITY, v[n - 1] = NAN;
      a = Array::of(v, t);
    }
    arrays.push_back(std::move(a));
  }
  for (const Array& a : arrays) spans.push_back({a.data(), a.count()});
  Array sum = Array::poison(1, DType::kF64), bad = Array::poison(1, DType::kI32), norm = Array::poison(1, DType::kF32),
        factor = Array::poison(1, DType::kF32), skip = Array::poison(1, DType::kI32);
  GradNorm g{spans.data(), static_cast<int32_t>(spans.size()), sum.as<double>(), bad.as<int32_t>(), false, t};
  ClipFactor k{sum.as<double>(), bad.as<int32_t>(), 0.5, norm.as<float>(), factor.as<float>(), skip.as<int32_t>()};
  if (!c.run(supports_grad_norm_sm90(g, checker.device()), workspace_grad_norm_sm90(g),
             [&](const Launch& l) { grad_norm_sm90(g, l), clip_factor_sm90(k, l); }, {&sum, &bad, &norm, &factor, &skip}))
    return;
  int spoiled = 0;
  for (int64_t n : counts) spoiled += spoil && n > 2 ? 2 : 0;
  c.expect("non_finite", bad, {static_cast<double>(spoiled)}, kExact);
  c.expect("skip", skip, {spoiled ? 1.0 : 0.0}, kExact);
  c.expect("factor", factor, {spoiled ? 0.0 : std::min(1.0, 0.5 / (std::sqrt(want) + 1e-6))}, {1e-6, 0});
  if (!spoiled) c.expect("sum_sq", sum, {want}, {2e-6, 0}), c.expect("norm", norm, {std::sqrt(want)}, {2e-6, 0});
}

void perfs(Checker& checker) {
  const int64_t n = int64_t{1} << 28;
  if (checker.wants("adamw")) {
    DeviceRandom p(n, DType::kF32), g(n, DType::kF32, -1, 1, 2), m(n, DType::kF32, -1, 1, 3), v(n, DType::kF32, 0, 1, 4),
        w(n, DType::kBf16);
    AdamW a{};
    a.param = w.data(), a.master = p.as<float>(), a.grad = g.data(), a.exp_avg = m.data(), a.exp_avg_sq = v.data(), a.count = n;
    a.lr = 1e-4f, a.correction1 = a.correction2 = 0.5f, a.beta1 = 0.9f, a.beta2 = 0.95f, a.eps = 1e-8f, a.decay = 0.1f,
    a.decoupled = true;
    a.param_dtype = DType::kBf16, a.grad_dtype = DType::kF32, a.moment_dtype = DType::kF32;
    perf(checker, "adamw", "268435456/bf16+master", DType::kBf16, 30.0 * n, 0, [&](const Launch& l) { adamw_sm90(a, l); });
    a.param = p.data(), a.master = nullptr, a.param_dtype = DType::kF32;
    perf(checker, "adamw", "268435456/fp32", DType::kF32, 28.0 * n, 0, [&](const Launch& l) { adamw_sm90(a, l); });
    a.param = w.data(), a.param_dtype = a.moment_dtype = DType::kBf16, a.stochastic = true;
    perf(checker, "adamw", "268435456/bf16_stochastic", DType::kBf16, 16.0 * n, 0, [&](const Launch& l) { adamw_sm90(a, l); });
  }
  if (checker.wants("grad_norm")) {
    DeviceRandom g(n, DType::kF32), out(4, DType::kF64);
    std::vector<GradSpan> spans;
    for (int i = 0; i < 64; ++i) spans.push_back({g.as<float>() + i * (n / 64), n / 64});
    GradNorm a{spans.data(), 64, out.as<double>(), out.as<int32_t>() + 4, false, DType::kF32};
    perf(checker, "grad_norm", "64spans/268435456", DType::kF32, 4.0 * n, workspace_grad_norm_sm90(a),
         [&](const Launch& l) { grad_norm_sm90(a, l); });
  }
}

}  // namespace

void check_optimizer(Checker& checker) {
  if (checker.options().perf) return perfs(checker);
  if (checker.wants("adamw"))
    for (int64_t n : {1, 8, 1003, 30011})
      for (int mode = 0; mode < 4; ++mode)
        for (DType g : {DType::kF32, DType::kBf16}) adamw(checker, n, mode, g, mode != 1 || n != 1003);
  if (checker.wants("grad_norm"))
    for (DType t : {DType::kF32, DType::kBf16})
      for (bool spoil : {false, true}) {
        grad_norm(checker, {1}, t, spoil), grad_norm(checker, {7, 0, 65537, 3, 131072, 1000}, t, spoil);
        grad_norm(checker, std::vector<int64_t>(301, 37), t, spoil);
      }
}

}  // namespace weft::check
