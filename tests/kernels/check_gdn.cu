// Gated delta rule against the recurrence in fp64.
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
  std::vector<double> o(T * Hv * D), last(state);
  for (size_t d = 0; d < docs; ++d)
    for (int h = 0; h < Hv; ++h) {
      const size_t row = (d * Hv + h) * D * D;
      std::vector<double> S(D * D), u(D);
      if (with_state) for (int i = 0; i < D * D; ++i) S[i] = h0[row + i];
      for (int s = 0; s < lengths[d]; ++s) {
        const size_t t = cu[d] + s, key = (t * Hk + h / (Hv / Hk)) * D, val = (t * Hv + h) * D;
        const double e = std::exp(g[t * Hv + h]);
        for (auto& x : S) x *= e;
        for (int j = 0; j < D; ++j) {
          double p = 0;
          for (int i = 0; i < D; ++i) p += S[i * D + j] * value(k[key + i]);
          u[j] = beta[t * Hv + h] * (value(v[val + j]) - p);
        }
        for (int i = 0; i < D; ++i)
          for (int j = 0; j < D; ++j) S[i * D + j] += value(k[key + i]) * u[j], o[val + j] += scale * S[i * D + j] * value(q[key + i]);
      }
      std::copy(S.begin(), S.end(), last.begin() + row);
    }
  Buffer<bf16> gq(q), gk(k), gv(v), go(o.size()), saved(kernels::gdn_state_slots(T, docs) * Hv * D * D);
  Buffer<float> gg(g), gb(beta), gh(h0), gl(state);
  Buffer<int32_t> gcu(cu);
  kernels::GdnFwd a{gq.data, gk.data, gv.data, gg.data, gb.data, gcu.data, with_state ? gh.data : nullptr, go.data, saved.data, gl.data, static_cast<int64_t>(T), static_cast<int64_t>(docs), Hk, Hv, D, D, scale, DType::kBf16};
  const auto s = kernels::supports_gdn_fwd_sm90(a, device());
  if (!s) return expect(name, false, s.refusal);
  kernels::gdn_fwd_sm90(a, {});
  device_wait("gdn_fwd");
  compare(name + "o", go.host(), o, 2e-2), compare(name + "last", gl.host(), last, 2e-2);
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
  kernels::GdnFwd a{q.data, k.data, v.data, g.data, beta.data, cu.data, nullptr, o.data, nullptr, nullptr, static_cast<int64_t>(T), b, Hk, Hv, D, D, 0.088f, DType::kBf16};
  const double work = T / 64.0 * Hv * 9.5e6, bytes = 2.0 * T * D * (2 * Hk + 2 * Hv);
  report("gdn fwd b8 s4096 H32 d128", time_ms([&] { kernels::gdn_fwd_sm90(a, {}); }), 0.8, bytes, work);
  a.states = saved.data;
  report("gdn fwd, states saved b8 s4096 H32 d128", time_ms([&] { kernels::gdn_fwd_sm90(a, {}); }), 0.8, bytes + T / 64.0 * Hv * D * D * 2, work);
  device_wait("gdn perf");
}

}  // namespace weft::check
