// Indexer top-k: exact sets. Small integers make every score exact, so ties are many and the order (score, then lower index) is tested.
#include <algorithm>

#include "harness.h"
#include "kernels/indexer/indexer.h"

namespace weft::check {
namespace {

void check(const char* label, const std::vector<int>& lengths, int J, int top_k, int spread, bool rising = false) {
  const int D = 64;
  const std::string name = std::string("indexer ") + label;
  Random random(J + top_k);
  const auto cu = packed(lengths);
  const size_t T = cu.back();
  auto whole = [&](Random& r) { return std::floor(r.uniform(-static_cast<float>(spread), spread + 1.f)); };
  auto q = random.fill<bf16>(T * J * D, whole), k = random.fill<bf16>(T * D, whole);
  auto gate = random.fill<float>(T * J, [&](Random& r) { return std::floor(r.uniform(-2, 4)); });
  if (rising)  // scores that grow with the index: every key joins the list
    for (size_t t = 0; t < T; ++t)
      for (int d = 0; d < D; ++d) k[t * D + d] = __float2bfloat16(d == 0 ? static_cast<float>(t / 8) : 0.f), q[t * J * D + d] = __float2bfloat16(1.f);
  const auto hq = wide(q), hk = wide(k);
  std::vector<int32_t> want(T * top_k, -1);
  size_t document = 0;
  for (size_t t = 0; t < T; ++t) {
    while (static_cast<size_t>(cu[document + 1]) <= t) ++document;
    std::vector<std::pair<double, int>> all;
    for (size_t s = cu[document]; s <= t; ++s) {
      double sum = 0;
      for (int j = 0; j < J; ++j) {
        double d = 0;
        for (int i = 0; i < D; ++i) d += hq[(t * J + j) * D + i] * hk[s * D + i];
        sum += gate[t * J + j] * std::max(d, 0.);
      }
      all.push_back({-sum, static_cast<int>(s)});
    }
    std::sort(all.begin(), all.end());
    std::vector<int32_t> best;
    for (size_t i = 0; i < all.size() && i < static_cast<size_t>(top_k); ++i) best.push_back(all[i].second);
    std::sort(best.begin(), best.end());
    std::copy(best.begin(), best.end(), want.begin() + t * top_k);
  }
  Buffer<bf16> gq(q), gk(k);
  Buffer<float> gg(gate);
  Buffer<int32_t> gcu(cu), out(T * top_k);
  kernels::IndexerTopK a{gq.data, gk.data, gg.data, gcu.data, out.data, static_cast<int64_t>(T), static_cast<int64_t>(lengths.size()), J, D, top_k, DType::kBf16};
  const auto s = kernels::supports_indexer_topk_sm90(a, device());
  if (!s) return expect(name, false, s.refusal);
  kernels::indexer_topk_sm90(a, {});
  device_wait("indexer_topk");
  const auto got = out.host();
  size_t wrong = 0;
  for (size_t i = 0; i < want.size(); ++i) wrong += got[i] != want[i];
  expect(name, wrong == 0, std::to_string(wrong) + " of " + std::to_string(want.size()) + " differ");
  again(name + " ", [&](const kernels::Launch& l) { kernels::indexer_topk_sm90(a, l); }, nullptr, {written(out)});
}

}  // namespace

void check_indexer(bool small) {
  check("one token", {1}, 32, 16, 2);
  check("documents 3 0 70 1 61", {3, 0, 70, 1, 61}, 32, 16, 1);
  check("rising scores", {640}, 4, 32, 1, true);
  // Each build of the kernel: two or four parts of heads, a short list or one of 1,024.
  check("8 heads, k 200 of 700", {700}, 8, 200, 2);  // the list of 640 is thinned on the way
  check("8 heads, k 257", {262}, 8, 257, 2);
  check("40 heads, k 20 of 530", {530}, 40, 20, 1);  // so is that of 512
  check("40 heads, k 300", {350}, 40, 300, 1);
  if (!small) check("k 256 of 2000", {2000, 900}, 32, 256, 1), check("k 512 of 1500", {1500}, 64, 512, 2), check("rising, k 256", {3000}, 8, 256, 1, true);
}

void perf_indexer() {
  const int J = 32, D = 64, b = 8, s = 4096, K = 256;
  const size_t T = static_cast<size_t>(b) * s;
  Random random(4);
  Buffer<bf16> q(random.bulk<bf16>(T * J * D)), k(random.normal<bf16>(T * D));
  Buffer<float> gate(random.bulk<float>(T * J));
  Buffer<int32_t> cu(packed(std::vector<int>(b, s))), out(T * K);
  kernels::IndexerTopK a{q.data, k.data, gate.data, cu.data, out.data, static_cast<int64_t>(T), b, J, D, K, DType::kBf16};
  report("indexer + top-k 256 b8 s4096 h32 d64", time_ms([&] { kernels::indexer_topk_sm90(a, {}); }), 0.8, 2.0 * T * J * D + 4.0 * T * K, 2.0 * T * s / 2 * J * D);
  device_wait("indexer perf");
}

}  // namespace weft::check
