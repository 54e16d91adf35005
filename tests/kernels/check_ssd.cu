// SSD against the recurrence and its adjoint in fp64.
#include "harness.h"
#include "kernels/ssd/ssd_general.h"

namespace weft::check {
namespace {

struct Case {
  const char* name;
  std::vector<int> lengths;
  int H, G;
  bool state, skip;
  float decay = 1;  // scale of A
  int P = 64, N = 128;
  bool general = false;  // the kernels for any shape
};

struct Reference {
  std::vector<double> y, final_state, dx, d_dt, dA, dB, dC, dD, d_initial;
};

Reference reference(const Case& c, const std::vector<double>& x, const std::vector<double>& dt, const std::vector<double>& A, const std::vector<double>& B,
                    const std::vector<double>& C, const std::vector<double>& D, const std::vector<double>& initial, const std::vector<double>& dy,
                    const std::vector<double>& d_final) {
  const int P = c.P, N = c.N, H = c.H, G = c.G;
  const auto cu = packed(c.lengths);
  const size_t T = cu.back(), docs = c.lengths.size();
  Reference r;
  r.y.resize(T * H * P), r.final_state.resize(docs * H * P * N), r.dx.resize(T * H * P), r.d_dt.resize(T * H), r.dA.resize(H);
  r.dB.resize(T * G * N), r.dC.resize(T * G * N), r.dD.resize(H), r.d_initial.resize(docs * H * P * N);
  for (size_t d = 0; d < docs; ++d)
    for (int h = 0; h < H; ++h) {
      const size_t row = (d * H + h) * P * N, g = h / (H / G);
      const int len = c.lengths[d];
      std::vector<std::vector<double>> S(len + 1, std::vector<double>(P * N));
      if (c.state) std::copy_n(initial.begin() + row, P * N, S[0].begin());
      for (int i = 0; i < len; ++i) {
        const size_t t = cu[d] + i;
        const double dti = dt[t * H + h], alpha = std::exp(A[h] * dti);
        for (int p = 0; p < P; ++p) {
          const double xp = x[(t * H + h) * P + p];
          double sum = D[h] * xp;
          for (int n = 0; n < N; ++n) {
            const double s = alpha * S[i][p * N + n] + dti * xp * B[(t * G + g) * N + n];
            S[i + 1][p * N + n] = s, sum += s * C[(t * G + g) * N + n];
          }
          r.y[(t * H + h) * P + p] = sum;
        }
      }
      std::copy(S[len].begin(), S[len].end(), r.final_state.begin() + row);
      std::vector<double> dS(P * N);
      if (c.state) std::copy_n(d_final.begin() + row, P * N, dS.begin());
      for (int i = len - 1; i >= 0; --i) {
        const size_t t = cu[d] + i;
        const double dti = dt[t * H + h], alpha = std::exp(A[h] * dti);
        double da = 0, ddt = 0;
        for (int p = 0; p < P; ++p) {
          const double g_y = dy[(t * H + h) * P + p], xp = x[(t * H + h) * P + p];
          double dx = D[h] * g_y;
          r.dD[h] += g_y * xp;
          for (int n = 0; n < N; ++n) {
            double& ds = dS[p * N + n];
            const double b = B[(t * G + g) * N + n];
            r.dC[(t * G + g) * N + n] += g_y * S[i + 1][p * N + n];
            ds += g_y * C[(t * G + g) * N + n];
            da += ds * S[i][p * N + n];
            ddt += ds * xp * b, dx += ds * dti * b, r.dB[(t * G + g) * N + n] += ds * dti * xp;
            ds *= alpha;
          }
          r.dx[(t * H + h) * P + p] = dx;
        }
        r.d_dt[t * H + h] = ddt + da * alpha * A[h], r.dA[h] += da * alpha * dti;
      }
      std::copy(dS.begin(), dS.end(), r.d_initial.begin() + row);
    }
  return r;
}

template <class T>
std::vector<T> strided(const std::vector<T>& v, size_t row, size_t stride) {  // rows moved apart; the gaps are NaN
  std::vector<T> r(v.size() / row * stride);
  std::memset(static_cast<void*>(r.data()), 0xff, r.size() * sizeof(T));
  for (size_t i = 0; i < v.size() / row; ++i) std::copy_n(v.begin() + i * row, row, r.begin() + i * stride);
  return r;
}

void check(const Case& c) {
  const int P = c.P, N = c.N, H = c.H, G = c.G;
  Random random(H * 131 + c.lengths.size());
  const auto cu = packed(c.lengths);
  const size_t T = cu.back(), docs = c.lengths.size(), state = docs * H * P * N;
  auto x = random.normal<bf16>(T * H * P), B = random.normal<bf16>(T * G * N, 0.3f), C = random.normal<bf16>(T * G * N, 0.3f), dy = random.normal<bf16>(T * H * P);
  auto dt = random.fill<float>(T * H, [](Random& r) { return r.uniform(0.001f, 0.2f); });
  if (T > 2) dt[H] = 0;
  auto A = random.fill<float>(H, [&](Random& r) { return -c.decay * r.uniform(0.2f, 4); }), D = random.normal<float>(H);
  auto initial = random.normal<float>(state), d_final = random.normal<float>(state, 0.1f);
  const auto want = reference(c, wide(x), wide(dt), wide(A), wide(B), wide(C), c.skip ? wide(D) : std::vector<double>(H), wide(initial), wide(dy), wide(d_final));

  const size_t xs = H * P + 8, bs = G * N + 16;
  Buffer<bf16> gx(strided(x, H * P, xs)), gB(strided(B, G * N, bs)), gC(C), gdy(dy), y(T * H * P), dx(T * H * P), dB(T * G * N), dC(T * G * N);
  Buffer<float> gdt(dt), gA(A), gD(D), gi(initial), gdf(d_final), final_state(state), d_dt(T * H), dA(H), dD(H), d_initial(state);
  Buffer<int32_t> gcu(cu);
  Buffer<bf16> states(kernels::ssd_state_slots(T, docs) * H * P * N);
  kernels::SsdFwd f{gx.data, gdt.data, gA.data, gB.data, gC.data, c.skip ? gD.data : nullptr, gcu.data, c.state ? gi.data : nullptr, y.data, states.data,
                    final_state.data, static_cast<int64_t>(T), static_cast<int64_t>(docs), static_cast<int64_t>(xs), static_cast<int64_t>(bs), G * N, H, G, P, N, DType::kBf16};
  const auto s = c.general ? kernels::supports_ssd_fwd_general_sm90(f, device()) : kernels::supports_ssd_fwd_sm90(f, device());
  if (!s) return expect(std::string("ssd ") + c.name, false, s.refusal);
  (c.general ? kernels::ssd_fwd_general_sm90 : kernels::ssd_fwd_sm90)(f, {});
  device_wait("ssd_fwd");
  const std::string name = std::string("ssd ") + c.name + " ";
  compare(name + "y", y.host(), want.y);
  compare(name + "final_state", final_state.host(), want.final_state);
  dA.zero(), dD.zero();
  kernels::SsdBwd b{gdy.data, gx.data, gdt.data, gA.data, gB.data, gC.data, f.D, gcu.data, states.data, c.state ? gdf.data : nullptr, dx.data, d_dt.data, dA.data, dB.data,
                    dC.data, c.skip ? dD.data : nullptr, c.state ? d_initial.data : nullptr, f.tokens, f.documents, f.x_stride, f.B_stride, f.C_stride, H, G, P, N, DType::kBf16, f.initial_state};
  const auto sb = c.general ? kernels::supports_ssd_bwd_general_sm90(b, device()) : kernels::supports_ssd_bwd_sm90(b, device());
  if (!sb) return expect(name + "bwd", false, sb.refusal);
  Buffer<uint8_t> workspace(c.general ? kernels::workspace_ssd_bwd_general_sm90(b) : kernels::workspace_ssd_bwd_sm90(b));
  (c.general ? kernels::ssd_bwd_general_sm90 : kernels::ssd_bwd_sm90)(b, {nullptr, workspace.data});
  device_wait("ssd_bwd");
  compare(name + "dx", dx.host(), want.dx);
  compare(name + "dB", dB.host(), want.dB);
  compare(name + "dC", dC.host(), want.dC);
  compare(name + "d_dt", d_dt.host(), want.d_dt, 2e-2, 5e-2);
  compare(name + "dA", dA.host(), want.dA, 5e-2, 5e-2);  // sums of both signs
  if (c.skip) compare(name + "dD", dD.host(), want.dD);
  if (c.state) compare(name + "d_initial", d_initial.host(), want.d_initial);
  again(name + "fwd ", [&](const kernels::Launch& l) { (c.general ? kernels::ssd_fwd_general_sm90 : kernels::ssd_fwd_sm90)(f, l); }, nullptr, {written(y), written(final_state)});
  again(name + "bwd ", [&](const kernels::Launch& l) { (c.general ? kernels::ssd_bwd_general_sm90 : kernels::ssd_bwd_sm90)(b, l); }, workspace.data, {written(dx), written(dB), written(dC), written(d_dt), added(dA), added(dD), written(d_initial)});
}

void check_step(int P, int N, bool general) {
  const int H = 6, G = 2, rows = 3, pool = 5;
  Random random(7);
  auto x = random.normal<bf16>(rows * H * P), B = random.normal<bf16>(rows * G * N), C = random.normal<bf16>(rows * G * N);
  auto dt = random.fill<float>(rows * H, [](Random& r) { return r.uniform(0.001f, 0.2f); }), A = random.fill<float>(H, [](Random& r) { return -r.uniform(0.2f, 4); });
  auto D = random.normal<float>(H), state = random.normal<float>(pool * H * P * N);
  const std::vector<int32_t> slots{4, -1, 0};
  std::vector<double> y(rows * H * P), S = wide(state);
  for (int b = 0; b < rows; ++b)
    for (int h = 0; h < H && slots[b] >= 0; ++h)
      for (int p = 0; p < P; ++p) {
        const double xp = value(x[(b * H + h) * P + p]), d = dt[b * H + h];
        double sum = D[h] * xp;
        for (int n = 0; n < N; ++n) {
          double& s = S[((slots[b] * H + h) * P + p) * N + n];
          s = std::exp(A[h] * d) * s + d * xp * value(B[(b * G + h / (H / G)) * N + n]);
          sum += s * value(C[(b * G + h / (H / G)) * N + n]);
        }
        y[(b * H + h) * P + p] = sum;
      }
  Buffer<bf16> gx(x), gB(B), gC(C), gy(rows * H * P);
  Buffer<float> gdt(dt), gA(A), gD(D), gs(state);
  Buffer<int32_t> gslots(slots);
  gy.zero();
  kernels::SsdStep a{gx.data, gdt.data, gA.data, gB.data, gC.data, gD.data, gslots.data, gs.data, gy.data, rows, H * P, G * N, G * N, H, G, P, N, DType::kBf16};
  (general ? kernels::ssd_step_general_sm90 : kernels::ssd_step_sm90)(a, {});
  device_wait("ssd_step");
  const std::string name = general ? "ssd general step " : "ssd step ";
  compare(name + "y", gy.host(), y);
  compare(name + "state", gs.host(), S, 1e-5, 1e-5);
}

}  // namespace

void check_ssd(bool small) {
  check({"one token", {1}, 2, 1, true, true});
  check({"63", {63}, 2, 2, false, true});
  check({"64 65 1 130", {64, 65, 1, 130}, 2, 1, true, false});
  check({"empty document", {0, 70, 0}, 4, 2, true, true});
  check({"strong decay", {200}, 2, 1, false, true, 20});
  if (!small) check({"many heads", {300, 77, 512}, 128, 8, true, true});
  check({"general P32 N32, one token", {1}, 2, 1, true, true, 1, 32, 32, true});
  check({"general P32 N32 64 1 67", {64, 1, 67}, 2, 1, true, false, 1, 32, 32, true});
  check({"general P64 N64, empty document", {0, 19, 0}, 2, 2, true, true, 1, 64, 64, true});
  check({"general P24 N40, strong decay", {30}, 2, 1, false, true, 20, 24, 40, true});
  check({"general P80 N160", {9}, 1, 1, true, true, 1, 80, 160, true});
  check_step(64, 128, false);
  check_step(24, 40, true);
}

void perf_ssd() {
  const int P = 64, N = 128, H = 128, G = 8, b = 8, s = 4096;
  const size_t T = static_cast<size_t>(b) * s;
  Random random(3);
  Buffer<bf16> x(random.bulk<bf16>(T * H * P)), B(random.bulk<bf16>(T * G * N, 0.3f)), C(random.bulk<bf16>(T * G * N, 0.3f)), dy(random.bulk<bf16>(T * H * P)), y(T * H * P), dx(T * H * P),
      dB(T * G * N), dC(T * G * N);
  auto positive = random.bulk<float>(T * H, 0.05f);
  for (auto& v : positive) v = std::abs(v);
  Buffer<float> dt(positive), A(std::vector<float>(H, -1.f)), D(random.normal<float>(H)), d_dt(T * H), dA(H), dD(H);
  dA.zero(), dD.zero();
  for (const auto& lengths : {std::vector<int>(b, s), std::vector<int>(1, b * s), std::vector<int>(b * 8, s / 8)}) {
    Buffer<int32_t> cu(packed(lengths));
    const int64_t docs = lengths.size();
    Buffer<bf16> saved(kernels::ssd_state_slots(T, docs) * H * P * N);
    kernels::SsdFwd f{x.data, dt.data, A.data, B.data, C.data, D.data, cu.data, nullptr, y.data, nullptr, nullptr, static_cast<int64_t>(T), docs, H * P, G * N, G * N, H, G, P, N, DType::kBf16};
    const std::string row = "T32768 H128 P64 N128 G8, " + std::to_string(docs) + " documents";
    const double io = T * (2.0 * H * P * 2 + 2 * G * N * 2), save = T / 64.0 * H * P * N * 2, work = T / 64.0 * H * 3.15e6;
    report("ssd fwd " + row, time_ms([&] { kernels::ssd_fwd_sm90(f, {}); }), 0.9, io, work);
    f.states = saved.data;
    report("ssd fwd, states saved " + row, time_ms([&] { kernels::ssd_fwd_sm90(f, {}); }), 0.9, io + save, work);
    kernels::SsdBwd w{dy.data, x.data, dt.data, A.data, B.data, C.data, D.data, cu.data, saved.data, nullptr, dx.data, d_dt.data, dA.data, dB.data, dC.data, dD.data, nullptr,
                      f.tokens, docs, f.x_stride, f.B_stride, f.C_stride, H, G, P, N, DType::kBf16};
    Buffer<uint8_t> workspace(kernels::workspace_ssd_bwd_sm90(w));
    report("ssd bwd " + row, time_ms([&] { kernels::ssd_bwd_sm90(w, {nullptr, workspace.data}); }), 3.0, T * (4.0 * H * P * 2) + 3 * save, T / 64.0 * H * 6.3e6);
    device_wait("ssd perf");
  }
}

}  // namespace weft::check
