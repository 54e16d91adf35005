#include <cmath>

#include "check.h"
#include "kernels/gated_norm/gated_norm.h"
#include "kernels/qk_norm/qk_norm.h"

namespace weft::check {
namespace {

using namespace kernels;
using Values = std::vector<double>;

double sigma(double x) { return 1 / (1 + std::exp(-x)); }

void gated(Checker& checker, int64_t rows, int cols, int group, bool shared, bool gate_first, int pad, DType t) {
  const std::string shape = std::to_string(rows) + "x" + std::to_string(cols) + "/group" + std::to_string(group) +
                            (shared ? "/shared" : "") + (gate_first ? "/gate_first" : "") + (pad ? "/strided" : "");
  Case fwd(checker, "gated_norm_fwd", shape, t), bwd(checker, "gated_norm_bwd", shape, t);
  for (int seed = 1; seed <= (checker.options().small ? 1 : 3); ++seed) {
    Random random(seed);
    const int64_t n = rows * cols, stride = cols + pad, m = rows * stride;
    const int groups = cols / group, w_cols = shared ? group : cols;
    Array x = Array::normal(random, m, t, 2), z = Array::normal(random, m, t, 2), w = Array::normal(random, w_cols, t, 0.5, 1),
          dy = Array::normal(random, n, t), dw_a = Array::normal(random, w_cols, DType::kF32);
    Values y(n), dx(m, std::nan("")), dz(m, std::nan("")), rstd(rows * groups), dw = dw_a.start();
    const double eps = 1e-5;
    for (int64_t r = 0; r < rows; ++r)
      for (int g = 0; g < groups; ++g) {
        double square = 0, dot = 0;
        Values u(group), d(group);
        auto wi = [&](int c) { return w[shared ? c : g * group + c]; };
        for (int c = 0; c < group; ++c) {
          const double xv = x[r * stride + g * group + c], zv = z[r * stride + g * group + c], gate = zv * sigma(zv);
          u[c] = gate_first ? xv * gate : xv, d[c] = dy[r * cols + g * group + c] * (gate_first ? 1 : gate);
          square += u[c] * u[c];
        }
        const double rs = rstd[r * groups + g] = 1 / std::sqrt(square / group + eps);
        for (int c = 0; c < group; ++c)
          dot += d[c] * wi(c) * u[c] * rs / group, dw[shared ? c : g * group + c] += d[c] * u[c] * rs;
        for (int c = 0; c < group; ++c) {
          const int64_t at = r * stride + g * group + c;
          const double zv = z[at], s = sigma(zv), gate = zv * s, slope = s * (1 + zv * (1 - s)),
                       du = rs * (d[c] * wi(c) - u[c] * rs * dot);
          y[r * cols + g * group + c] = u[c] * rs * wi(c) * (gate_first ? 1 : gate);
          dx[at] = gate_first ? du * gate : du;
          dz[at] = gate_first ? du * x[at] * slope : dy[r * cols + g * group + c] * u[c] * rs * wi(c) * slope;
        }
      }
    Array y_a = Array::poison(n, t), rstd_a = Array::poison(rows * groups, DType::kF32), dx_a = Array::poison(m, t),
          dz_a = Array::poison(m, t), rstd_in = Array::of(rstd, DType::kF32);
    GatedNormFwd f{x.data(), z.data(), w.data(), y_a.data(), rstd_a.as<float>(),      rows,       stride,
                   stride,   cols,     group,    w_cols,     static_cast<float>(eps), gate_first, t};
    if (fwd.run(supports_gated_norm_fwd_sm90(f, checker.device()), 0, [&](const Launch& l) { gated_norm_fwd_sm90(f, l); },
                {&y_a, &rstd_a}))
      fwd.expect("y", y_a, y, rounded(t)), fwd.expect("rstd", rstd_a, rstd, {4e-6, 0});
    GatedNormBwd b{dy.data(),
                   x.data(),
                   z.data(),
                   w.data(),
                   rstd_in.as<float>(),
                   dx_a.data(),
                   dz_a.data(),
                   dw_a.as<float>(),
                   rows,
                   stride,
                   stride,
                   stride,
                   stride,
                   cols,
                   group,
                   w_cols,
                   gate_first,
                   t};
    if (bwd.run(supports_gated_norm_bwd_sm90(b, checker.device()), workspace_gated_norm_bwd_sm90(b),
                [&](const Launch& l) { gated_norm_bwd_sm90(b, l); }, {&dx_a, &dz_a, &dw_a}))
      bwd.expect("dx", dx_a, dx, rounded(t)), bwd.expect("dz", dz_a, dz, rounded(t)), bwd.expect("dw", dw_a, dw, kSums);
  }
}

void qk(Checker& checker, int64_t tokens, int heads, int dim, bool l2, DType t, bool w_f32 = false) {
  const std::string shape = std::to_string(tokens) + "x" + std::to_string(heads) + "x" + std::to_string(dim) + (l2 ? "/l2" : "") + (w_f32 ? "/fp32 w" : "");
  Case fwd(checker, "qk_norm_fwd", shape, t), bwd(checker, "qk_norm_bwd", shape, t);
  for (int seed = 1; seed <= (checker.options().small ? 1 : 3); ++seed) {
    Random random(seed);
    const int64_t row = static_cast<int64_t>(heads) * dim, stride = row + 24, m = tokens * stride;
    Array x = Array::normal(random, m, t, 2), dy = Array::normal(random, m, t), w = Array::normal(random, dim, w_f32 ? DType::kF32 : t, 0.5, 1),
          dw_a = Array::normal(random, dim, DType::kF32);
    Values y(m, std::nan("")), dx(m, std::nan("")), rstd(tokens * heads), dw = dw_a.start();
    const double eps = 1e-6, divisor = l2 ? 1 : dim;
    for (int64_t i = 0; i < tokens; ++i)
      for (int h = 0; h < heads; ++h) {
        const int64_t at = i * stride + static_cast<int64_t>(h) * dim;
        double square = 0, dot = 0;
        for (int d = 0; d < dim; ++d) square += x[at + d] * x[at + d];
        const double rs = rstd[i * heads + h] = 1 / std::sqrt(square / divisor + eps);
        for (int d = 0; d < dim; ++d) dot += dy[at + d] * (l2 ? 1 : w[d]) * x[at + d] * rs / divisor;
        for (int d = 0; d < dim; ++d) {
          const double n = x[at + d] * rs, wd = l2 ? 1 : w[d];
          y[at + d] = n * wd, dx[at + d] = rs * (dy[at + d] * wd - n * dot);
          if (!l2) dw[d] += dy[at + d] * n;
        }
      }
    Array y_a = Array::poison(m, t), dx_a = Array::poison(m, t), rstd_a = Array::poison(tokens * heads, DType::kF32),
          rstd_in = Array::of(rstd, DType::kF32);
    QkNormFwd f{x.data(),   l2 ? nullptr : w.data(),
                y_a.data(), rstd_a.as<float>(),
                tokens,     stride,
                stride,     heads,
                dim,        static_cast<float>(eps),
                l2,         t, w_f32};
    if (fwd.run(supports_qk_norm_fwd_sm90(f, checker.device()), 0, [&](const Launch& l) { qk_norm_fwd_sm90(f, l); },
                {&y_a, &rstd_a}))
      fwd.expect("y", y_a, y, rounded(t));
    QkNormBwd b{
        dy.data(), x.data(), f.w, rstd_in.as<float>(), dx_a.data(), dw_a.as<float>(), tokens, stride, stride, stride, heads,
        dim,       l2,       t, w_f32};
    if (bwd.run(supports_qk_norm_bwd_sm90(b, checker.device()), workspace_qk_norm_bwd_sm90(b),
                [&](const Launch& l) { qk_norm_bwd_sm90(b, l); }, {&dx_a, &dw_a}))
      bwd.expect("dx", dx_a, dx, rounded(t)), bwd.expect("dw", dw_a, dw, kSums);
  }
}

void perfs(Checker& checker) {
  const DType t = DType::kBf16;
  if (checker.wants("gated_norm"))
    for (auto [rows, cols, group, first] :
         {std::tuple<int64_t, int, int, bool>{32768, 8192, 1024, true}, {32768, 4096, 128, false}}) {
      const int64_t n = rows * cols;
      DeviceRandom x(n, t), z(n, t), w(cols, t), y(n, t), dx(n, t), dz(n, t), rstd(rows * (cols / group), DType::kF32, 0.5, 1),
          dw(cols, DType::kF32);
      const std::string s = std::to_string(rows) + "x" + std::to_string(cols) + "/group" + std::to_string(group);
      GatedNormFwd f{x.data(), z.data(), w.data(), y.data(), rstd.as<float>(),     rows,
                     cols,     cols,     cols,     group,    first ? cols : group, 1e-5f,
                     first,    t};
      perf(checker, "gated_norm_fwd", s, t, 6.0 * n, 0, [&](const Launch& l) { gated_norm_fwd_sm90(f, l); });
      GatedNormBwd b{
          y.data(), x.data(), z.data(), w.data(), rstd.as<float>(), dx.data(), dz.data(), dw.as<float>(), rows, cols, cols,
          cols,     cols,     cols,     group,    f.w_cols,         first,     t};
      perf(checker, "gated_norm_bwd", s, t, 10.0 * n, workspace_gated_norm_bwd_sm90(b),
           [&](const Launch& l) { gated_norm_bwd_sm90(b, l); });
    }
  if (checker.wants("qk_norm")) {
    const int64_t tokens = 32768, n = tokens * 32 * 128;
    DeviceRandom x(n, t), y(n, t), dx(n, t), w(128, t), rstd(tokens * 32, DType::kF32, 0.5, 1), dw(128, DType::kF32);
    QkNormFwd f{x.data(), w.data(), y.data(), rstd.as<float>(), tokens, 4096, 4096, 32, 128, 1e-6f, false, t};
    perf(checker, "qk_norm_fwd", "32768x32x128", t, 4.0 * n, 0, [&](const Launch& l) { qk_norm_fwd_sm90(f, l); });
    QkNormBwd b{y.data(), x.data(), w.data(), rstd.as<float>(), dx.data(), dw.as<float>(), tokens, 4096, 4096, 4096, 32,
                128,      false,    t};
    perf(checker, "qk_norm_bwd", "32768x32x128", t, 6.0 * n, workspace_qk_norm_bwd_sm90(b),
         [&](const Launch& l) { qk_norm_bwd_sm90(b, l); });
  }
}

}  // namespace

void check_group_norms(Checker& checker) {
  if (checker.options().perf) return perfs(checker);
  for (DType t : {DType::kBf16, DType::kF32}) {
    if (checker.wants("gated_norm"))
      for (bool first : {true, false}) {
        gated(checker, 9, 32, 16, false, first, 0, t), gated(checker, 37, 128, 64, true, first, 8, t),
            gated(checker, 5, 21, 7, true, first, 0, t);
        gated(checker, 3, 816, 816, false, first, 0, t), gated(checker, 0, 32, 16, false, first, 0, t),
            gated(checker, 1, 3, 3, false, first, 1, t);
        if (!checker.options().small)
          gated(checker, 1200, 128, 64, false, first, 0, t), gated(checker, 20, 4096, 1024, false, first, 16, t),
              gated(checker, 7, 8192, 4096, true, first, 0, t);
      }
    if (checker.wants("qk_norm"))
      for (bool l2 : {false, true}) {
        qk(checker, 5, 3, 64, l2, t), qk(checker, 0, 3, 64, l2, t), qk(checker, 33, 2, 128, l2, t), qk(checker, 4, 2, 7, l2, t),
            qk(checker, 3, 1, 256, l2, t);
        if (!l2) qk(checker, 33, 2, 128, l2, t, true), qk(checker, 4, 2, 7, l2, t, true);
        if (!checker.options().small) qk(checker, 1300, 5, 64, l2, t), qk(checker, 3, 2, 1536, l2, t);
      }
  }
}

}  // namespace weft::check
