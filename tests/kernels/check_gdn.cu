// Gated delta rule, forward and backward, against the recurrence and its adjoint in fp64.
#include "harness.h"
#include "kernels/gdn/gdn.h"

namespace weft::check {
namespace {

constexpr int D = 128;

void check(const char* label, const std::vector<int>& lengths, int Hk, int Hv, bool with_state, float decay) {
  const std::string name = std::string("gdn ") + label + " ";
  Random random(Hv + lengths.size());
  const auto cu = packed(lengths);
  const size_t T = cu.back(), docs = lengths.size(), state = docs * Hv * D * D;
  auto unit = [&](size_t n) {
    auto v = random.normal<bf16>(n * D);
    for (size_t i = 0; i < n; ++i) {
      double s = 0;
      for (int d = 0; d < D; ++d) s += std::pow(value(v[i * D + d]), 2);
      for (int d = 0; d < D; ++d) v[i * D + d] = __float2bfloat16(value(v[i * D + d]) / static_cast<float>(std::sqrt(s)));
    }
    return v;
  };
  auto q = unit(T * Hk), k = unit(T * Hk);
  auto v = random.normal<bf16>(T * Hv * D);
  auto g = random.fill<float>(T * Hv, [&](Random& r) { return -decay * r.uniform(0, 1); }), beta = random.fill<float>(T * Hv, [](Random& r) { return r.uniform(0.05f, 1); }), h0 = random.normal<float>(state, 0.3f);
  const float scale = 1 / std::sqrt(128.f);
  const auto d_o = random.normal<bf16>(T * Hv * D);
  const auto d_last = random.normal<float>(state, 0.3f);
  using Vec = std::vector<double>;
  Vec o(T * Hv * D), last(state), dq(T * Hk * D), dk(T * Hk * D), dv(T * Hv * D), dg(T * Hv), d_beta(T * Hv), d0(state);
  for (size_t d = 0; d < docs; ++d)
    for (int h = 0; h < Hv; ++h) {
      const size_t row = (d * Hv + h) * D * D;
      std::vector<Vec> before;
      std::vector<Vec> us;
      Vec S(D * D), u(D);
      if (with_state) for (int i = 0; i < D * D; ++i) S[i] = h0[row + i];
      for (int s = 0; s < lengths[d]; ++s) {
        const size_t t = cu[d] + s, key = (t * Hk + h / (Hv / Hk)) * D, val = (t * Hv + h) * D;
        before.push_back(S);
        const double e = std::exp(g[t * Hv + h]);
        for (auto& x : S) x *= e;
        for (int j = 0; j < D; ++j) {
          double p = 0;
          for (int i = 0; i < D; ++i) p += S[i * D + j] * value(k[key + i]);
          u[j] = beta[t * Hv + h] * (value(v[val + j]) - p);
        }
        us.push_back(u);
        for (int i = 0; i < D; ++i)
          for (int j = 0; j < D; ++j) S[i * D + j] += value(k[key + i]) * u[j], o[val + j] += scale * S[i * D + j] * value(q[key + i]);
      }
      std::copy(S.begin(), S.end(), last.begin() + row);
      Vec G(D * D), du(D);
      if (with_state) for (int i = 0; i < D * D; ++i) G[i] = d_last[row + i];
      for (int s = lengths[d] - 1; s >= 0; --s) {
        const size_t t = cu[d] + s, key = (t * Hk + h / (Hv / Hk)) * D, val = (t * Hv + h) * D, gate = t * Hv + h;
        const double e = std::exp(g[gate]), b = beta[gate];
        const Vec &S0 = before[s], &u = us[s];
        std::fill(du.begin(), du.end(), 0.0);
        for (int i = 0; i < D; ++i)
          for (int j = 0; j < D; ++j) {
            const double go = value(d_o[val + j]), ki = value(k[key + i]), now = e * S0[i * D + j] + ki * u[j];
            dq[key + i] += scale * now * go;
            G[i * D + j] += scale * value(q[key + i]) * go;
            du[j] += ki * G[i * D + j], dk[key + i] += G[i * D + j] * u[j];
          }
        for (int j = 0; j < D; ++j) dv[val + j] = b * du[j], d_beta[gate] += du[j] * value(v[val + j]);
        for (int i = 0; i < D; ++i)
          for (int j = 0; j < D; ++j) {
            const double ki = value(k[key + i]), decayed = e * S0[i * D + j];
            dk[key + i] -= b * du[j] * decayed, d_beta[gate] -= du[j] * ki * decayed;
            G[i * D + j] -= b * du[j] * ki;
            dg[gate] += G[i * D + j] * decayed;
            G[i * D + j] *= e;
          }
      }
      std::copy(G.begin(), G.end(), d0.begin() + row);
    }
  const size_t slots = kernels::gdn_state_slots(T, docs) * Hv;
  Buffer<bf16> gq(q), gk(k), gv(v), go(o.size()), saved(slots * D * D), inverses(slots * 64 * 64), gdo(d_o), gdq(dq.size()), gdk(dk.size()), gdv(dv.size());
  Buffer<float> gg(g), gb(beta), gh(h0), gl(state), gdl(d_last), gdg(dg.size()), gdb(dg.size()), gd0(state);
  Buffer<int32_t> gcu(cu);
  kernels::GdnFwd a{gq.data, gk.data, gv.data, gg.data, gb.data, gcu.data, with_state ? gh.data : nullptr, go.data, saved.data, inverses.data, gl.data, static_cast<int64_t>(T), static_cast<int64_t>(docs), Hk, Hv, D, D, scale, DType::kBf16};
  const auto s = kernels::supports_gdn_fwd_sm90(a, device());
  if (!s) return expect(name, false, s.refusal);
  kernels::gdn_fwd_sm90(a, {});
  device_wait("gdn_fwd");
  compare(name + "o", go.host(), o, 2e-2), compare(name + "last", gl.host(), last, 2e-2);
  again(name + "fwd ", [&](const kernels::Launch& l) { kernels::gdn_fwd_sm90(a, l); }, nullptr, {written(go), written(gl)});
  kernels::GdnBwd b{gdo.data, gq.data, gk.data, gv.data, gg.data, gb.data, gcu.data, saved.data, inverses.data, with_state ? gdl.data : nullptr, gdq.data, gdk.data, gdv.data, gdg.data, gdb.data,
                    with_state ? gd0.data : nullptr, a.tokens, a.documents, Hk, Hv, D, D, scale, DType::kBf16};
  const auto sb = kernels::supports_gdn_bwd_sm90(b, device());
  if (!sb) return expect(name, false, sb.refusal);
  Buffer<uint8_t> workspace(kernels::workspace_gdn_bwd_sm90(b));
  kernels::gdn_bwd_sm90(b, {nullptr, workspace.data});
  device_wait("gdn_bwd");
  compare(name + "dq", gdq.host(), dq, 2e-2), compare(name + "dk", gdk.host(), dk, 2e-2), compare(name + "dv", gdv.host(), dv, 2e-2), compare(name + "dg", gdg.host(), dg, 3e-2), compare(name + "d_beta", gdb.host(), d_beta, 2e-2);
  if (with_state) compare(name + "d_initial", gd0.host(), d0, 2e-2);
  again(name + "bwd ", [&](const kernels::Launch& l) { kernels::gdn_bwd_sm90(b, l); }, workspace.data, {written(gdq), written(gdk), written(gdv), written(gdg), written(gdb), written(gd0)});
}

}  // namespace

void check_gdn(bool small) {
  check("one token", {1}, 1, 2, true, 0.1f);
  check("63 0 65", {63, 0, 65}, 1, 1, true, 0.1f);
  check("130, two value heads", {130}, 1, 2, false, 0.02f);
  check("strong decay", {100}, 1, 1, true, 8);
  if (!small) check("long", {700, 64}, 4, 8, true, 0.05f);
}

void perf_gdn() {
  const int Hk = 16, Hv = 32, b = 8, s = 4096;
  const size_t T = static_cast<size_t>(b) * s;
  Random random(2);
  Buffer<bf16> q(random.bulk<bf16>(T * Hk * D, 0.088f)), k(random.bulk<bf16>(T * Hk * D, 0.088f)), v(random.bulk<bf16>(T * Hv * D)), o(T * Hv * D), saved(kernels::gdn_state_slots(T, b) * Hv * D * D);
  Buffer<float> g(std::vector<float>(T * Hv, -0.05f)), beta(std::vector<float>(T * Hv, 0.5f));
  Buffer<int32_t> cu(packed(std::vector<int>(b, s)));
  const size_t slots = kernels::gdn_state_slots(T, b) * Hv;
  Buffer<bf16> inverses(slots * 64 * 64), d_o(random.bulk<bf16>(T * Hv * D)), dq(T * Hk * D), dk(T * Hk * D), dv(T * Hv * D);
  Buffer<float> dg(T * Hv), d_beta(T * Hv);
  kernels::GdnFwd a{q.data, k.data, v.data, g.data, beta.data, cu.data, nullptr, o.data, nullptr, nullptr, nullptr, static_cast<int64_t>(T), b, Hk, Hv, D, D, 0.088f, DType::kBf16};
  const double work = T / 64.0 * Hv * 9.5e6, bytes = 2.0 * T * D * (2 * Hk + 2 * Hv);
  report("gdn fwd b8 s4096 H32 d128", time_ms([&] { kernels::gdn_fwd_sm90(a, {}); }), 0.8, bytes, work);
  a.states = saved.data, a.inverses = inverses.data;
  report("gdn fwd, states saved b8 s4096 H32 d128", time_ms([&] { kernels::gdn_fwd_sm90(a, {}); }), 0.8, bytes + T / 64.0 * Hv * D * D * 2, work);
  kernels::GdnBwd g2{d_o.data, q.data, k.data, v.data, g.data, beta.data, cu.data, saved.data, inverses.data, nullptr, dq.data, dk.data, dv.data, dg.data, d_beta.data, nullptr, a.tokens, b, Hk, Hv, D, D, 0.088f, DType::kBf16};
  Buffer<uint8_t> workspace(kernels::workspace_gdn_bwd_sm90(g2));
  report("gdn bwd b8 s4096 H32 d128", time_ms([&] { kernels::gdn_bwd_sm90(g2, {nullptr, workspace.data}); }), 2.2, 2.5 * bytes + T / 64.0 * Hv * D * D * 6, 2.9 * work);
  device_wait("gdn perf");
}

}  // namespace weft::check
