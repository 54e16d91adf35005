// Gated delta rules token by token (kernels/delta), forward and backward, against the recurrence and its adjoint in fp64.
#include "harness.h"
#include "kernels/delta/delta.h"

namespace weft::check {
namespace {

using Vec = std::vector<double>;

template <class T>
void check(const char* label, const std::vector<int>& lengths, int Hk, int Hv, int K, int V, bool channels, bool with_state) {
  const bool f32 = std::is_same_v<T, float>;
  const std::string name = std::string("delta ") + label + (f32 ? " f32 " : " bf16 ");
  Random random(Hv + lengths.size() + K);
  const auto cu = packed(lengths);
  const size_t n = cu.back(), docs = lengths.size(), state = docs * Hv * K * V, gates = n * Hv * (channels ? K : 1);
  const float unit = 1 / std::sqrt(static_cast<float>(K)), scale = unit;
  const auto q = random.normal<T>(n * Hk * K, unit), k = random.normal<T>(n * Hk * K, unit), v = random.normal<T>(n * Hv * V), d_o = random.normal<T>(n * Hv * V);
  const auto g = random.fill<float>(gates, [](Random& r) { return -0.3f * r.uniform(0, 1); }), b = random.fill<float>(gates, [](Random& r) { return r.uniform(0.05f, 1); });
  const auto w = random.normal<float>(channels ? n * Hv * V : 0), h0 = random.normal<float>(state, 0.3f), d_last = random.normal<float>(state, 0.3f);
  Vec o(n * Hv * V), last(state), dq(n * Hk * K), dk(n * Hk * K), dv(n * Hv * V), dg(gates), db(gates), dw(w.size()), d0(state);
  for (size_t d = 0; d < docs; ++d)
    for (int h = 0; h < Hv; ++h) {
      const size_t row = (d * Hv + h) * K * V;
      std::vector<Vec> before, rs;
      Vec S(K * V), r(V), G(K * V);
      if (with_state) for (int i = 0; i < K * V; ++i) S[i] = h0[row + i], G[i] = d_last[row + i];
      auto gate = [&](size_t t, int i) { return channels ? (t * Hv + h) * K + i : t * Hv + h; };
      auto write = [&](size_t t, int j) { return channels ? static_cast<double>(w[(t * Hv + h) * V + j]) : static_cast<double>(b[t * Hv + h]); };
      for (int s = 0; s < lengths[d]; ++s) {
        const size_t t = cu[d] + s, key = (t * Hk + h / (Hv / Hk)) * K, val = (t * Hv + h) * V;
        before.push_back(S);
        for (int i = 0; i < K; ++i)
          for (int j = 0; j < V; ++j) S[i * V + j] *= std::exp(g[gate(t, i)]);
        for (int j = 0; j < V; ++j) {
          r[j] = write(t, j) * value(v[val + j]);
          for (int i = 0; i < K; ++i) r[j] -= S[i * V + j] * b[gate(t, i)] * value(k[key + i]);
        }
        rs.push_back(r);
        for (int i = 0; i < K; ++i)
          for (int j = 0; j < V; ++j) S[i * V + j] += value(k[key + i]) * r[j], o[val + j] += scale * S[i * V + j] * value(q[key + i]);
      }
      std::copy(S.begin(), S.end(), last.begin() + row);
      for (int s = lengths[d] - 1; s >= 0; --s) {
        const size_t t = cu[d] + s, key = (t * Hk + h / (Hv / Hk)) * K, val = (t * Hv + h) * V;
        Vec dr(V);
        for (int i = 0; i < K; ++i)
          for (int j = 0; j < V; ++j) {
            const double go = value(d_o[val + j]), decayed = std::exp(g[gate(t, i)]) * before[s][i * V + j], ki = value(k[key + i]);
            dq[key + i] += scale * (decayed + ki * rs[s][j]) * go;
            G[i * V + j] += scale * value(q[key + i]) * go;
            dk[key + i] += G[i * V + j] * rs[s][j], dr[j] += G[i * V + j] * ki;
          }
        for (int j = 0; j < V; ++j) {
          dv[val + j] = write(t, j) * dr[j];
          if (channels) dw[val + j] = value(v[val + j]) * dr[j]; else db[gate(t, 0)] += value(v[val + j]) * dr[j];
        }
        for (int i = 0; i < K; ++i)
          for (int j = 0; j < V; ++j) {
            const double e = std::exp(g[gate(t, i)]), decayed = e * before[s][i * V + j], ki = value(k[key + i]), bi = b[gate(t, i)];
            dk[key + i] -= bi * decayed * dr[j], db[gate(t, i)] -= ki * decayed * dr[j];
            G[i * V + j] -= bi * ki * dr[j];
            dg[gate(t, i)] += G[i * V + j] * decayed;
            G[i * V + j] *= e;
          }
      }
      std::copy(G.begin(), G.end(), d0.begin() + row);
    }
  Buffer<T> gq(q), gk(k), gv(v), gdo(d_o), go(o.size()), gdq(dq.size()), gdk(dk.size()), gdv(dv.size());
  Buffer<float> gg(g), gb(b), gw(w), gh(h0), gdl(d_last), gl(state), saved(kernels::delta_state_slots(n, docs) * Hv * K * V), gdg(gates), gdb(gates), gdw(w.size()), gd0(state);
  Buffer<int32_t> gcu(cu);
  const kernels::DeltaInputs in{gq.data, gk.data, gv.data, gg.data, gb.data, channels ? gw.data : nullptr, gcu.data, static_cast<int64_t>(n), static_cast<int64_t>(docs), Hk, Hv, K, V, scale, channels, f32 ? DType::kF32 : DType::kBf16};
  const kernels::DeltaFwd a{in, with_state ? gh.data : nullptr, go.data, saved.data, gl.data};
  if (const auto s = kernels::supports_delta_fwd_sm90(a, device()); !s) return expect(name, false, s.refusal);
  kernels::delta_fwd_sm90(a, {});
  device_wait("delta_fwd");
  const double near = f32 ? 1e-5 : 5e-3;
  compare(name + "o", go.host(), o, near), compare(name + "last", gl.host(), last, 1e-5);
  again(name + "fwd ", [&](const kernels::Launch& l) { kernels::delta_fwd_sm90(a, l); }, nullptr, {written(go), written(gl)});
  const kernels::DeltaBwd back{in, gdo.data, saved.data, with_state ? gdl.data : nullptr, gdq.data, gdk.data, gdv.data, gdg.data, gdb.data, channels ? gdw.data : nullptr, with_state ? gd0.data : nullptr};
  if (const auto s = kernels::supports_delta_bwd_sm90(back, device()); !s) return expect(name, false, s.refusal);
  Buffer<uint8_t> workspace(kernels::workspace_delta_bwd_sm90(back));
  kernels::delta_bwd_sm90(back, {nullptr, workspace.data});
  device_wait("delta_bwd");
  compare(name + "dq", gdq.host(), dq, near), compare(name + "dk", gdk.host(), dk, near), compare(name + "dv", gdv.host(), dv, near), compare(name + "dg", gdg.host(), dg, 1e-5), compare(name + "db", gdb.host(), db, 1e-5);
  if (channels) compare(name + "dw", gdw.host(), dw, 1e-5);
  if (with_state) compare(name + "d_initial", gd0.host(), d0, 1e-5);
  again(name + "bwd ", [&](const kernels::Launch& l) { kernels::delta_bwd_sm90(back, l); }, workspace.data, {written(gdq), written(gdk), written(gdv), written(gdg), written(gdb), written(gdw), written(gd0)});
}

template <class T>
void check_all(bool small) {
  check<T>("one token", {1}, 1, 2, 5, 3, false, true);
  check<T>("7 0 66", {7, 0, 66}, 2, 4, 16, 20, false, true);
  check<T>("5, few rows", {5}, 1, 2, 8, 40, false, true);
  check<T>("70, wide", {70}, 1, 1, 100, 128, false, false);
  check<T>("channels 9 0 65", {9, 0, 65}, 2, 2, 24, 17, true, true);
  check<T>("channels 11, wide", {11}, 1, 1, 128, 40, true, false);
  if (!small) check<T>("many heads", {130, 1, 200}, 12, 48, 40, 64, false, true), check<T>("channels, many heads", {90, 64, 300}, 100, 100, 64, 64, true, true);
}

}  // namespace

void check_delta(bool small) { check_all<float>(small), check_all<bf16>(small); }

void perf_delta() {
  const int D = 128;
  for (const bool channels : {false, true})
    for (const int s : {1, 4096}) {
      const int b = s == 1 ? 256 : 8, Hk = channels ? 32 : 16, Hv = 32;
      const size_t T = static_cast<size_t>(b) * s, gates = T * Hv * (channels ? D : 1);
      Random random(2);
      Buffer<bf16> q(random.bulk<bf16>(T * Hk * D, 0.088f)), k(random.bulk<bf16>(T * Hk * D, 0.088f)), v(random.bulk<bf16>(T * Hv * D)), o(T * Hv * D), dq(T * Hk * D), dk(T * Hk * D), dv(T * Hv * D);
      Buffer<float> g(std::vector<float>(gates, -0.05f)), gate(std::vector<float>(gates, 0.5f)), w(std::vector<float>(channels ? T * Hv * D : 0, 0.5f)), dg(gates), db(gates), dw(w.size);
      Buffer<float> states(kernels::delta_state_slots(T, b) * Hv * D * D), first(std::vector<float>(static_cast<size_t>(b) * Hv * D * D, 0.1f)), last(first.size);
      Buffer<int32_t> cu(packed(std::vector<int>(b, s)));
      const kernels::DeltaInputs in{q.data, k.data, v.data, g.data, gate.data, channels ? w.data : nullptr, cu.data, static_cast<int64_t>(T), b, Hk, Hv, D, D, 0.088f, channels, DType::kBf16};
      const double bytes = 2.0 * T * D * (2 * Hk + 2 * Hv), work = 8.0 * T * Hv * D * D;
      const std::string shape = std::string(channels ? "delta, channels" : "delta") + (s == 1 ? " step b256 H32 d128" : " b8 s4096 H32 d128");
      if (s == 1) {
        report(shape, time_ms([&] { kernels::delta_fwd_sm90({in, first.data, o.data, nullptr, last.data}, {}); }), 0, bytes + 8.0 * b * Hv * D * D, work);
        continue;
      }
      report(shape + " fwd", time_ms([&] { kernels::delta_fwd_sm90({in, nullptr, o.data, states.data, nullptr}, {}); }, 5), 0.8, bytes, work);
      const kernels::DeltaBwd back{in, v.data, states.data, nullptr, dq.data, dk.data, dv.data, dg.data, db.data, channels ? dw.data : nullptr, nullptr};
      Buffer<uint8_t> workspace(kernels::workspace_delta_bwd_sm90(back));
      report(shape + " bwd", time_ms([&] { kernels::delta_bwd_sm90(back, {nullptr, workspace.data}); }, 5), 2.2, 2 * bytes, 3 * work);
    }
  device_wait("delta perf");
}

}  // namespace weft::check
