// Grouped GEMM against fp64 on sampled outputs: group sizes of zero, one, odd and many rows.
#include "harness.h"
#include "kernels/grouped_gemm/grouped_gemm.h"

namespace weft::check {
namespace {

using kernels::GroupedGemm;

struct Case {
  const char* name;
  std::vector<int> sizes;
  int n, k, spare;  // spare: rows that belong to no group
};

void check(const Case& c) {
  const int E = static_cast<int>(c.sizes.size()), N = c.n, K = c.k;
  auto ends = packed(c.sizes);
  ends.erase(ends.begin());
  const size_t used = ends.back(), M = used + c.spare;
  Random random(N + K);
  auto x = random.normal<bf16>(M * K), w = random.normal<bf16>(static_cast<size_t>(E) * N * K), dy = random.normal<bf16>(M * N);
  for (size_t i = used * K; i < x.size(); ++i) x[i] = __float2bfloat16(NAN);  // must not be read into any result
  for (size_t i = used * N; i < dy.size(); ++i) dy[i] = __float2bfloat16(NAN);
  Buffer<bf16> gx(x), gw(w), gdy(dy), y(M * N), dx(M * K), dw(static_cast<size_t>(E) * N * K);
  Buffer<float> dw32(static_cast<size_t>(E) * N * K);
  Buffer<int32_t> gends(ends);
  dw32.zero();
  auto run = [&](GroupedGemm::Kind kind, const bf16* a, const bf16* b, void* out, DType type, bool accumulate) {
    GroupedGemm g{kind, a, b, gends.data, out, static_cast<int64_t>(M), E, N, K, DType::kBf16, type, accumulate};
    const auto s = kernels::supports_grouped_gemm_sm90(g, device());
    if (!s) return expect(std::string("grouped_gemm ") + c.name, false, s.refusal);
    kernels::grouped_gemm_sm90(g, {});
    device_wait("grouped_gemm");
  };
  run(GroupedGemm::kForward, gx.data, gw.data, y.data, DType::kBf16, false);
  run(GroupedGemm::kDgrad, gdy.data, gw.data, dx.data, DType::kBf16, false);
  run(GroupedGemm::kWgrad, gdy.data, gx.data, dw.data, DType::kBf16, false);
  run(GroupedGemm::kWgrad, gdy.data, gx.data, dw32.data, DType::kF32, true);
  run(GroupedGemm::kWgrad, gdy.data, gx.data, dw32.data, DType::kF32, true);
  std::vector<int> group(used);
  for (int e = 0, r = 0; e < E; ++e)
    for (int i = 0; i < c.sizes[e]; ++i) group[r++] = e;
  const auto hx = wide(x), hw = wide(w), hdy = wide(dy);
  auto sample = [&](const char* what, size_t rows, size_t cols, auto got, auto exact) {
    std::vector<float> g;
    std::vector<double> want;
    const size_t step = std::max<size_t>(1, rows * cols / 20011);
    for (size_t i = 0; i < rows * cols; i += step) g.push_back(value(got[i])), want.push_back(exact(i / cols, i % cols));
    compare(std::string("grouped_gemm ") + c.name + " " + what, g, want, 5e-3, 2e-2);
  };
  sample("forward", used, N, y.host(), [&](size_t r, size_t n) {
    double s = 0;
    for (int k = 0; k < K; ++k) s += hx[r * K + k] * hw[(static_cast<size_t>(group[r]) * N + n) * K + k];
    return s;
  });
  sample("dgrad", used, K, dx.host(), [&](size_t r, size_t k) {
    double s = 0;
    for (int n = 0; n < N; ++n) s += hdy[r * N + n] * hw[(static_cast<size_t>(group[r]) * N + n) * K + k];
    return s;
  });
  const auto zero_after = [&](const char* what, const std::vector<bf16>& got, size_t from) {
    size_t bad = 0;
    for (size_t i = from; i < got.size(); ++i) bad += value(got[i]) != 0;
    expect(std::string("grouped_gemm ") + c.name + " " + what + ", rows of no group are zero", bad == 0);
  };
  zero_after("forward", y.host(), used * N), zero_after("dgrad", dx.host(), used * K);
  auto wgrad = [&](size_t en, size_t k) {
    const size_t e = en / N, n = en % N, first = e == 0 ? 0 : ends[e - 1];
    double s = 0;
    for (int r = 0; r < c.sizes[e]; ++r) s += hdy[(first + r) * N + n] * hx[(first + r) * K + k];
    return s;
  };
  sample("wgrad", static_cast<size_t>(E) * N, K, dw.host(), wgrad);
  sample("wgrad fp32, twice", static_cast<size_t>(E) * N, K, dw32.host(), [&](size_t en, size_t k) { return 2 * wgrad(en, k); });
}

void perf(const char* name, int E, int N, int K, int M) {
  Random random(1);
  std::vector<int> sizes(E);
  int left = M;
  for (int e = 0; e < E; ++e) {  // uneven, as a router leaves them
    sizes[e] = e + 1 == E ? left : std::min(left, static_cast<int>(M / E * random.uniform(0.6f, 1.4f)));
    left -= sizes[e];
  }
  auto ends = packed(sizes);
  ends.erase(ends.begin());
  Buffer<int32_t> gends(ends);
  Buffer<bf16> x(random.bulk<bf16>(static_cast<size_t>(M) * K)), w(random.bulk<bf16>(static_cast<size_t>(E) * N * K)), dy(random.bulk<bf16>(static_cast<size_t>(M) * N)), y(static_cast<size_t>(M) * N),
      dx(static_cast<size_t>(M) * K), dw(static_cast<size_t>(E) * N * K);
  Buffer<float> dw32(static_cast<size_t>(E) * N * K);
  const double flops = 2.0 * M * N * K, peer[4] = {E == 16 ? 740. : 637., E == 16 ? 646. : 542., E == 16 ? 700. : 647., E == 16 ? 700. : 647.};
  const GroupedGemm all[4] = {{GroupedGemm::kForward, x.data, w.data, gends.data, y.data, M, E, N, K, DType::kBf16, DType::kBf16, false},
                              {GroupedGemm::kDgrad, dy.data, w.data, gends.data, dx.data, M, E, N, K, DType::kBf16, DType::kBf16, false},
                              {GroupedGemm::kWgrad, dy.data, x.data, gends.data, dw.data, M, E, N, K, DType::kBf16, DType::kBf16, false},
                              {GroupedGemm::kWgrad, dy.data, x.data, gends.data, dw32.data, M, E, N, K, DType::kBf16, DType::kF32, true}};
  const char* names[4] = {"forward", "dgrad", "wgrad", "wgrad f32 +="};
  dw32.zero();
  for (int i = 0; i < 4; ++i)
    report(std::string("grouped_gemm ") + name + " " + names[i], time_ms([&] { kernels::grouped_gemm_sm90(all[i], {}); }), flops / peer[i] * 1e-9, 2.0 * (static_cast<double>(M) * (N + K) + static_cast<double>(E) * N * K), flops);
  device_wait("grouped_gemm perf");
}

}  // namespace

void check_grouped_gemm(bool small) {
  check({"one group", {128}, 128, 64, 0});
  check({"odd", {1, 0, 77, 130, 0, 64}, 200, 136, 5});
  check({"ends empty", {0, 300, 0}, 256, 320, 100});
  if (!small) {
    check({"n 896", {500, 0, 1023, 3}, 896, 512, 17});
    check({"n 768", {129, 700, 1, 255}, 768, 2048, 0});
    check({"k 4096", {260, 30}, 384, 4096, 0});
  }
}

void perf_grouped_gemm() {
  perf("E16 n896 k4096 rows 131072", 16, 896, 4096, 131072);
  perf("E16 n4096 k896 rows 131072", 16, 4096, 896, 131072);
  perf("E128 n768 k2048 rows 131072", 128, 768, 2048, 131072);
  perf("E128 n2048 k768 rows 131072", 128, 2048, 768, 131072);
}

}  // namespace weft::check
