// Linear cross-entropy against fp64: per-token weights of both signs and zero, ignored labels, d_lse, vocabularies off the tile.
#include "harness.h"
#include "kernels/linear_xent/linear_xent.h"

namespace weft::check {
namespace {

void check(const char* label, int T, int D, int V, bool ignore_all = false) {
  const std::string name = std::string("linear_xent ") + label + " ";
  Random random(T + V);
  auto x = random.normal<bf16>(static_cast<size_t>(T) * D), w = random.normal<bf16>(static_cast<size_t>(V) * D, 2 / std::sqrt(static_cast<float>(D)));
  std::vector<int64_t> y(T);
  for (auto& v : y) v = ignore_all || random.uniform(0, 1) < 0.15f ? -100 : static_cast<int64_t>(random.engine() % V);
  auto g = random.fill<float>(T, [](Random& r) { return r.uniform(0, 1) < 0.2f ? 0.f : r.normal(); }), gl = random.normal<float>(T, 0.1f);
  g[0] = 0;
  for (int t = 0; t < T; t += 2)
    if (y[t] < 0) gl[t] = 0;  // gives nothing
  const auto hx = wide(x), hw = wide(w);
  std::vector<double> loss(T), lse(T), dx(hx.size()), dw(hw.size()), z(V);
  std::vector<int> top(T);
  for (int t = 0; t < T; ++t) {
    double m = -1e300, s = 0;
    for (int v = 0; v < V; ++v) {
      double d = 0;
      for (int k = 0; k < D; ++k) d += hx[static_cast<size_t>(t) * D + k] * hw[static_cast<size_t>(v) * D + k];
      z[v] = d;
      if (d > m) m = d, top[t] = v;
    }
    for (int v = 0; v < V; ++v) s += std::exp(z[v] - m);
    lse[t] = m + std::log(s), loss[t] = y[t] < 0 ? 0 : lse[t] - z[y[t]];
    const double gt = y[t] < 0 ? 0 : g[t];
    for (int v = 0; v < V; ++v) {
      const double d = (gt + gl[t]) * std::exp(z[v] - lse[t]) - (v == y[t] ? gt : 0);
      if (d == 0) continue;
      for (int k = 0; k < D; ++k) dx[static_cast<size_t>(t) * D + k] += d * hw[static_cast<size_t>(v) * D + k], dw[static_cast<size_t>(v) * D + k] += d * hx[static_cast<size_t>(t) * D + k];
    }
  }
  Buffer<bf16> gx(x), gw(w), gdx(x.size());
  Buffer<int64_t> gy(y);
  Buffer<float> gloss(T), glse(T), gg(g), ggl(gl), gdw(w.size());
  Buffer<int32_t> gtop(T);
  kernels::LinearXentFwd f{gx.data, gw.data, gy.data, gloss.data, glse.data, gtop.data, T, V, D, DType::kBf16};
  const auto s = kernels::supports_linear_xent_fwd_sm90(f, device());
  if (!s) return expect(name, false, s.refusal);
  Buffer<uint8_t> fw(kernels::workspace_linear_xent_fwd_sm90(f));
  kernels::linear_xent_fwd_sm90(f, {nullptr, fw.data});
  device_wait("linear_xent_fwd");
  compare(name + "lse", glse.host(), lse, 1e-5, 1e-5);
  compare(name + "loss", gloss.host(), loss, 1e-5, 1e-5);
  const auto got = gtop.host();
  int wrong = 0;
  for (int t = 0; t < T; ++t) wrong += got[t] != top[t];
  expect(name + "top1", wrong <= T / 500, std::to_string(wrong) + " differ (near ties)");
  again(name + "fwd ", [&](const kernels::Launch& l) { kernels::linear_xent_fwd_sm90(f, l); }, fw.data, {written(glse), written(gloss), written(gtop)});
  gdw.zero();
  kernels::LinearXentBwd b{gx.data, gw.data, gy.data, glse.data, gg.data, ggl.data, gdx.data, gdw.data, T, V, D, DType::kBf16};
  Buffer<uint8_t> bw(kernels::workspace_linear_xent_bwd_sm90(b));
  kernels::linear_xent_bwd_sm90(b, {nullptr, bw.data});
  device_wait("linear_xent_bwd");
  compare(name + "dx", gdx.host(), dx);
  compare(name + "dw", gdw.host(), dw);
  again(name + "bwd ", [&](const kernels::Launch& l) { kernels::linear_xent_bwd_sm90(b, l); }, bw.data, {written(gdx), added(gdw)});
  auto poisoned = x;
  for (int t = 0; t < T; ++t)
    if (gl[t] == 0 && (y[t] < 0 || g[t] == 0)) std::fill_n(poisoned.begin() + static_cast<int64_t>(t) * D, D, __float2bfloat16(NAN));
  Buffer<bf16> gpoisoned(poisoned);
  b.x = gpoisoned.data;
  gdw.zero(), gdx.poison();
  kernels::linear_xent_bwd_sm90(b, {nullptr, bw.data});
  device_wait("linear_xent_bwd");
  compare(name + "dx, NaN where nothing is given", gdx.host(), dx);
  compare(name + "dw, NaN where nothing is given", gdw.host(), dw);
}

// The same with the losses' gradients known: dz, from which the op makes dx and dw by plain products. Rows whose x is NaN and that give nothing
// must not show; a row with one logit far above the others must keep its loss to fp32.
void check_rows(const char* label, int T, int D, int V, float z_loss, float scale = 2) {
  const std::string name = std::string("linear_xent rows ") + label + " ";
  Random random(T + V);
  auto x = random.normal<bf16>(static_cast<size_t>(T) * D), w = random.normal<bf16>(static_cast<size_t>(V) * D, scale / std::sqrt(static_cast<float>(D)));
  std::vector<int64_t> y(T);
  for (auto& v : y) v = random.uniform(0, 1) < 0.15f ? -1 : static_cast<int64_t>(random.engine() % V);
  auto g = random.fill<float>(T, [](Random& r) { return r.uniform(0, 1) < 0.2f ? 0.f : r.normal(); });
  g[0] = 0;
  std::vector<double> loss(T), lse(T), z(V), dz(static_cast<size_t>(T) * V);
  std::vector<int> top(T);
  for (int t = 0; t < T; ++t) {
    const auto logits = [&] {
      for (int v = 0; v < V; ++v) {
        double d = 0;
        for (int k = 0; k < D; ++k) d += static_cast<double>(value(x[static_cast<size_t>(t) * D + k])) * value(w[static_cast<size_t>(v) * D + k]);
        z[v] = d;
      }
      top[t] = static_cast<int>(std::max_element(z.begin(), z.end()) - z.begin());
    };
    logits();
    if (t % 3 == 1 && y[t] >= 0) {  // x along the label's row of w: a confident prediction
      for (int k = 0; k < D; ++k) x[static_cast<size_t>(t) * D + k] = __float2bfloat16(5 * value(w[static_cast<size_t>(y[t]) * D + k]));
      logits();
    }
    double s = 0;
    for (int v = 0; v < V; ++v) s += std::exp(z[v] - z[top[t]]);
    lse[t] = z[top[t]] + std::log(s), loss[t] = y[t] < 0 ? 0 : lse[t] - z[y[t]] + z_loss * lse[t] * lse[t];
    const double gt = y[t] < 0 ? 0 : g[t], both = gt * (1 + 2 * z_loss * lse[t]);
    for (int v = 0; v < V; ++v) dz[static_cast<size_t>(t) * V + v] = both * std::exp(z[v] - lse[t]) - (v == y[t] ? gt : 0);
    if (y[t] < 0 && t % 2 == 0) {
      std::fill_n(x.begin() + static_cast<int64_t>(t) * D, D, __float2bfloat16(NAN));
      lse[t] = NAN, top[t] = -1;
    }
  }
  Buffer<bf16> gx(x), gw(w), gdz(static_cast<size_t>(T) * V);
  Buffer<int64_t> gy(y);
  Buffer<float> gloss(T), glse(T), gg(g);
  Buffer<int32_t> gtop(T);
  kernels::LinearXentRows a{gx.data, gw.data, gy.data, gg.data, gdz.data, gloss.data, glse.data, gtop.data, T, V, D, z_loss, DType::kBf16};
  const auto s = kernels::supports_linear_xent_rows_sm90(a, device());
  if (!s) return expect(name, false, s.refusal);
  Buffer<uint8_t> workspace(kernels::workspace_linear_xent_rows_sm90(a));
  kernels::linear_xent_rows_sm90(a, {nullptr, workspace.data});
  device_wait("linear_xent_rows");
  auto got = glse.host();
  const auto best = gtop.host();
  int wrong = 0, known = 0;
  for (int t = 0; t < T; ++t) {
    if (std::isnan(lse[t])) known += std::isnan(got[t]), lse[t] = got[t] = 0;
    else ++known, wrong += best[t] != top[t];
  }
  expect(name + "NaN rows have NaN lse", known == T);
  compare(name + "lse", got, lse, 1e-5, 1e-5);
  expect(name + "top1", wrong <= T / 100, std::to_string(wrong) + " differ (near ties)");
  const auto losses = gloss.host();
  double worst = 0;  // of a confident token's small loss, too
  for (int t = 0; t < T; ++t) worst = std::max(worst, std::abs(losses[t] - loss[t]) / (1e-5 * std::abs(loss[t]) + 5e-7 * std::abs(lse[t]) + 1e-6));
  expect(name + "loss of each token", worst <= 1, "of the bound "  + std::to_string(worst));
  compare(name + "dz", gdz.host(), dz, 4e-3, 6e-3);
  double off = 0;  // each element: two roundings to bf16, and lse's own in fp32
  const auto d = gdz.host();
  for (int t = 0; t < T; ++t)
    for (int v = 0; v < V; ++v) {
      const size_t i = static_cast<size_t>(t) * V + v;
      off = std::max(off, std::abs(value(d[i]) - dz[i]) / (0.012 * std::abs(dz[i]) + 1e-7 + 4e-7 * std::abs(g[t] * lse[t])));
    }
  expect(name + "dz element by element", off <= 1, "of the bound " + std::to_string(off));
  again(name, [&](const kernels::Launch& l) { kernels::linear_xent_rows_sm90(a, l); }, workspace.data, {written(gloss), written(glse), written(gtop), written(gdz)});
}

}  // namespace

void check_linear_xent(bool small) {
  check_rows("one token", 1, 64, 16, 0);
  check_rows("T 200 D 136 V 1008", 200, 136, 1008, 0.01f);
  check_rows("large logits", 40, 64, 520, 0, 40);
  check_rows("groups of row tiles", 17 * 128 + 5, 16, 264, 0);
  if (!small) check_rows("T 300 D 512 V 8200", 300, 512, 8200, 0);
  check("one token", 1, 64, 10);
  check("T 200 D 136 V 1001", 200, 136, 1001);
  check("all ignored", 64, 64, 300, true);
  if (!small) check("two pieces of vocabulary", 130, 64, 8192 + 777), check("two pieces of tokens", 4100, 64, 600), check("D 2048", 256, 2048, 2048);
}

void perf_linear_xent() {
  for (int V : {65536, 131072}) {
    const size_t T = 32768, D = 4096;
    Random random(1);
    Buffer<bf16> x(random.bulk<bf16>(T * D)), w(random.bulk<bf16>(V * D, 0.02f)), dx(T * D);
    std::vector<int64_t> labels(T);
    for (auto& v : labels) v = static_cast<int64_t>(random.engine() % V);
    Buffer<int64_t> y(labels);
    Buffer<float> loss(T), lse(T), g(std::vector<float>(T, 1.f / T)), dw(V * D);
    dw.zero();
    kernels::LinearXentFwd f{x.data, w.data, y.data, loss.data, lse.data, nullptr, static_cast<int64_t>(T), V, static_cast<int>(D), DType::kBf16};
    kernels::LinearXentBwd b{x.data, w.data, y.data, lse.data, g.data, nullptr, dx.data, dw.data, f.tokens, V, f.dim, DType::kBf16};
    Buffer<uint8_t> fw(kernels::workspace_linear_xent_fwd_sm90(f)), bw(kernels::workspace_linear_xent_bwd_sm90(b));
    const double work = 2.0 * T * D * V;
    const std::string row = "T32768 D4096 V" + std::to_string(V);
    constexpr int64_t kRows = 4096;
    Buffer<bf16> dz(kRows * static_cast<size_t>(V));
    const kernels::LinearXentRows chunk{x.data, w.data, y.data, g.data, dz.data, loss.data, lse.data, nullptr, kRows, V, f.dim, 0, DType::kBf16};
    Buffer<uint8_t> cw(kernels::workspace_linear_xent_rows_sm90(chunk));
    report("linear_xent rows T4096 of " + row, time_ms([&] { kernels::linear_xent_rows_sm90(chunk, {nullptr, cw.data}); }, 5), V / 65536 * 3.6, 2.0 * D * (kRows + V) + 6.0 * kRows * V, 2.0 * kRows * D * V);
    report("linear_xent fwd " + row, time_ms([&] { kernels::linear_xent_fwd_sm90(f, {nullptr, fw.data}); }, 5), V / 65536 * 25., 2.0 * D * (T + V), work);
    report("linear_xent bwd " + row, time_ms([&] { kernels::linear_xent_bwd_sm90(b, {nullptr, bw.data}); }, 5), V / 65536 * 75., 2.0 * D * (2 * T + V) + 8.0 * D * V, 3 * work);
    device_wait("linear_xent perf");
  }
}

}  // namespace weft::check
