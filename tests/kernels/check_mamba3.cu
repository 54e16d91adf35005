// Mamba-3 against the recurrence and its adjoint in fp64 (nam56r.md 2.3, 2.4).
#include "harness.h"
#include "kernels/mamba3/mamba3.h"

namespace weft::check {
namespace {

using kernels::Mamba3Bwd;
using kernels::Mamba3Fwd;
using kernels::Mamba3Inputs;

constexpr int P = 64, N = 128;
using Vec = std::vector<double>;

struct Case {
  const char* name;
  std::vector<int> lengths;
  int H, G, R, angles;
  bool state, gate, skip;
};

struct Values {
  Vec x, z, B, C, dt, a, lambda, omega, B_bias, C_bias, mimo_x, mimo_z, mimo_o, D;
};

struct Out {
  Vec o, h, theta, k, x;
};

double sigmoid(double v) { return 1 / (1 + std::exp(-v)); }

// Forward, and with d_o the gradients of every input (not of the initial state).
void reference(const Case& c, const Values& v, const Out* initial, Out& out, const Vec& d_o, Values* g) {
  const int H = c.H, G = c.G, R = c.R, A2 = c.angles;
  const auto cu = packed(c.lengths);
  const size_t T = cu.back(), docs = c.lengths.size();
  out.o.assign(T * H * P, 0), out.h.assign(docs * H * P * N, 0), out.theta.assign(docs * H * A2, 0), out.k.assign(docs * H * R * N, 0), out.x.assign(docs * H * P, 0);
  if (g) {
    *g = v;
    for (Vec* p : {&g->x, &g->z, &g->B, &g->C, &g->dt, &g->a, &g->lambda, &g->omega, &g->B_bias, &g->C_bias, &g->mimo_x, &g->mimo_z, &g->mimo_o, &g->D}) std::fill(p->begin(), p->end(), 0);
  }
  auto pair = [&](int i, int& lo, int& hi) { lo = R > 1 ? i : 2 * i, hi = R > 1 ? i + N / 2 : 2 * i + 1; };
  for (size_t d = 0; d < docs; ++d)
    for (int h = 0; h < H; ++h) {
      const int len = c.lengths[d], grp = h / (H / G);
      const size_t row = d * H + h;
      std::vector<Vec> hs(len + 1, Vec(N * P)), U(len + 1, Vec(N * P)), th(len + 1, Vec(A2)), kk(len, Vec(R * N)), qq(len, Vec(R * N));  // U[t + 1] is of step t
      if (initial) {
        for (int p = 0; p < P; ++p)
          for (int n = 0; n < N; ++n) hs[0][n * P + p] = initial->h[(row * P + p) * N + n];
        for (int i = 0; i < A2; ++i) th[0][i] = initial->theta[row * A2 + i];
        for (int r = 0; r < R; ++r)
          for (int n = 0; n < N; ++n)
            for (int p = 0; p < P; ++p) U[0][n * P + p] += initial->k[(row * R + r) * N + n] * initial->x[row * P + p] * v.mimo_x[(h * R + r) * P + p];
      }
      Vec y(static_cast<size_t>(len) * R * P);
      for (int t = 0; t < len; ++t) {
        const size_t tok = cu[d] + t, th_at = tok * H + h;
        const double dt = v.dt[th_at], al = std::exp(v.a[th_at]), lam = v.lambda[th_at];
        for (int i = 0; i < A2; ++i) th[t + 1][i] = th[t][i] + v.omega[tok * A2 + i] * dt;
        for (int r = 0; r < R; ++r) {
          for (int n = 0; n < N; ++n) {
            const size_t at = ((tok * R + r) * G + grp) * N + n, b = (static_cast<size_t>(h) * R + r) * N + n;
            kk[t][r * N + n] = v.B[at] + v.B_bias[b], qq[t][r * N + n] = v.C[at] + v.C_bias[b];
          }
          for (int i = 0; i < A2; ++i) {
            int lo, hi;
            pair(i, lo, hi);
            const double cs = std::cos(th[t + 1][i]), sn = std::sin(th[t + 1][i]);
            for (Vec* w : {&kk[t], &qq[t]}) {
              double &u = (*w)[r * N + lo], &s = (*w)[r * N + hi];
              const double a = u * cs - s * sn, b = u * sn + s * cs;
              u = a, s = b;
            }
          }
          for (int n = 0; n < N; ++n)
            for (int p = 0; p < P; ++p) U[t + 1][n * P + p] += kk[t][r * N + n] * v.x[th_at * P + p] * v.mimo_x[(h * R + r) * P + p];
        }
        for (int i = 0; i < N * P; ++i) hs[t + 1][i] = al * hs[t][i] + (1 - lam) * dt * al * U[t][i] + lam * dt * U[t + 1][i];
        for (int r = 0; r < R; ++r)
          for (int p = 0; p < P; ++p) {
            double s = v.D[h] * v.x[th_at * P + p] * v.mimo_x[(h * R + r) * P + p];
            for (int n = 0; n < N; ++n) s += hs[t + 1][n * P + p] * qq[t][r * N + n];
            y[(t * R + r) * P + p] = s;
            const double u = v.z[th_at * P + p] * v.mimo_z[(h * R + r) * P + p];
            out.o[th_at * P + p] += v.mimo_o[(h * R + r) * P + p] * s * (c.gate ? u * sigmoid(u) : 1);
          }
      }
      for (int p = 0; p < P; ++p)
        for (int n = 0; n < N; ++n) out.h[(row * P + p) * N + n] = hs[len][n * P + p];
      for (int i = 0; i < A2; ++i) out.theta[row * A2 + i] = th[len][i];
      for (int i = 0; i < R * N; ++i) out.k[row * R * N + i] = len ? kk[len - 1][i] : initial ? initial->k[row * R * N + i] : 0;
      for (int p = 0; p < P; ++p) out.x[row * P + p] = len ? v.x[((cu[d] + len - 1) * H + h) * P + p] : initial ? initial->x[row * P + p] : 0;
      if (!g) continue;
      Vec Gn(N * P), phi(A2);  // adjoint of h at step t + 1 already times alpha; sum of d theta of later steps
      Vec later(N * P);        // beta_{t+1} G_{t+1}
      for (int t = len - 1; t >= 0; --t) {
        const size_t tok = cu[d] + t, th_at = tok * H + h;
        const double dt = v.dt[th_at], al = std::exp(v.a[th_at]), lam = v.lambda[th_at], beta = (1 - lam) * dt * al, gamma = lam * dt;
        Vec dY(R * P), dq(R * N), dk(R * N);
        for (int r = 0; r < R; ++r)
          for (int p = 0; p < P; ++p) {
            const size_t w = (static_cast<size_t>(h) * R + r) * P + p;
            const double go = d_o[th_at * P + p], yv = y[(t * R + r) * P + p], z = v.z[th_at * P + p], u = z * v.mimo_z[w], s = sigmoid(u), gate = c.gate ? u * s : 1;
            g->mimo_o[w] += go * yv * gate, dY[r * P + p] = go * v.mimo_o[w] * gate;
            if (c.gate) {
              const double du = go * v.mimo_o[w] * yv * s * (1 + u * (1 - s));
              g->z[th_at * P + p] += du * v.mimo_z[w], g->mimo_z[w] += du * z;
            }
          }
        double da = 0, db = 0, dg = 0;
        Vec W(N * P), mine(N * P);
        for (int n = 0; n < N; ++n)
          for (int p = 0; p < P; ++p) {
            double s = Gn[n * P + p];
            for (int r = 0; r < R; ++r) s += qq[t][r * N + n] * dY[r * P + p], dq[r * N + n] += hs[t + 1][n * P + p] * dY[r * P + p];
            da += s * hs[t][n * P + p], db += s * U[t][n * P + p], dg += s * U[t + 1][n * P + p];
            W[n * P + p] = gamma * s + later[n * P + p], mine[n * P + p] = s;
          }
        for (int r = 0; r < R; ++r)
          for (int p = 0; p < P; ++p) {
            const size_t w = (static_cast<size_t>(h) * R + r) * P + p;
            const double vv = v.x[th_at * P + p] * v.mimo_x[w];
            double dv = v.D[h] * dY[r * P + p];
            g->D[h] += dY[r * P + p] * vv;
            for (int n = 0; n < N; ++n) dv += W[n * P + p] * kk[t][r * N + n], dk[r * N + n] += W[n * P + p] * vv;
            g->x[th_at * P + p] += dv * v.mimo_x[w], g->mimo_x[w] += dv * v.x[th_at * P + p];
          }
        g->a[th_at] = al * (da + db * (1 - lam) * dt);
        g->dt[th_at] += db * (1 - lam) * al + dg * lam, g->lambda[th_at] = dt * (dg - db * al);
        for (int r = 0; r < R; ++r)
          for (int i = 0; i < A2; ++i) {
            int lo, hi;
            pair(i, lo, hi);
            const double cs = std::cos(th[t + 1][i]), sn = std::sin(th[t + 1][i]);
            for (int which = 0; which < 2; ++which) {
              Vec& dr = which ? dq : dk;
              const Vec& rot = which ? qq[t] : kk[t];
              double &du = dr[r * N + lo], &dw = dr[r * N + hi];
              phi[i] += -rot[r * N + hi] * du + rot[r * N + lo] * dw;
              const double a = du * cs + dw * sn, b = -du * sn + dw * cs;
              du = a, dw = b;
            }
          }
        for (int i = 0; i < A2; ++i) g->omega[tok * A2 + i] += phi[i] * dt, g->dt[th_at] += phi[i] * v.omega[tok * A2 + i];
        for (int r = 0; r < R; ++r)
          for (int n = 0; n < N; ++n) {
            const size_t at = ((tok * R + r) * G + grp) * N + n, b = (static_cast<size_t>(h) * R + r) * N + n;
            g->B[at] += dk[r * N + n], g->B_bias[b] += dk[r * N + n], g->C[at] += dq[r * N + n], g->C_bias[b] += dq[r * N + n];
          }
        for (int i = 0; i < N * P; ++i) Gn[i] = al * mine[i], later[i] = beta * mine[i];
      }
    }
}

struct Data {  // host values, rounded as the device sees them, and the device copies
  std::vector<bf16> x, z, B, C;
  std::vector<float> dt, a, lambda, omega, B_bias, C_bias, mimo_x, mimo_z, mimo_o, D;
  Data(const Case& c, Random& r, size_t T)
      : x(r.normal<bf16>(T * c.H * P)), z(r.normal<bf16>(T * c.H * P)), B(r.normal<bf16>(T * c.R * c.G * N, 0.3f)), C(r.normal<bf16>(T * c.R * c.G * N, 0.3f)),
        dt(r.fill<float>(T * c.H, [](Random& q) { return q.uniform(0.001f, 0.2f); })), a(r.fill<float>(T * c.H, [](Random& q) { return -q.uniform(0.001f, 0.3f); })),
        lambda(r.fill<float>(T * c.H, [](Random& q) { return q.uniform(0.05f, 0.95f); })), omega(r.fill<float>(T * c.angles, [](Random& q) { return q.uniform(-3.1f, 3.1f); })),
        B_bias(r.normal<float>(c.H * c.R * N, 0.3f)), C_bias(r.normal<float>(c.H * c.R * N, 0.3f)), mimo_x(r.normal<float>(c.H * c.R * P)), mimo_z(r.normal<float>(c.H * c.R * P)),
        mimo_o(r.normal<float>(c.H * c.R * P)), D(r.normal<float>(c.H)) {
    if (c.R == 1) std::fill(mimo_x.begin(), mimo_x.end(), 1.f), std::fill(mimo_z.begin(), mimo_z.end(), 1.f), std::fill(mimo_o.begin(), mimo_o.end(), 1.f);
    if (!c.skip) std::fill(D.begin(), D.end(), 0.f);
  }
  Values values() const {
    return {wide(x), wide(z), wide(B), wide(C), wide(dt), wide(a), wide(lambda), wide(omega), wide(B_bias), wide(C_bias), wide(mimo_x), wide(mimo_z), wide(mimo_o), wide(D)};
  }
};
struct OnDevice {
  Buffer<bf16> x, z, B, C;
  Buffer<float> dt, a, lambda, omega, B_bias, C_bias, mimo_x, mimo_z, mimo_o, D;
  Buffer<int32_t> cu;
  OnDevice(const Data& d, const std::vector<int>& lengths)
      : x(d.x), z(d.z), B(d.B), C(d.C), dt(d.dt), a(d.a), lambda(d.lambda), omega(d.omega), B_bias(d.B_bias), C_bias(d.C_bias), mimo_x(d.mimo_x), mimo_z(d.mimo_z),
        mimo_o(d.mimo_o), D(d.D), cu(packed(lengths)) {}
  Mamba3Inputs inputs(const Case& c, int64_t T) const {
    const bool mimo = c.R > 1;
    return {x.data, c.gate ? z.data : nullptr, B.data, C.data, dt.data, a.data, lambda.data, omega.data, B_bias.data, C_bias.data, mimo ? mimo_x.data : nullptr,
            mimo ? mimo_z.data : nullptr, mimo ? mimo_o.data : nullptr, c.skip ? D.data : nullptr, cu.data, T, static_cast<int64_t>(c.lengths.size()), c.H * P, c.H * P,
            c.R * c.G * N, c.R * c.G * N, c.H, c.G, P, N, c.R, c.angles, DType::kBf16};
  }
};

void check(const Case& c) {
  Random random(c.H * 17 + c.R);
  const auto cu = packed(c.lengths);
  const size_t T = cu.back(), docs = c.lengths.size(), rows = docs * c.H;
  const Data data(c, random, T);
  const auto d_o = random.normal<bf16>(T * c.H * P);
  const auto h0 = random.normal<float>(rows * P * N), theta0 = random.fill<float>(rows * c.angles, [](Random& r) { return r.uniform(0, 6.2f); }), k0 = random.normal<float>(rows * c.R * N),
             x0 = random.normal<float>(rows * P);
  const Out initial{{}, wide(h0), wide(theta0), wide(k0), wide(x0)};
  Out want;
  Values grad;
  reference(c, data.values(), c.state ? &initial : nullptr, want, wide(d_o), &grad);

  const OnDevice dev(data, c.lengths);
  const size_t slots = kernels::mamba3_state_slots(T, docs);
  Buffer<bf16> o(T * c.H * P), states(slots * c.H * P * N);
  Buffer<float> thetas(slots * c.H * c.angles), gh(h0), gtheta(theta0), gk(k0), gx(x0), h(rows * P * N), theta(rows * c.angles), k(rows * c.R * N), x(rows * P);
  Mamba3Fwd f{dev.inputs(c, T), {}, o.data, states.data, thetas.data, {h.data, theta.data, k.data, x.data}};
  if (c.state) f.initial = {gh.data, gtheta.data, gk.data, gx.data};
  const std::string name = std::string("mamba3 ") + c.name + " ";
  const auto s = kernels::supports_mamba3_fwd_sm90(f, device());
  if (!s) return expect(name, false, s.refusal);
  kernels::mamba3_fwd_sm90(f, {});
  device_wait("mamba3_fwd");
  compare(name + "o", o.host(), want.o);
  compare(name + "state h", h.host(), want.h);
  compare(name + "state k", k.host(), want.k);
  compare(name + "state x", x.host(), want.x);
  auto turned = theta.host();
  std::vector<float> sines;
  Vec want_sines;
  for (size_t i = 0; i < turned.size(); ++i) sines.push_back(std::sin(turned[i])), want_sines.push_back(std::sin(want.theta[i]));
  compare(name + "sin of state theta", sines, want_sines, 1e-4, 1e-4);

  if (c.state) return;  // the backward takes no initial state
  Buffer<bf16> gdo(d_o), dx(T * c.H * P), dz(T * c.H * P), dB(T * c.R * c.G * N), dC(T * c.R * c.G * N);
  Buffer<float> d_dt(T * c.H), d_a(T * c.H), d_lambda(T * c.H), d_omega(T * c.angles), dB_bias(c.H * c.R * N), dC_bias(c.H * c.R * N), dmx(c.H * c.R * P), dmz(c.H * c.R * P), dmo(c.H * c.R * P),
      dD(c.H);
  for (auto* b : {&dB_bias, &dC_bias, &dmx, &dmz, &dmo, &dD}) b->zero();
  const bool mimo = c.R > 1;
  Mamba3Bwd b{f.in, gdo.data, states.data, thetas.data, dx.data, c.gate ? dz.data : nullptr, dB.data, dC.data, d_dt.data, d_a.data, d_lambda.data, d_omega.data, dB_bias.data, dC_bias.data,
              mimo ? dmx.data : nullptr, mimo && c.gate ? dmz.data : nullptr, mimo ? dmo.data : nullptr, c.skip ? dD.data : nullptr};
  const auto sb = kernels::supports_mamba3_bwd_sm90(b, device());
  if (!sb) return expect(name + "bwd", false, sb.refusal);
  Buffer<uint8_t> workspace(kernels::workspace_mamba3_bwd_sm90(b));
  kernels::mamba3_bwd_sm90(b, {nullptr, workspace.data});
  device_wait("mamba3_bwd");
  compare(name + "dx", dx.host(), grad.x);
  if (c.gate) compare(name + "dz", dz.host(), grad.z);
  compare(name + "dB", dB.host(), grad.B), compare(name + "dC", dC.host(), grad.C);
  compare(name + "d_dt", d_dt.host(), grad.dt, 3e-2), compare(name + "d_a", d_a.host(), grad.a, 2e-2), compare(name + "d_lambda", d_lambda.host(), grad.lambda, 2e-2);
  compare(name + "d_omega", d_omega.host(), grad.omega, 3e-2);
  compare(name + "dB_bias", dB_bias.host(), grad.B_bias), compare(name + "dC_bias", dC_bias.host(), grad.C_bias);
  if (mimo) compare(name + "d_mimo_x", dmx.host(), grad.mimo_x), compare(name + "d_mimo_o", dmo.host(), grad.mimo_o);
  if (mimo && c.gate) compare(name + "d_mimo_z", dmz.host(), grad.mimo_z);
  if (c.skip) compare(name + "dD", dD.host(), grad.D, 3e-2);  // dY is rounded, its sum cancels
  again(name + "fwd ", [&](const kernels::Launch& l) { kernels::mamba3_fwd_sm90(f, l); }, nullptr, {written(o), written(h), written(theta), written(k), written(x)});
  again(name + "bwd ", [&](const kernels::Launch& l) { kernels::mamba3_bwd_sm90(b, l); }, workspace.data,
        {written(dx), written(dz), written(dB), written(dC), written(d_dt), written(d_a), written(d_lambda), written(d_omega), added(dB_bias), added(dC_bias), added(dmx), added(dmz), added(dmo), added(dD)});
}

// Three steps of decode, one row at a time out of a pool, against the scan over three tokens from the same initial state.
void check_step(int R) {
  const Case c{"", {3}, 4, 2, R, R == 1 ? 16 : 32, true, true, true};
  const std::string name = "mamba3 step R" + std::to_string(R) + " ";
  Random random(R);
  const Data data(c, random, 3);
  const size_t rows = c.H;
  auto h0 = random.normal<float>(2 * rows * P * N), theta0 = random.fill<float>(2 * rows * c.angles, [](Random& r) { return r.uniform(0, 6.2f); }), k0 = random.normal<float>(2 * rows * R * N), x0 = random.normal<float>(2 * rows * P);
  auto second = [](const auto& v) { return Vec(v.begin() + v.size() / 2, v.end()); };  // the pool's slot 1 is used
  const Out initial{{}, second(h0), second(theta0), second(k0), second(x0)};
  Out want;
  reference(c, data.values(), &initial, want, {}, nullptr);
  const OnDevice dev(data, c.lengths);
  Buffer<float> h(h0), theta(theta0), k(k0), x(x0);
  Buffer<bf16> o(3 * c.H * P);
  Buffer<int32_t> slots(std::vector<int32_t>{1});
  for (int t = 0; t < 3; ++t) {
    kernels::Mamba3Step s{dev.inputs(c, 1), slots.data, {h.data, theta.data, k.data, x.data}, o.data + t * c.H * P};
    s.in.x = dev.x.data + t * c.H * P, s.in.z = dev.z.data + t * c.H * P, s.in.B = dev.B.data + t * R * c.G * N, s.in.C = dev.C.data + t * R * c.G * N;
    s.in.dt += t * c.H, s.in.a += t * c.H, s.in.lambda += t * c.H, s.in.omega += t * c.angles;
    const auto ok = kernels::supports_mamba3_step_sm90(s, device());
    if (!ok) return expect(name, false, ok.refusal);
    kernels::mamba3_step_sm90(s, {});
  }
  device_wait("mamba3_step");
  compare(name + "o", o.host(), want.o);
  auto half = [](std::vector<float> v) { return std::vector<float>(v.begin() + v.size() / 2, v.end()); };
  compare(name + "h", half(h.host()), want.h, 1e-4, 1e-4), compare(name + "k", half(k.host()), want.k, 1e-4, 1e-4), compare(name + "x", half(x.host()), want.x);
  auto first = h.host();
  expect(name + "other slots untouched", std::equal(h0.begin(), h0.begin() + rows * P * N, first.begin()));
}

}  // namespace

void check_mamba3(bool small) {
  for (int R : {1, 2, 4}) check_step(R);
  check({"mimo one token", {1}, 4, 1, 4, 32, true, true, true});
  check({"mimo 15 16 0 40", {15, 16, 0, 40}, 4, 1, 4, 32, true, true, true});
  check({"mimo 130, two groups", {130}, 8, 2, 4, 32, false, true, true});
  check({"mimo G = H, no gate", {70}, 2, 2, 4, 64, true, false, false});
  check({"mimo 1 15 16 0 40", {1, 15, 16, 0, 40}, 4, 1, 4, 32, false, true, true});
  check({"mimo 64 angles, no gate", {70}, 2, 1, 4, 64, false, false, false});
  check({"rank 2", {90}, 2, 1, 2, 32, true, true, true});
  check({"rank 2 1 33", {1, 33}, 2, 1, 2, 32, false, true, true});
  check({"siso 66 64", {66, 64}, 4, 2, 1, 32, false, true, true});
  check({"siso 1 63 65", {1, 63, 65}, 2, 1, 1, 32, true, true, true});
  check({"siso no gate", {150}, 1, 1, 1, 16, false, false, true});
  if (!small) check({"mimo, NAM56R heads", {200, 333}, 128, 8, 4, 32, false, true, true}), check({"siso, NAM56R heads", {200, 333}, 128, 8, 1, 32, false, true, true});
}

void perf_mamba3() {
  for (const auto& [R, H] : {std::pair{4, 128}, std::pair{4, 120}, std::pair{1, 128}}) {  // 15 heads a group: the forward with one head a block
    const Case c{"", std::vector<int>(8, 4096), H, 8, R, 32, false, true, true};
    Random random(5);
    const size_t T = 32768;
    Data data(c, random, 64);
    data.x = random.bulk<bf16>(T * c.H * P), data.z = random.bulk<bf16>(T * c.H * P), data.B = random.bulk<bf16>(T * R * c.G * N), data.C = random.bulk<bf16>(T * R * c.G * N);
    data.dt = random.bulk<float>(T * c.H, 0.05f), data.omega = random.bulk<float>(T * 32);
    for (auto& v : data.dt) v = std::abs(v);
    data.a = data.dt, data.lambda.assign(T * c.H, 0.5f);
    for (auto& v : data.a) v = -v;
    const OnDevice dev(data, c.lengths);
    const size_t slots = kernels::mamba3_state_slots(T, 8);
    Buffer<bf16> o(T * c.H * P), states(slots * c.H * P * N), d_o(random.bulk<bf16>(T * c.H * P));
    Buffer<float> thetas(slots * c.H * 32);
    Mamba3Fwd f{dev.inputs(c, T), {}, o.data, nullptr, nullptr, {}};
    const double chunks = static_cast<double>(T) * R / 64 * c.H, bytes = T * (3.0 * c.H * P * 2 + 2.0 * R * c.G * N * 2);
    const std::string row = "T32768 H" + std::to_string(H) + " P64 N128 G8 R" + std::to_string(R);
    report("mamba3 fwd " + row, time_ms([&] { kernels::mamba3_fwd_sm90(f, {}); }), 3.0, bytes, chunks * 3.15e6);
    f.states = states.data, f.thetas = thetas.data;
    report("mamba3 fwd, states saved " + row, time_ms([&] { kernels::mamba3_fwd_sm90(f, {}); }), 3.0, bytes + T / 64.0 * c.H * P * N * 2, chunks * 3.15e6);
    device_wait("mamba3 perf");
    Buffer<bf16> dx(T * c.H * P), dz(T * c.H * P), dB(T * R * c.G * N), dC(T * R * c.G * N);
    Buffer<float> d_dt(T * c.H), d_a(T * c.H), d_lambda(T * c.H), d_omega(T * 32), dB_bias(c.H * R * N), dC_bias(c.H * R * N), dmx(c.H * R * P), dmz(c.H * R * P), dmo(c.H * R * P), dD(c.H);
    const bool mimo = R > 1;
    Mamba3Bwd b{f.in, d_o.data, states.data, thetas.data, dx.data, dz.data, dB.data, dC.data, d_dt.data, d_a.data, d_lambda.data, d_omega.data, dB_bias.data, dC_bias.data, mimo ? dmx.data : nullptr,
                mimo ? dmz.data : nullptr, mimo ? dmo.data : nullptr, dD.data};
    Buffer<uint8_t> workspace(kernels::workspace_mamba3_bwd_sm90(b));
    report("mamba3 bwd " + row, time_ms([&] { kernels::mamba3_bwd_sm90(b, {nullptr, workspace.data}); }, 10), 12.0, 2 * bytes, chunks * 7.3e6);
    device_wait("mamba3 perf");
  }
}

}  // namespace weft::check
