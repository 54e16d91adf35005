#include <cmath>

#include "check.h"
#include "kernels/mhc/mhc_layer.h"
#include "kernels/mhc/mhc_mix.h"

namespace weft::check {
namespace {

using namespace kernels;
using Values = std::vector<double>;

double sigma(double x) { return 1 / (1 + std::exp(-x)); }

Values sinkhorn(const double* logits, int n, int iterations, double eps) {
  Values m(n * n);
  for (int i = 0; i < n; ++i) {
    double top = logits[i * n], sum = 0;
    for (int j = 1; j < n; ++j) top = std::max(top, logits[i * n + j]);
    for (int j = 0; j < n; ++j) sum += m[i * n + j] = std::exp(logits[i * n + j] - top);
    for (int j = 0; j < n; ++j) m[i * n + j] = m[i * n + j] / sum + eps;
  }
  auto lines = [&](int step, int stride) {
    for (int l = 0; l < n; ++l) {
      double sum = eps;
      for (int i = 0; i < n; ++i) sum += m[l * step + i * stride];
      for (int i = 0; i < n; ++i) m[l * step + i * stride] /= sum;
    }
  };
  lines(1, n);
  for (int k = 1; k < iterations; ++k) lines(n, 1), lines(1, n);
  return m;
}

void matrices(Checker& checker, int64_t tokens, int n, int iterations, double scale) {
  const std::string shape = std::to_string(tokens) + "x" + std::to_string(n) + "/iterations" + std::to_string(iterations) +
                            "/scale" + std::to_string(static_cast<int>(scale));
  Case fwd(checker, "mhc_sinkhorn_fwd", shape, DType::kF32), bwd(checker, "mhc_sinkhorn_bwd", shape, DType::kF32);
  Random random(tokens + n);
  const int nn = n * n;
  const double eps = static_cast<double>(1e-6f);
  Array z = Array::normal(random, tokens * nn, DType::kF32, scale), g = Array::normal(random, tokens * nn, DType::kF32),
        h_a = Array::poison(tokens * nn, DType::kF32), dz_a = Array::poison(tokens * nn, DType::kF32);
  Values h, dz(tokens * nn);
  for (int64_t t = 0; t < tokens; ++t) {
    const Values m = sinkhorn(&z.start()[t * nn], n, iterations, eps);
    h.insert(h.end(), m.begin(), m.end());
    for (int e = 0; e < nn; ++e) {
      auto loss = [&](double d) {
        Values v(z.start().begin() + t * nn, z.start().begin() + (t + 1) * nn);
        v[e] += d;
        const Values q = sinkhorn(v.data(), n, iterations, eps);
        double sum = 0;
        for (int i = 0; i < nn; ++i) sum += q[i] * g[t * nn + i];
        return sum;
      };
      const double s = 1e-3;
      dz[t * nn + e] = (8 * (loss(s) - loss(-s)) - (loss(2 * s) - loss(-2 * s))) / (12 * s);
    }
  }
  MhcSinkhornFwd f{z.as<float>(), h_a.as<float>(), tokens, n, iterations, 1e-6f};
  if (fwd.run(supports_mhc_sinkhorn_fwd_sm90(f, checker.device()), 0, [&](const Launch& l) { mhc_sinkhorn_fwd_sm90(f, l); },
              {&h_a}))
    fwd.expect("h", h_a, h, {3e-6, 2e-6});
  MhcSinkhornBwd b{g.as<float>(), z.as<float>(), dz_a.as<float>(), tokens, n, iterations, 1e-6f};
  if (bwd.run(supports_mhc_sinkhorn_bwd_sm90(b, checker.device()), 0, [&](const Launch& l) { mhc_sinkhorn_bwd_sm90(b, l); },
              {&dz_a}))
    bwd.expect("dlogits", dz_a, dz, {2e-5, 2e-5});
}

void mixing(Checker& checker, int64_t tokens, int n, int dim, bool transposed, bool bias, DType t) {
  const std::string shape = std::to_string(tokens) + "x" + std::to_string(n) + "x" + std::to_string(dim) +
                            (transposed ? "/transposed" : "") + (bias ? "/bias" : "");
  Case af(checker, "mhc_aggregate_fwd", shape, t), ab(checker, "mhc_aggregate_bwd", shape, t),
      pf(checker, "mhc_post_fwd", shape, t), pb(checker, "mhc_post_bwd", shape, t);
  for (int seed = 1; seed <= (checker.options().small ? 1 : 3); ++seed) {
    Random random(seed);
    const int64_t wide = tokens * n * dim, thin = tokens * dim;
    Array x = Array::normal(random, wide, t), hp = Array::normal(random, tokens * n, DType::kF32),
          du = Array::normal(random, thin, t), in = Array::normal(random, wide, t), f = Array::normal(random, thin, t),
          b = Array::normal(random, dim, t), H = Array::normal(random, tokens * n * n, DType::kF32),
          p = Array::normal(random, tokens * n, DType::kF32), g = Array::normal(random, wide, t),
          db_a = Array::normal(random, dim, DType::kF32);
    Values u(thin), dxa(wide), dh(tokens * n), y(wide), dxp(wide), df(thin), dH(tokens * n * n), dp(tokens * n),
        db = db_a.start();
    for (int64_t k = 0; k < tokens; ++k)
      for (int c = 0; c < dim; ++c) {
        const double fb = f[k * dim + c] + (bias ? b[c] : 0), d = du[k * dim + c];
        for (int j = 0; j < n; ++j) {
          const int64_t at = (k * n + j) * dim + c;
          u[k * dim + c] += hp[k * n + j] * x[at];
          dxa[at] = hp[k * n + j] * d + (bias ? in[at] : 0), dh[k * n + j] += d * x[at];
          y[at] += p[k * n + j] * fb, df[k * dim + c] += p[k * n + j] * g[at], dp[k * n + j] += g[at] * fb;
          for (int i = 0; i < n; ++i) {
            const int64_t e = (k * n + (transposed ? i : j)) * n + (transposed ? j : i), other = (k * n + i) * dim + c;
            y[at] += H[e] * x[other], dxp[other] += H[e] * g[at], dH[e] += g[at] * x[other];
          }
        }
        db[c] += df[k * dim + c];
      }
    Array u_a = Array::poison(thin, t), dxa_a = Array::poison(wide, t), dh_a = Array::poison(tokens * n, DType::kF32),
          y_a = Array::poison(wide, t), dxp_a = Array::poison(wide, t), df_a = Array::poison(thin, t),
          dH_a = Array::poison(tokens * n * n, DType::kF32), dp_a = Array::poison(tokens * n, DType::kF32);
    MhcAggregateFwd a1{x.data(), hp.as<float>(), u_a.data(), tokens, n, dim, t};
    if (af.run(supports_mhc_aggregate_fwd_sm90(a1, checker.device()), 0, [&](const Launch& l) { mhc_aggregate_fwd_sm90(a1, l); },
               {&u_a}))
      af.expect("u", u_a, u, rounded(t));
    MhcAggregateBwd a2{du.data(), x.data(), hp.as<float>(), bias ? in.data() : nullptr, dxa_a.data(), dh_a.as<float>(), tokens, n,
                       dim,       t};
    if (ab.run(supports_mhc_aggregate_bwd_sm90(a2, checker.device()), 0, [&](const Launch& l) { mhc_aggregate_bwd_sm90(a2, l); },
               {&dxa_a, &dh_a}))
      ab.expect("dx", dxa_a, dxa, rounded(t)), ab.expect("dh", dh_a, dh, kSums);
    if (!bias) {  // the gradient of the streams is somebody else's
      Case no_dx(checker, "mhc_bwd_without_dx", shape, t);
      Array dh2 = Array::poison(tokens * n, DType::kF32), df2 = Array::poison(thin, t), dH2 = Array::poison(tokens * n * n, DType::kF32),
            dp2 = Array::poison(tokens * n, DType::kF32);
      MhcAggregateBwd a3{du.data(), x.data(), hp.as<float>(), nullptr, nullptr, dh2.as<float>(), tokens, n, dim, t};
      MhcPostBwd p3{g.data(), x.data(), f.data(), nullptr, H.as<float>(), p.as<float>(), nullptr, df2.data(), dH2.as<float>(), dp2.as<float>(), nullptr, tokens, n, dim, transposed, t};
      if (no_dx.run(supports_mhc_post_bwd_sm90(p3, checker.device()), workspace_mhc_post_bwd_sm90(p3),
                    [&](const Launch& l) { mhc_aggregate_bwd_sm90(a3, l), mhc_post_bwd_sm90(p3, l); }, {&dh2, &df2, &dH2, &dp2}))
        no_dx.expect("dh of aggregate", dh2, dh, kSums), no_dx.expect("df", df2, df, rounded(t)), no_dx.expect("dh", dH2, dH, kSums), no_dx.expect("dp", dp2, dp, kSums);
    }
    MhcPostFwd p1{x.data(),   f.data(), bias ? b.data() : nullptr, H.as<float>(), p.as<float>(), y_a.data(), tokens, n, dim,
                  transposed, t};
    if (pf.run(supports_mhc_post_fwd_sm90(p1, checker.device()), 0, [&](const Launch& l) { mhc_post_fwd_sm90(p1, l); }, {&y_a}))
      pf.expect("y", y_a, y, rounded(t));
    MhcPostBwd p2{g.data(),
                  x.data(),
                  f.data(),
                  p1.bias,
                  H.as<float>(),
                  p.as<float>(),
                  dxp_a.data(),
                  df_a.data(),
                  dH_a.as<float>(),
                  dp_a.as<float>(),
                  bias ? db_a.as<float>() : nullptr,
                  tokens,
                  n,
                  dim,
                  transposed,
                  t};
    if (pb.run(supports_mhc_post_bwd_sm90(p2, checker.device()), workspace_mhc_post_bwd_sm90(p2),
               [&](const Launch& l) { mhc_post_bwd_sm90(p2, l); }, {&dxp_a, &df_a, &dH_a, &dp_a, &db_a})) {
      pb.expect("dx", dxp_a, dxp, rounded(t)), pb.expect("df", df_a, df, rounded(t)), pb.expect("dh", dH_a, dH, kSums),
          pb.expect("dp", dp_a, dp, kSums);
      if (bias) pb.expect("dbias", db_a, db, kSums);
    }
  }
}

void mapping(Checker& checker, int64_t tokens, int n, int k, DType t) {
  const int outs = n * n + 2 * n;
  const std::string shape = std::to_string(tokens) + "x" + std::to_string(k) + "/n" + std::to_string(n);
  Case pf(checker, "mhc_project_fwd", shape, t), pb(checker, "mhc_project_bwd", shape, t),
      mf(checker, "mhc_map_fwd", shape, DType::kF32), mb(checker, "mhc_map_bwd", shape, DType::kF32);
  for (int seed = 1; seed <= (checker.options().small ? 1 : 3); ++seed) {
    Random random(seed);
    const double eps = static_cast<double>(1e-6f);
    Array x = Array::normal(random, tokens * k, t), w = Array::normal(random, static_cast<int64_t>(outs) * k, DType::kF32, 0.05),
          dproj = Array::normal(random, tokens * outs, DType::kF32), dr = Array::normal(random, tokens, DType::kF32),
          in = Array::normal(random, tokens * k, t), dw_a = Array::normal(random, static_cast<int64_t>(outs) * k, DType::kF32);
    Values proj(tokens * outs), norm(tokens), r(tokens), dx(tokens * k), dw = dw_a.start();
    for (int64_t i = 0; i < tokens; ++i) {
      for (int c = 0; c < k; ++c) norm[i] += x[i * k + c] * x[i * k + c];
      norm[i] = std::sqrt(norm[i]), r[i] = 1 / (norm[i] / std::sqrt(k) + eps);
      for (int c = 0; c < k; ++c) dx[i * k + c] = in[i * k + c] - dr[i] * r[i] * r[i] * x[i * k + c] / (std::sqrt(k) * norm[i]);
      for (int o = 0; o < outs; ++o)
        for (int c = 0; c < k; ++c) {
          proj[i * outs + o] += x[i * k + c] * w[static_cast<int64_t>(o) * k + c];
          dx[i * k + c] += dproj[i * outs + o] * w[static_cast<int64_t>(o) * k + c],
              dw[static_cast<int64_t>(o) * k + c] += dproj[i * outs + o] * x[i * k + c];
        }
    }
    Array proj_a = Array::poison(tokens * outs, DType::kF32), norm_a = Array::poison(tokens, DType::kF32),
          r_a = Array::poison(tokens, DType::kF32), dx_a = Array::poison(tokens * k, t), norm_in = Array::of(norm, DType::kF32),
          r_in = Array::of(r, DType::kF32), proj_in = Array::of(proj, DType::kF32);
    MhcProjectFwd f{x.data(), w.as<float>(), proj_a.as<float>(), norm_a.as<float>(), r_a.as<float>(), tokens, k, outs, 1e-6f, t};
    if (pf.run(supports_mhc_project_fwd_sm90(f, checker.device()), workspace_mhc_project_fwd_sm90(f),
               [&](const Launch& l) { mhc_project_fwd_sm90(f, l); }, {&proj_a, &norm_a, &r_a}))
      pf.expect("proj", proj_a, proj, {1e-5, 3e-5}), pf.expect("norm", norm_a, norm, {5e-6, 0}),
          pf.expect("r", r_a, r, {5e-6, 0});
    MhcProjectBwd b{x.data(),
                    w.as<float>(),
                    norm_in.as<float>(),
                    r_in.as<float>(),
                    dproj.as<float>(),
                    dr.as<float>(),
                    in.data(),
                    dx_a.data(),
                    dw_a.as<float>(),
                    tokens,
                    k,
                    outs,
                    t};
    if (pb.run(supports_mhc_project_bwd_sm90(b, checker.device()), workspace_mhc_project_bwd_sm90(b),
               [&](const Launch& l) { mhc_project_bwd_sm90(b, l); }, {&dx_a, &dw_a}))
      pb.expect("dx", dx_a, dx, rounded(t)), pb.expect("dw", dw_a, dw, kSums);
    // The mapping.
    Array alpha = Array::normal(random, 3, DType::kF32), bias = Array::normal(random, outs, DType::kF32),
          dpre = Array::normal(random, tokens * n, DType::kF32), dpost = Array::normal(random, tokens * n, DType::kF32),
          dres = Array::normal(random, tokens * n * n, DType::kF32), dalpha_a = Array::normal(random, 3, DType::kF32),
          dbias_a = Array::normal(random, outs, DType::kF32), pre_a = Array::poison(tokens * n, DType::kF32),
          post_a = Array::poison(tokens * n, DType::kF32), res_a = Array::poison(tokens * n * n, DType::kF32),
          dp_a = Array::poison(tokens * outs, DType::kF32), dr_a = Array::poison(tokens, DType::kF32);
    Values pre(tokens * n), post(tokens * n), res(tokens * n * n), dp(tokens * outs), drr(tokens), dalpha = dalpha_a.start(),
                                                                                                   dbias = dbias_a.start();
    for (int64_t i = 0; i < tokens; ++i)
      for (int o = 0; o < outs; ++o) {
        const int part = o < n ? 0 : o < 2 * n ? 1 : 2;
        const double pv = proj_in[i * outs + o], h = r_in[i] * pv * alpha[part] + bias[o], s = sigma(h);
        double d;
        if (part == 0)
          pre[i * n + o] = s + eps, d = dpre[i * n + o] * s * (1 - s);
        else if (part == 1)
          post[i * n + o - n] = 2 * s, d = 2 * dpost[i * n + o - n] * s * (1 - s);
        else
          res[i * n * n + o - 2 * n] = h, d = dres[i * n * n + o - 2 * n];
        dp[i * outs + o] = d * r_in[i] * alpha[part], drr[i] += d * alpha[part] * pv, dalpha[part] += d * r_in[i] * pv,
                      dbias[o] += d;
      }
    MhcMapFwd m{proj_in.as<float>(),
                r_in.as<float>(),
                alpha.as<float>(),
                bias.as<float>(),
                pre_a.as<float>(),
                post_a.as<float>(),
                res_a.as<float>(),
                tokens,
                n,
                1e-6f};
    if (mf.run(supports_mhc_map_fwd_sm90(m, checker.device()), 0, [&](const Launch& l) { mhc_map_fwd_sm90(m, l); },
               {&pre_a, &post_a, &res_a}))
      mf.expect("pre", pre_a, pre, {3e-6, 1e-6}), mf.expect("post", post_a, post, {3e-6, 1e-6}),
          mf.expect("res", res_a, res, {3e-6, 3e-6});
    MhcMapBwd q{proj_in.as<float>(),
                r_in.as<float>(),
                alpha.as<float>(),
                bias.as<float>(),
                dpre.as<float>(),
                dpost.as<float>(),
                dres.as<float>(),
                dp_a.as<float>(),
                dr_a.as<float>(),
                dalpha_a.as<float>(),
                dbias_a.as<float>(),
                tokens,
                n};
    if (mb.run(supports_mhc_map_bwd_sm90(q, checker.device()), workspace_mhc_map_bwd_sm90(q),
               [&](const Launch& l) { mhc_map_bwd_sm90(q, l); }, {&dp_a, &dr_a, &dalpha_a, &dbias_a}))
      mb.expect("dproj", dp_a, dp, kSums), mb.expect("dr", dr_a, drr, kSums), mb.expect("dalpha", dalpha_a, dalpha, kSums),
          mb.expect("dbias", dbias_a, dbias, kSums);
  }
}

// Across a layer's edge: all of the streams' gradient.
void layers(Checker& checker, int64_t tokens, int n, int dim, bool transposed, DType t) {
  const int k = n * dim, outs = n * n + 2 * n;
  const std::string shape = std::to_string(tokens) + "x" + std::to_string(n) + "x" + std::to_string(dim) + (transposed ? "/transposed" : "");
  for (int seed = 1; seed <= (checker.options().small ? 1 : 3); ++seed) {
    Random random(seed);
    Array x = Array::normal(random, tokens * k, t), H = Array::normal(random, tokens * n * n, DType::kF32),
          w = Array::normal(random, static_cast<int64_t>(outs) * k, DType::kF32, 0.05);
    const auto mixing = [&](int64_t token, int i, int j) { return H[(token * n + (transposed ? j : i)) * n + (transposed ? i : j)]; };
    Case bwd(checker, "mhc_layer_bwd", shape, t);
    Array g = Array::normal(random, tokens * k, t), du = Array::normal(random, tokens * dim, t), pre = Array::normal(random, tokens * n, DType::kF32),
          dproj = Array::normal(random, tokens * outs, DType::kF32), dr = Array::normal(random, tokens, DType::kF32), dx_a = Array::poison(tokens * k, t),
          dw_a = Array::normal(random, static_cast<int64_t>(outs) * k, DType::kF32);
    Values norm(tokens), r(tokens), dx(tokens * k), dw = dw_a.start();
    for (int64_t token = 0; token < tokens; ++token) {
      for (int c = 0; c < k; ++c) norm[token] += x[token * k + c] * x[token * k + c];
      norm[token] = std::sqrt(norm[token]), r[token] = 1 / (norm[token] / std::sqrt(k) + 1e-6);
      for (int at = 0; at < k; ++at) {
        const int j = at / dim, c = at % dim;
        double& d = dx[token * k + at];
        d = pre[token * n + j] * du[token * dim + c] - dr[token] * r[token] * r[token] * x[token * k + at] / (std::sqrt(k) * norm[token]);
        for (int i = 0; i < n; ++i) d += mixing(token, i, j) * g[(token * n + i) * dim + c];
        for (int o = 0; o < outs; ++o)
          d += dproj[token * outs + o] * w[static_cast<int64_t>(o) * k + at], dw[static_cast<int64_t>(o) * k + at] += dproj[token * outs + o] * x[token * k + at];
      }
    }
    Array norm_in = Array::of(norm, DType::kF32), r_in = Array::of(r, DType::kF32);
    const MhcLayerBwd back{{x.data(), w.as<float>(), norm_in.as<float>(), r_in.as<float>(), dproj.as<float>(), dr.as<float>(), nullptr, dx_a.data(), dw_a.as<float>(), tokens, k, outs, t},
                           g.data(), du.data(), H.as<float>(), pre.as<float>(), n, dim, transposed};
    if (bwd.run(supports_mhc_layer_bwd_sm90(back, checker.device()), workspace_mhc_layer_bwd_sm90(back), [&](const Launch& l) { mhc_layer_bwd_sm90(back, l); }, {&dx_a, &dw_a}))
      bwd.expect("dx", dx_a, dx, rounded(t)), bwd.expect("dw", dw_a, dw, kSums);
  }
}

void perfs(Checker& checker) {
  const DType t = DType::kBf16;
  const int64_t tokens = 32768;
  const int n = 4, dim = 7168, k = n * dim, outs = 24;
  const double wide = 2.0 * tokens * k, thin = 2.0 * tokens * dim;
  DeviceRandom x(tokens * k, t), g(tokens * k, t, -1, 1, 2), y(tokens * k, t), f(tokens * dim, t), u(tokens * dim, t),
      h(tokens * 16, DType::kF32), p(tokens * 4, DType::kF32), dh(tokens * 16, DType::kF32), dp(tokens * 4, DType::kF32),
      w(static_cast<int64_t>(outs) * k, DType::kF32), dw(static_cast<int64_t>(outs) * k, DType::kF32),
      proj(tokens * outs, DType::kF32), norm(tokens, DType::kF32, 90, 100), r(tokens, DType::kF32, 1, 2), dr(tokens, DType::kF32);
  const std::string s = "32768x4x7168";
  MhcSinkhornFwd s1{h.as<float>(), dh.as<float>(), tokens, n, 20, 1e-6f};
  perf(checker, "mhc_sinkhorn_fwd", "32768x4", DType::kF32, tokens * 128.0, 0,
       [&](const Launch& l) { mhc_sinkhorn_fwd_sm90(s1, l); });
  MhcSinkhornBwd s2{dh.as<float>(), h.as<float>(), dh.as<float>(), tokens, n, 20, 1e-6f};
  perf(checker, "mhc_sinkhorn_bwd", "32768x4", DType::kF32, tokens * 192.0, 0,
       [&](const Launch& l) { mhc_sinkhorn_bwd_sm90(s2, l); });
  MhcAggregateFwd a1{x.data(), p.as<float>(), u.data(), tokens, n, dim, t};
  perf(checker, "mhc_aggregate_fwd", s, t, wide + thin, 0, [&](const Launch& l) { mhc_aggregate_fwd_sm90(a1, l); });
  MhcAggregateBwd a2{u.data(), x.data(), p.as<float>(), nullptr, y.data(), dp.as<float>(), tokens, n, dim, t};
  perf(checker, "mhc_aggregate_bwd", s, t, 2 * wide + thin, 0, [&](const Launch& l) { mhc_aggregate_bwd_sm90(a2, l); });
  MhcPostFwd p1{x.data(), f.data(), nullptr, h.as<float>(), p.as<float>(), y.data(), tokens, n, dim, false, t};
  perf(checker, "mhc_post_fwd", s, t, 2 * wide + thin, 0, [&](const Launch& l) { mhc_post_fwd_sm90(p1, l); });
  MhcPostBwd p2{g.data(),       x.data(), f.data(), nullptr, h.as<float>(), p.as<float>(), y.data(), u.data(), dh.as<float>(),
                dp.as<float>(), nullptr,  tokens,   n,       dim,           false,         t};
  perf(checker, "mhc_post_bwd", s, t, 3 * wide + 2 * thin, workspace_mhc_post_bwd_sm90(p2),
       [&](const Launch& l) { mhc_post_bwd_sm90(p2, l); });
  MhcProjectFwd j1{x.data(), w.as<float>(), proj.as<float>(), norm.as<float>(), r.as<float>(), tokens, k, outs, 1e-6f, t};
  perf(
      checker, "mhc_project_fwd", s, t, wide, workspace_mhc_project_fwd_sm90(j1),
      [&](const Launch& l) { mhc_project_fwd_sm90(j1, l); }, 2.0 * tokens * k * outs);
  MhcProjectBwd j2{x.data(),
                   w.as<float>(),
                   norm.as<float>(),
                   r.as<float>(),
                   proj.as<float>(),
                   dr.as<float>(),
                   nullptr,
                   y.data(),
                   dw.as<float>(),
                   tokens,
                   k,
                   outs,
                   t};
  perf(
      checker, "mhc_project_bwd", s, t, 2 * wide, workspace_mhc_project_bwd_sm90(j2),
      [&](const Launch& l) { mhc_project_bwd_sm90(j2, l); }, 4.0 * tokens * k * outs);
  MhcLayerBwd l2{j2, g.data(), u.data(), h.as<float>(), p.as<float>(), n, dim, false};
  perf(
      checker, "mhc_layer_bwd", s, t, 3 * wide + thin, workspace_mhc_layer_bwd_sm90(l2), [&](const Launch& l) { mhc_layer_bwd_sm90(l2, l); },
      4.0 * tokens * k * outs);
  MhcAggregateBwd a3 = a2;
  a3.dx = nullptr;
  perf(checker, "mhc_aggregate_bwd_without_dx", s, t, wide + thin, 0, [&](const Launch& l) { mhc_aggregate_bwd_sm90(a3, l); });
  MhcPostBwd p3 = p2;
  p3.dx = nullptr;
  perf(checker, "mhc_post_bwd_without_dx", s, t, 2 * wide + 2 * thin, workspace_mhc_post_bwd_sm90(p3), [&](const Launch& l) { mhc_post_bwd_sm90(p3, l); });
}

}  // namespace

void check_mhc(Checker& checker) {
  if (!checker.wants("mhc") && checker.options().filter.rfind("mhc", 0) != 0) return;
  if (checker.options().perf) return perfs(checker);
  for (int n : {2, 4}) {
    for (double scale : {1.0, 100.0}) matrices(checker, 37, n, 20, scale);
    matrices(checker, 1, n, 1, 1), matrices(checker, 0, n, 20, 1);
  }
  for (DType t : {DType::kBf16, DType::kF32})
    for (int n : {2, 4}) {
      mixing(checker, 5, n, 40, false, true, t), mixing(checker, 3, n, 13, true, true, t),
          mixing(checker, 0, n, 8, false, false, t), mixing(checker, 2, n, 2104, true, false, t);
      mapping(checker, 37, n, n * 24, t), mapping(checker, 1, n, n * 5, t), mapping(checker, 0, n, n * 8, t),
          mapping(checker, 130, n, n * 160, t);
      layers(checker, 19, n, 64, false, t), layers(checker, 130, n, 128, true, t), layers(checker, 1, n, 32, true, t), layers(checker, 3, n, 13, false, t), layers(checker, 0, n, 64, false, t);
    }
}

}  // namespace weft::check
