// M2RNN against the recurrence and its adjoint in fp64.
#include "harness.h"
#include "kernels/m2rnn/m2rnn.h"

namespace weft::check {
namespace {

constexpr int K = 64, V = 16;
using Vec = std::vector<double>;

void check(const char* label, const std::vector<int>& lengths, int H, bool with_state) {
  const std::string name = std::string("m2rnn ") + label + " ";
  Random random(H + lengths.size());
  const auto cu = packed(lengths);
  const size_t T = cu.back(), docs = lengths.size(), width = 2 * K + H * V + 8, state = docs * H * K * V;
  auto qkv = random.normal<bf16>(T * width, 0.5f), dy = random.normal<bf16>(T * H * V);
  auto f = random.fill<float>(T * H, [](Random& r) { return r.uniform(0.3f, 0.999f); }), W = random.normal<float>(H * V * V, 0.12f), D = random.normal<float>(H * V), h0 = random.normal<float>(state, 0.5f),
       d_last = random.normal<float>(state, 0.3f);
  Vec y(T * H * V), last(state), dq(T * K), dk(T * K), dv(T * H * V), df(T * H), dW(H * V * V), dD(H * V), d0(state);
  auto in = [&](size_t t, size_t at) { return static_cast<double>(value(qkv[t * width + at])); };
  for (size_t d = 0; d < docs; ++d)
    for (int h = 0; h < H; ++h) {
      const int len = lengths[d];
      const size_t row = (d * H + h) * K * V;
      std::vector<Vec> hs(len + 1, Vec(K * V)), cs(len, Vec(K * V));
      if (with_state) for (int i = 0; i < K * V; ++i) hs[0][i] = h0[row + i];
      for (int s = 0; s < len; ++s) {
        const size_t t = cu[d] + s;
        const double ft = f[t * H + h];
        for (int i = 0; i < K; ++i)
          for (int j = 0; j < V; ++j) {
            double u = in(t, K + i) * in(t, 2 * K + h * V + j);
            for (int l = 0; l < V; ++l) u += hs[s][i * V + l] * W[(h * V + l) * V + j];
            cs[s][i * V + j] = std::tanh(u);
            hs[s + 1][i * V + j] = ft * hs[s][i * V + j] + (1 - ft) * cs[s][i * V + j];
            y[(t * H + h) * V + j] += in(t, i) * hs[s + 1][i * V + j];
          }
        for (int j = 0; j < V; ++j) y[(t * H + h) * V + j] += D[h * V + j] * in(t, 2 * K + h * V + j);
      }
      for (int i = 0; i < K * V; ++i) last[row + i] = hs[len][i];
      Vec G(K * V), Z(K * V);
      if (with_state) for (int i = 0; i < K * V; ++i) G[i] = d_last[row + i];
      for (int s = len - 1; s >= 0; --s) {
        const size_t t = cu[d] + s;
        const double ft = f[t * H + h];
        for (int j = 0; j < V; ++j) {
          const double g = value(dy[(t * H + h) * V + j]), v = in(t, 2 * K + h * V + j);
          dv[(t * H + h) * V + j] += D[h * V + j] * g, dD[h * V + j] += g * v;
          for (int i = 0; i < K; ++i) {
            const int e = i * V + j;
            G[e] += in(t, i) * g, dq[t * K + i] += hs[s + 1][e] * g;
            df[t * H + h] += G[e] * (hs[s][e] - cs[s][e]);
            Z[e] = (1 - ft) * G[e] * (1 - cs[s][e] * cs[s][e]);
            dk[t * K + i] += Z[e] * v, dv[(t * H + h) * V + j] += Z[e] * in(t, K + i);
          }
        }
        for (int i = 0; i < K; ++i)
          for (int l = 0; l < V; ++l) {
            double g = ft * G[i * V + l];
            for (int j = 0; j < V; ++j) g += Z[i * V + j] * W[(h * V + l) * V + j], dW[(h * V + l) * V + j] += hs[s][i * V + l] * Z[i * V + j];
            G[i * V + l] = g;
          }
      }
      for (int i = 0; i < K * V; ++i) d0[row + i] = G[i];
    }
  Buffer<bf16> g_in(qkv), g_dy(dy), gy(T * H * V), gdq(T * K), gdk(T * K), gdv(T * H * V);
  Buffer<float> gf(f), gW(W), gD(D), gh(h0), gdl(d_last), glast(state), saved(kernels::m2rnn_state_slots(T, docs) * H * K * V), gdf(T * H), gdW(H * V * V), gdD(H * V), gd0(state);
  Buffer<int32_t> gcu(cu);
  const int64_t n = static_cast<int64_t>(T), w = static_cast<int64_t>(width), nd = static_cast<int64_t>(docs);
  kernels::M2rnnFwd a{g_in.data, g_in.data + K, g_in.data + 2 * K, gf.data, gW.data, gD.data, gcu.data, with_state ? gh.data : nullptr, gy.data, saved.data, glast.data, n, nd, w, w, w, H, K, V, DType::kBf16};
  const auto s = kernels::supports_m2rnn_fwd_sm90(a, device());
  if (!s) return expect(name, false, s.refusal);
  kernels::m2rnn_fwd_sm90(a, {});
  device_wait("m2rnn_fwd");
  compare(name + "y", gy.host(), y), compare(name + "last", glast.host(), last, 2e-3);
  again(name + "fwd ", [&](const kernels::Launch& l) { kernels::m2rnn_fwd_sm90(a, l); }, nullptr, {written(gy), written(glast)});
  gdW.zero(), gdD.zero();
  kernels::M2rnnBwd b{g_dy.data, a.q, a.k, a.v, gf.data, gW.data, gD.data, gcu.data, saved.data, with_state ? gdl.data : nullptr, gdq.data, gdk.data, gdv.data, gdf.data, gdW.data, gdD.data,
                      with_state ? gd0.data : nullptr, n, nd, w, w, w, H, K, V, DType::kBf16};
  const auto sb = kernels::supports_m2rnn_bwd_sm90(b, device());
  if (!sb) return expect(name, false, sb.refusal);
  Buffer<uint8_t> workspace(kernels::workspace_m2rnn_bwd_sm90(b));
  kernels::m2rnn_bwd_sm90(b, {nullptr, workspace.data});
  device_wait("m2rnn_bwd");
  compare(name + "dq", gdq.host(), dq), compare(name + "dk", gdk.host(), dk), compare(name + "dv", gdv.host(), dv), compare(name + "df", gdf.host(), df), compare(name + "dW", gdW.host(), dW);
  compare(name + "dD", gdD.host(), dD);
  if (with_state) compare(name + "d_initial", gd0.host(), d0);
  again(name + "bwd ", [&](const kernels::Launch& l) { kernels::m2rnn_bwd_sm90(b, l); }, workspace.data, {written(gdq), written(gdk), written(gdv), written(gdf), added(gdW), added(gdD), written(gd0)});
}

}  // namespace

void check_m2rnn(bool small) {
  check("one step", {1}, 2, true);
  check("15 16 0 17", {15, 16, 0, 17}, 2, true);
  check("63 64 130", {63, 64, 130}, 3, false);
  if (!small) check("NAM56R heads", {300, 515}, 51, true);
}

void perf_m2rnn() {
  const int H = 51, b = 8, s = 4096;
  const size_t T = static_cast<size_t>(b) * s, width = 2 * K + H * V;
  Random random(2);
  Buffer<bf16> in(random.bulk<bf16>(T * width, 0.5f)), dy(random.bulk<bf16>(T * H * V)), y(T * H * V), dq(T * K), dk(T * K), dv(T * H * V);
  Buffer<float> f(std::vector<float>(T * H, 0.9f)), W(random.normal<float>(H * V * V, 0.3f)), D(random.normal<float>(H * V)), saved(kernels::m2rnn_state_slots(T, b) * H * K * V), df(T * H), dW(H * V * V), dD(H * V);
  Buffer<int32_t> cu(packed(std::vector<int>(b, s)));
  dW.zero(), dD.zero();
  const int64_t n = static_cast<int64_t>(T), w = static_cast<int64_t>(width);
  kernels::M2rnnFwd a{in.data, in.data + K, in.data + 2 * K, f.data, W.data, D.data, cu.data, nullptr, y.data, saved.data, nullptr, n, b, w, w, w, H, K, V, DType::kBf16};
  kernels::M2rnnBwd g{dy.data, a.q, a.k, a.v, f.data, W.data, D.data, cu.data, saved.data, nullptr, dq.data, dk.data, dv.data, df.data, dW.data, dD.data, nullptr, n, b, w, w, w, H, K, V, DType::kBf16};
  Buffer<uint8_t> workspace(kernels::workspace_m2rnn_bwd_sm90(g));
  const double work = 2.0 * T * H * K * V * V;
  report("m2rnn fwd b8 s4096 H51", time_ms([&] { kernels::m2rnn_fwd_sm90(a, {}); }), 1.0, 2.0 * T * (width + H * V), work);
  report("m2rnn bwd b8 s4096 H51", time_ms([&] { kernels::m2rnn_bwd_sm90(g, {nullptr, workspace.data}); }), 3.0, 2.0 * T * (2 * width + 2 * H * V + 2 * H * K), 4 * work);
  device_wait("m2rnn perf");
}

}  // namespace weft::check
