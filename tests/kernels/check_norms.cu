#include <cmath>

#include "check.h"
#include "kernels/add_rmsnorm/add_rmsnorm.h"
#include "kernels/layernorm/layernorm.h"
#include "kernels/rmsnorm/rmsnorm.h"

namespace weft::check {
namespace {

using namespace kernels;
using Values = std::vector<double>;

std::string shape_of(int64_t rows, int64_t cols) { return std::to_string(rows) + "x" + std::to_string(cols); }

struct Norm {  // fp64 forward and backward of one row; layer: with mean
  Values y, dx, dw, db;
  double mean = 0, rstd = 0;
};
Norm norm_row(const double* v, const double* w, const double* b, const double* dy, const double* dsum, int cols, double eps,
              bool layer) {
  Norm n;
  n.y.resize(cols), n.dx.resize(cols), n.dw.resize(cols), n.db.resize(cols);
  for (int c = 0; c < cols; ++c) n.mean += layer ? v[c] / cols : 0;
  double square = 0, dot = 0, total = 0;
  for (int c = 0; c < cols; ++c) square += (v[c] - n.mean) * (v[c] - n.mean);
  n.rstd = 1 / std::sqrt(square / cols + eps);
  for (int c = 0; c < cols; ++c) {
    const double x = (v[c] - n.mean) * n.rstd, g = w ? dy[c] * w[c] : dy[c];
    n.y[c] = x * (w ? w[c] : 1) + (b ? b[c] : 0);
    dot += g * x / cols, total += layer ? g / cols : 0;
    n.dw[c] = dy[c] * x, n.db[c] = dy[c];
  }
  for (int c = 0; c < cols; ++c)
    n.dx[c] = n.rstd * ((w ? dy[c] * w[c] : dy[c]) - total - (v[c] - n.mean) * n.rstd * dot) + (dsum ? dsum[c] : 0);
  return n;
}

// One shape: forward and backward of rms_norm, add_rms_norm and layer_norm (with residual, weight and bias when `extras`).
void norms(Checker& checker, int64_t rows, int cols, DType dtype, size_t offset) {
  const std::string shape = shape_of(rows, cols) + (offset ? "+off" : "");
  const int seeds = checker.options().small ? 1 : 3;
  for (const char* op : {"rms_norm", "add_rms_norm", "layer_norm", "add_layer_norm"}) {
    if (!checker.wants(op)) continue;
    const bool add = op[0] == 'a', layer = std::string(op).find("layer") != std::string::npos;
    Case fwd(checker, std::string(op) + "_fwd", shape, dtype), bwd(checker, std::string(op) + "_bwd", shape, dtype);
    for (int seed = 1; seed <= seeds; ++seed) {
      Random random(seed);
      const int64_t n = rows * cols;
      Array x = Array::normal(random, n, dtype, 2, 0.3, offset), res = Array::normal(random, n, dtype, 1, 0, offset),
            w = Array::normal(random, cols, dtype, 0.5, 1, offset), b = Array::normal(random, cols, dtype, 1, 0, offset),
            dy = Array::normal(random, n, dtype, 1, 0, offset), dsum = Array::normal(random, n, dtype, 1, 0, offset);
      Values v(n), y(n), dx(n), mean(rows), rstd(rows), dw(cols), db(cols);
      Array dw_a = Array::normal(random, cols, DType::kF32), db_a = Array::normal(random, cols, DType::kF32);
      for (int c = 0; c < cols; ++c) dw[c] = dw_a[c], db[c] = db_a[c];
      const double eps = 1e-5;
      for (int64_t i = 0; i < n; ++i) v[i] = add ? round_to(dtype, x[i] + res[i]) : x[i];
      for (int64_t r = 0; r < rows && cols > 0; ++r) {
        const Norm one = norm_row(&v[r * cols], w.start().data(), layer ? b.start().data() : nullptr, &dy.start()[r * cols],
                                  add ? &dsum.start()[r * cols] : nullptr, cols, eps, layer);
        mean[r] = one.mean, rstd[r] = one.rstd;
        for (int c = 0; c < cols; ++c)
          y[r * cols + c] = one.y[c], dx[r * cols + c] = one.dx[c], dw[c] += one.dw[c], db[c] += one.db[c];
      }
      Array sum_a = Array::poison(n, dtype, offset), y_a = Array::poison(n, dtype, offset),
            dx_a = Array::poison(n, dtype, offset), mean_a = Array::poison(rows, DType::kF32),
            rstd_a = Array::poison(rows, DType::kF32);
      Array v_a = Array::of(v, dtype, offset), mean_in = Array::of(mean, DType::kF32), rstd_in = Array::of(rstd, DType::kF32);
      if (layer) {
        LayerNormFwd f{
            x.data(),           add ? res.data() : nullptr, w.data(), b.data(), add ? sum_a.data() : nullptr, y_a.data(),
            mean_a.as<float>(), rstd_a.as<float>(),         rows,     cols,     static_cast<float>(eps),      dtype};
        if (n > 0 && fwd.run(supports_layer_norm_fwd_sm90(f, checker.device()), 0,
                             [&](const Launch& l) { layer_norm_fwd_sm90(f, l); }, {&sum_a, &y_a, &mean_a, &rstd_a}))
          fwd.expect("mean", mean_a, mean, {1e-5, 1e-5});
        LayerNormBwd g{dy.data(),
                       add ? dsum.data() : nullptr,
                       v_a.data(),
                       w.data(),
                       mean_in.as<float>(),
                       rstd_in.as<float>(),
                       dx_a.data(),
                       dw_a.as<float>(),
                       db_a.as<float>(),
                       rows,
                       cols,
                       dtype};
        if (bwd.run(supports_layer_norm_bwd_sm90(g, checker.device()), workspace_layer_norm_bwd_sm90(g),
                    [&](const Launch& l) { layer_norm_bwd_sm90(g, l); }, {&dx_a, &dw_a, &db_a}))
          bwd.expect("db", db_a, db, kSums);
      } else if (add) {
        AddRmsNormFwd f{
            x.data(), res.data(), w.data(), sum_a.data(), y_a.data(), rstd_a.as<float>(), rows, cols, static_cast<float>(eps),
            dtype};
        fwd.run(supports_add_rms_norm_fwd_sm90(f, checker.device()), 0, [&](const Launch& l) { add_rms_norm_fwd_sm90(f, l); },
                {&sum_a, &y_a, &rstd_a});
        AddRmsNormBwd g{dy.data(),   dsum.data(),      v_a.data(), w.data(), rstd_in.as<float>(),
                        dx_a.data(), dw_a.as<float>(), rows,       cols,     dtype};
        bwd.run(supports_add_rms_norm_bwd_sm90(g, checker.device()), workspace_add_rms_norm_bwd_sm90(g),
                [&](const Launch& l) { add_rms_norm_bwd_sm90(g, l); }, {&dx_a, &dw_a});
      } else {
        RmsNormFwd f{x.data(), w.data(), y_a.data(), rstd_a.as<float>(), rows, cols, static_cast<float>(eps), dtype};
        fwd.run(supports_rms_norm_fwd_sm90(f, checker.device()), 0, [&](const Launch& l) { rms_norm_fwd_sm90(f, l); },
                {&y_a, &rstd_a});
        RmsNormBwd g{dy.data(), v_a.data(), w.data(), rstd_in.as<float>(), dx_a.data(), dw_a.as<float>(), rows, cols, dtype};
        bwd.run(supports_rms_norm_bwd_sm90(g, checker.device()), workspace_rms_norm_bwd_sm90(g),
                [&](const Launch& l) { rms_norm_bwd_sm90(g, l); }, {&dx_a, &dw_a});
      }
      const Tolerance one_rounding = rounded(dtype);
      if (n > 0) {
        if (add) fwd.expect("sum", sum_a, v, kExact);
        fwd.expect("rstd", rstd_a, rstd, {3e-6, 0});
      }
      fwd.expect("y", y_a, y, one_rounding);
      bwd.expect("dx", dx_a, dx, one_rounding);
      bwd.expect("dw", dw_a, dw, kSums);
    }
  }
}

void norm_perf(Checker& checker, int64_t rows, int cols) {
  const int64_t n = rows * cols;
  const double tensor = 2.0 * static_cast<double>(n);
  const DType t = DType::kBf16;
  DeviceRandom x(n, t), res(n, t, -1, 1, 2), y(n, t), sum(n, t), w(cols, t), b(cols, t), rstd(rows, DType::kF32, 0.5, 1),
      mean(rows, DType::kF32, 0, 0.1), dw(cols, DType::kF32), db(cols, DType::kF32);
  const std::string s = shape_of(rows, cols);
  if (checker.wants("rms_norm")) {
    RmsNormFwd f{x.data(), w.data(), y.data(), rstd.as<float>(), rows, cols, 1e-5f, t};
    perf(checker, "rms_norm_fwd", s, t, 2 * tensor, 0, [&](const Launch& l) { rms_norm_fwd_sm90(f, l); });
    RmsNormBwd g{x.data(), res.data(), w.data(), rstd.as<float>(), y.data(), dw.as<float>(), rows, cols, t};
    perf(checker, "rms_norm_bwd", s, t, 3 * tensor, workspace_rms_norm_bwd_sm90(g),
         [&](const Launch& l) { rms_norm_bwd_sm90(g, l); });
    AddRmsNormFwd af{x.data(), res.data(), w.data(), sum.data(), y.data(), rstd.as<float>(), rows, cols, 1e-5f, t};
    perf(checker, "add_rms_norm_fwd", s, t, 4 * tensor, 0, [&](const Launch& l) { add_rms_norm_fwd_sm90(af, l); });
    AddRmsNormBwd ag{x.data(), sum.data(), res.data(), w.data(), rstd.as<float>(), y.data(), dw.as<float>(), rows, cols, t};
    perf(checker, "add_rms_norm_bwd", s, t, 4 * tensor, workspace_add_rms_norm_bwd_sm90(ag),
         [&](const Launch& l) { add_rms_norm_bwd_sm90(ag, l); });
  }
  if (checker.wants("layer_norm")) {
    LayerNormFwd f{x.data(),         nullptr,          w.data(), b.data(), nullptr, y.data(),
                   mean.as<float>(), rstd.as<float>(), rows,     cols,     1e-5f,   t};
    perf(checker, "layer_norm_fwd", s, t, 2 * tensor, 0, [&](const Launch& l) { layer_norm_fwd_sm90(f, l); });
    LayerNormBwd g{x.data(),       nullptr, res.data(), w.data(), mean.as<float>(), rstd.as<float>(), y.data(), dw.as<float>(),
                   db.as<float>(), rows,    cols,       t};
    perf(checker, "layer_norm_bwd", s, t, 3 * tensor, workspace_layer_norm_bwd_sm90(g),
         [&](const Launch& l) { layer_norm_bwd_sm90(g, l); });
  }
}

}  // namespace

void check_norms(Checker& checker) {
  if (checker.options().perf) {
    for (auto [rows, cols] : {std::pair<int64_t, int>{32768, 4096}, {32768, 768}, {16384, 7168}, {8192, 16384}, {524288, 128}})
      norm_perf(checker, rows, cols);
    return;
  }
  for (DType t : {DType::kBf16, DType::kF32}) {
    for (auto [rows, cols] : {std::pair<int64_t, int>{0, 64},
                              {1, 3},
                              {3, 7},
                              {5, 8},
                              {33, 64},
                              {70, 128},
                              {9, 264},
                              {5, 768},
                              {17, 1000},
                              {4, 1037},
                              {3, 1048},
                              {6, 2048}})
      norms(checker, rows, cols, t, 0);
    norms(checker, 5, 128, t, 4);
    if (checker.options().small) continue;
    for (auto [rows, cols] :
         {std::pair<int64_t, int>{300, 4096}, {1100, 136}, {40, 7168}, {7, 8200}, {5, 16384}, {3, 20000}, {1100, 24}, {1100, 1032}})
      norms(checker, rows, cols, t, 0);
  }
}

}  // namespace weft::check
