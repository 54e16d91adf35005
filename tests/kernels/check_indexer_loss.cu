// The indexer's loss and its gradients against fp64, dense and over a choice of keys.
#include <algorithm>

#include "harness.h"
#include "kernels/indexer/loss.h"

namespace weft::check {
namespace {

using Vec = std::vector<double>;

template <class T>
void check(const char* label, const std::vector<int>& lengths, int J, int D, int H, int G, int E, int top_k, bool weighted, bool relu) {
  const bool f32 = std::is_same_v<T, float>;
  const std::string name = std::string("indexer_loss ") + label + (f32 ? " f32 " : " bf16 ");
  Random random(J + D + top_k + lengths.size());
  const auto cu = packed(lengths);
  const int n = cu.back();
  const auto q = random.normal<T>(n * J * D), k = random.normal<T>(n * D);
  const auto gate = random.normal<float>(n * J, 0.5f), weights = random.fill<float>(n, [](Random& r) { return r.uniform(0, 1) < 0.2f ? 0.f : r.uniform(0, 1); });
  const auto tq = random.normal<bf16>(n * H * E), tk = random.normal<bf16>(n * G * E);
  // Later tokens, other documents, absent ones and repetitions among the choice; one token chooses nothing.
  auto choice = random.fill<int32_t>(n * std::max(top_k, 1), [&](Random& r) { return r.uniform(0, 1) < 0.1f ? -1.f : std::floor(r.uniform(0, 0.999f) * n); });
  for (int i = 0; i < top_k; ++i) choice[i] = -1;
  const float scale = 0.4f, coeff = 0.7f;
  Vec dq(n * J * D), dk(n * D), dgate(n * J), losses(n);
  double total = 0;
  for (int t = 0; t < n; ++t) total += weighted ? weights[t] : 1;
  for (size_t d = 0; d < lengths.size(); ++d)
    for (int t = cu[d]; t < cu[d + 1]; ++t) {
      std::vector<int> keys;
      for (int s = cu[d]; s <= t; ++s)
        if (top_k == 0 || std::count(choice.begin() + static_cast<size_t>(t) * top_k, choice.begin() + static_cast<size_t>(t + 1) * top_k, s) > 0) keys.push_back(s);
      if (keys.empty()) continue;
      const size_t m = keys.size();
      Vec p(m), I(m), x(m * J);
      for (int h = 0; h < H; ++h) {
        Vec s(m);
        double z = 0;
        for (size_t i = 0; i < m; ++i)
          for (int e = 0; e < E; ++e) s[i] += scale * value(tq[(static_cast<size_t>(t) * H + h) * E + e]) * value(tk[(static_cast<size_t>(keys[i]) * G + h / (H / G)) * E + e]);
        for (double v : s) z += std::exp(v);
        for (size_t i = 0; i < m; ++i) p[i] += std::exp(s[i]) / z / H;
      }
      for (size_t i = 0; i < m; ++i)
        for (int j = 0; j < J; ++j) {
          for (int e = 0; e < D; ++e) x[i * J + j] += value(q[(static_cast<size_t>(t) * J + j) * D + e]) * value(k[static_cast<size_t>(keys[i]) * D + e]);
          I[i] += gate[t * J + j] * (relu ? std::max(x[i * J + j], 0.0) : x[i * J + j]);
        }
      const double most = *std::max_element(I.begin(), I.end());
      double z = 0;
      for (double v : I) z += std::exp(v - most);
      const double w = coeff * (weighted ? weights[t] : 1) / std::max(total, 1e-20);
      for (size_t i = 0; i < m; ++i) {
        const double log_q = I[i] - most - std::log(z), dI = w * (std::exp(log_q) - p[i]);
        if (p[i] > 0) losses[t] += w * p[i] * (std::log(p[i]) - log_q);
        for (int j = 0; j < J; ++j) {
          const double v = x[i * J + j], on = !relu || v > 0 ? 1 : 0;
          dgate[t * J + j] += dI * v * on;
          for (int e = 0; e < D; ++e) {
            dq[(static_cast<size_t>(t) * J + j) * D + e] += dI * gate[t * J + j] * on * value(k[static_cast<size_t>(keys[i]) * D + e]);
            dk[static_cast<size_t>(keys[i]) * D + e] += dI * gate[t * J + j] * on * value(q[(static_cast<size_t>(t) * J + j) * D + e]);
          }
        }
      }
    }
  Buffer<T> bq(q), bk(k);
  Buffer<bf16> btq(tq), btk(tk);
  Buffer<float> bgate(gate), bweights(weights), btotal(std::vector<float>{static_cast<float>(total)}), loss(n), gdq(dq.size()), gdk(dk.size()), gdgate(dgate.size());
  Buffer<int32_t> bchoice(choice), bcu(cu);
  gdk.zero();
  const kernels::IndexerLoss a{bq.data, bk.data, bgate.data, btq.data, btk.data, top_k > 0 ? bchoice.data : nullptr, weighted ? bweights.data : nullptr, btotal.data, bcu.data, loss.data, gdq.data, gdk.data, gdgate.data,
                               n, static_cast<int64_t>(lengths.size()), J, D, H, G, E, top_k, *std::max_element(lengths.begin(), lengths.end()), scale, coeff, relu, f32 ? DType::kF32 : DType::kBf16, DType::kBf16};
  if (const auto s = kernels::supports_indexer_loss_sm90(a, device()); !s) return expect(name, false, s.refusal);
  kernels::indexer_loss_sm90(a, {});
  device_wait("indexer_loss");
  const double near = top_k > 0 && H == 32 ? 5e-3 : 1e-4;  // tensor cores take the scores' gradient rounded to bf16
  compare(name + "loss", loss.host(), losses, 1e-4), compare(name + "dq", gdq.host(), dq, near), compare(name + "dk", gdk.host(), dk, near), compare(name + "d_gate", gdgate.host(), dgate, 1e-4);
  const auto run = [&](const kernels::Launch& l) { kernels::indexer_loss_sm90(a, l); };
  again(name, run, nullptr, {written(loss), written(gdq), written(gdgate)});
  again(name + "dk ", run, nullptr, {added(gdk)}, /*same_bits=*/false);
}

}  // namespace

void check_indexer_loss(bool small) {
  check<float>("dense 1 70 0 9", {1, 70, 0, 9}, 3, 5, 4, 2, 6, 0, false, true);
  check<bf16>("dense, weighted, no relu", {66}, 2, 16, 8, 1, 8, 0, true, false);
  check<float>("chosen 7 40", {7, 40}, 3, 4, 4, 1, 12, 9, true, true);
  check<bf16>("chosen, J above H", {30}, 100, 3, 1, 1, 2, 70, false, true);
  check<bf16>("chosen, NAM56R heads", {5, 40}, 32, 64, 32, 1, 128, 70, true, true);
  if (!small) check<bf16>("dense, NAM56R", {130, 300}, 32, 64, 32, 1, 128, 0, true, true), check<bf16>("chosen, NAM56R", {500}, 32, 64, 32, 1, 128, 256, true, true);
}

void perf_indexer_loss() {
  const int J = 32, D = 64, H = 32, E = 128, top_k = 256;
  Random random(3);
  for (const bool sparse : {true, false}) {
    const int b = sparse ? 8 : 1, s = 4096, n = b * s;
    Buffer<bf16> q(random.bulk<bf16>(static_cast<size_t>(n) * J * D)), k(random.bulk<bf16>(static_cast<size_t>(n) * D)), tq(random.bulk<bf16>(static_cast<size_t>(n) * H * E)), tk(random.bulk<bf16>(static_cast<size_t>(n) * E));
    Buffer<float> gate(random.bulk<float>(static_cast<size_t>(n) * J)), total(std::vector<float>{static_cast<float>(n)}), loss(n), dq(static_cast<size_t>(n) * J * D), dk(static_cast<size_t>(n) * D), d_gate(static_cast<size_t>(n) * J);
    std::vector<int32_t> choice(static_cast<size_t>(n) * top_k, -1);
    for (int t = 0; t < n; ++t)
      for (int i = 0; i < std::min(top_k, t % s + 1); ++i) choice[static_cast<size_t>(t) * top_k + i] = t / s * s + (t % s < top_k ? i : i * (t % s) / top_k);
    Buffer<int32_t> indices(choice), cu(packed(std::vector<int>(b, s)));
    dk.zero();
    const kernels::IndexerLoss a{q.data, k.data, gate.data, tq.data, tk.data, sparse ? indices.data : nullptr, nullptr, total.data, cu.data, loss.data, dq.data, dk.data, d_gate.data,
                                 n, b, J, D, H, 1, E, sparse ? top_k : 0, s, 0.09f, 0.001f, true, DType::kBf16, DType::kBf16};
    const double keys = sparse ? static_cast<double>(n) * top_k : static_cast<double>(n) * s / 2;
    report(sparse ? "indexer_loss chosen b8 s4096 h32 k256" : "indexer_loss dense b1 s4096 h32", time_ms([&] { kernels::indexer_loss_sm90(a, {}); }, 3), 0, 0, 2 * keys * (2.0 * H * E + 4.0 * J * D));
  }
  device_wait("indexer_loss perf");
}

}  // namespace weft::check
