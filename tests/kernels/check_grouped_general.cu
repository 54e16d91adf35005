// The grouped GEMM for fp32 and for sizes of no multiple of 8, every output against fp64: groups of zero, one and odd rows, no rows at
// all, rows of no group (NaN there must reach nothing).
#include "harness.h"
#include "kernels/grouped_gemm/grouped_gemm.h"

namespace weft::check {
namespace {

using kernels::GroupedGemm;

struct Case {
  const char* name;
  std::vector<int> sizes;
  int n, k, spare;
};

template <class T>
void check(const Case& c) {
  constexpr bool kWide = std::is_same_v<T, float>;
  const int E = static_cast<int>(c.sizes.size()), N = c.n, K = c.k;
  auto ends = packed(c.sizes);
  ends.erase(ends.begin());
  const size_t used = static_cast<size_t>(ends.back()), M = used + static_cast<size_t>(c.spare), weights = static_cast<size_t>(E) * N * K;
  Random random(N + K);
  auto x = random.normal<T>(M * K), dy = random.normal<T>(M * N);
  const auto w = random.normal<T>(weights);
  const T nan = random.fill<T>(1, [](Random&) { return NAN; })[0];
  for (size_t i = used * K; i < x.size(); ++i) x[i] = nan;
  for (size_t i = used * N; i < dy.size(); ++i) dy[i] = nan;
  Buffer<T> gx(x), gw(w), gdy(dy), y(M * N), dx(M * K), dw(weights);
  Buffer<float> sums(std::vector<float>(weights, 0.5f));
  Buffer<int32_t> gends(ends);
  const std::string name = std::string("grouped_general ") + (kWide ? "f32 " : "bf16 ") + c.name + " ";
  const DType type = kWide ? DType::kF32 : DType::kBf16;
  const auto run = [&](GroupedGemm::Kind kind, const T* a, const T* b, void* out, DType out_type, bool accumulate) {
    const GroupedGemm g{kind, a, b, gends.data, out, static_cast<int64_t>(M), E, N, K, type, out_type, accumulate};
    if (const auto s = kernels::supports_grouped_gemm_general_sm90(g, device()); !s) return expect(name, false, s.refusal);
    kernels::grouped_gemm_general_sm90(g, {});
    device_wait("grouped_general");
  };
  run(GroupedGemm::kForward, gx.data, gw.data, y.data, type, false);
  run(GroupedGemm::kDgrad, gdy.data, gw.data, dx.data, type, false);
  run(GroupedGemm::kWgrad, gdy.data, gx.data, dw.data, type, false);
  run(GroupedGemm::kWgrad, gdy.data, gx.data, sums.data, DType::kF32, true);

  const auto hx = wide(x), hw = wide(w), hdy = wide(dy);
  std::vector<double> want_y(M * N), want_dx(M * K), want_dw(weights);
  for (int e = 0, r = 0; e < E; ++e)
    for (int i = 0; i < c.sizes[static_cast<size_t>(e)]; ++i, ++r)
      for (int n = 0; n < N; ++n)
        for (int k = 0; k < K; ++k) {
          const size_t at = (static_cast<size_t>(e) * N + n) * K + k, in = static_cast<size_t>(r) * K + k, out = static_cast<size_t>(r) * N + n;
          want_y[out] += hx[in] * hw[at], want_dx[in] += hdy[out] * hw[at], want_dw[at] += hdy[out] * hx[in];
        }
  std::vector<double> want_sums = want_dw;
  for (double& v : want_sums) v += 0.5;
  const double relative = kWide ? 1e-6 : 3e-3, worst = kWide ? 1e-5 : 1e-2;
  compare(name + "forward", y.host(), want_y, relative, worst);
  compare(name + "dgrad", dx.host(), want_dx, relative, worst);
  compare(name + "wgrad", dw.host(), want_dw, relative, worst);
  compare(name + "wgrad, added to fp32", sums.host(), want_sums, 1e-6, 1e-5);
}

}  // namespace

void check_grouped_general(bool small) {
  const std::vector<Case> all{{"3+0+5+1 n4 k6", {3, 0, 5, 1}, 4, 6, 0},
                              {"nobody, two rows of none", {0, 0}, 4, 6, 2},
                              {"no rows", {0, 0, 0}, 5, 9, 0},
                              {"e1 m1 n1 k1", {1}, 1, 1, 0},
                              {"65+0+64+130 n70 k33, spare 9", {65, 0, 64, 130}, 70, 33, 9},
                              {"200 groups of one", std::vector<int>(200, 1), 3, 5, 1},
                              {"300+1 n129 k200", {300, 1}, 129, 200, 70}};
  for (const Case& c : all) {
    check<float>(c);
    if (!small || c.n < 100) check<bf16>(c);
  }
}

void perf_grouped_general() {
  constexpr int kGroups = 16, kN = 896, kK = 4096;
  constexpr size_t kRows = 16 * 2048;
  Random random(1);
  auto ends = packed(std::vector<int>(kGroups, static_cast<int>(kRows) / kGroups));
  ends.erase(ends.begin());
  Buffer<float> x(random.bulk<float>(kRows * kK)), w(random.bulk<float>(size_t{kGroups} * kN * kK)), dy(random.bulk<float>(kRows * kN)), y(kRows * kN), dx(kRows * kK),
      dw(size_t{kGroups} * kN * kK);
  Buffer<int32_t> gends(ends);
  const auto time = [&](const char* what, GroupedGemm::Kind kind, const float* a, const float* b, float* out) {
    const GroupedGemm g{kind, a, b, gends.data, out, static_cast<int64_t>(kRows), kGroups, kN, kK, DType::kF32, DType::kF32, false};
    report(std::string("grouped_general f32 E16 n896 k4096 rows 32768 ") + what, time_ms([&] { kernels::grouped_gemm_general_sm90(g, {}); }, 5), 0, 0,
           2.0 * kRows * kN * kK);
  };
  time("forward", GroupedGemm::kForward, x.data, w.data, y.data);
  time("dgrad", GroupedGemm::kDgrad, dy.data, w.data, dx.data);
  time("wgrad", GroupedGemm::kWgrad, dy.data, x.data, dw.data);
}

}  // namespace weft::check
