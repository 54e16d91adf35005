#include "ops/aten.h"

#include "ops/mamba3.h"

#include <numbers>

#include "kernels/mamba3/mamba3.h"
#include "ops/aten_candidate.h"
#include "ops/node.h"
#include "ops/qk_norm.h"

namespace weft::ops {
namespace {

struct Saved {  // of the kernels that keep what they met at chunk edges
  at::Tensor states, thetas;
};
struct Fwd {
  const Mamba3Scan& in;
  const Packing& packing;
  const Mamba3State& initial;
  bool want_last;
  Saved* saved;  // null: no backward follows
  Mamba3ScanOut* out;
  const at::Tensor& like() const { return in.x_THP; }
};
struct Bwd {
  const at::Tensor& d_o;
  const Mamba3Scan& in;
  const Packing& packing;
  const Saved& saved;
  Mamba3ScanGrads* out;
  const at::Tensor& like() const { return in.x_THP; }
};
void run_reference(const Fwd& a) { *a.out = reference::mamba3_scan(a.in, a.packing, a.initial, a.want_last); }
void run_reference(const Bwd& a) { *a.out = reference::mamba3_scan_bwd(a.d_o, a.in, a.packing); }

#ifdef WEFT_CUDA
int32_t i32(int64_t n) { return static_cast<int32_t>(n); }
kernels::Mamba3State state_args(const Mamba3State& s) { return {floats(s.h_nHPN), floats(s.theta_nHA), floats(s.k_nHRN), floats(s.x_nHP)}; }
kernels::Mamba3Inputs input_args(const Mamba3Scan& s, const Packing& p) {
  return {s.x_THP.data_ptr(), s.z_THP.data_ptr(), s.B_TRGN.data_ptr(), s.C_TRGN.data_ptr(), floats(s.dt_TH), floats(s.a_TH), floats(s.lambda_TH), floats(s.omega_TA),
          floats(s.B_bias), floats(s.C_bias), floats(s.mimo_x), floats(s.mimo_z), floats(s.mimo_o), floats(s.D), p.cu_q.data_ptr<int32_t>(), s.x_THP.size(0), p.documents(),
          s.x_THP.stride(0), s.z_THP.stride(0), s.B_TRGN.stride(0), s.C_TRGN.stride(0), i32(s.x_THP.size(1)), i32(s.B_TRGN.size(2)), i32(s.x_THP.size(2)), i32(s.B_TRGN.size(3)),
          i32(s.B_TRGN.size(1)), i32(s.omega_TA.size(1)), dtype_of(s.x_THP)};
}
kernels::Mamba3Fwd args(const Fwd& a) { return {input_args(a.in, a.packing), state_args(a.initial), nullptr, nullptr, nullptr, {}}; }
kernels::Mamba3Bwd args(const Bwd& a) {
  kernels::Mamba3Bwd k{};
  k.in = input_args(a.in, a.packing), k.d_o = a.d_o.data_ptr();
  k.states = address(a.saved.states), k.thetas = floats(a.saved.thetas);
  return k;
}
kernels::Support supports_sm90(const Bwd& a, const Policy& p) {
  kernels::Mamba3Bwd k = args(a);
  if (asks_only(p)) k.states = any_address(), k.thetas = static_cast<float*>(any_address());
  return kernels::supports_mamba3_bwd_sm90(k, p.device);
}
void run_sm90(const Fwd& a, const kernels::Launch& launch) {
  const Mamba3Scan& in = a.in;
  const auto options = in.x_THP.options().requires_grad(false), f32 = options.dtype(at::kFloat);
  const int64_t n = a.packing.documents(), H = in.x_THP.size(1), P = in.x_THP.size(2), R = in.B_TRGN.size(1), N = in.B_TRGN.size(3), A = in.omega_TA.size(1);
  kernels::Mamba3Fwd k = args(a);
  a.out->o_THP = at::empty({in.x_THP.size(0), H, P}, options);
  k.o = a.out->o_THP.data_ptr();
  if (a.saved != nullptr) {
    const int64_t slots = kernels::mamba3_state_slots(in.x_THP.size(0), n);
    a.saved->states = at::empty({slots, H, P, N}, options.dtype(at::kBFloat16)), a.saved->thetas = at::empty({slots, H, A}, f32);
    k.states = a.saved->states.data_ptr(), k.thetas = floats(a.saved->thetas);
  }
  if (a.want_last) {
    a.out->last = {at::empty({n, H, P, N}, f32), at::empty({n, H, A}, f32), at::empty({n, H, R, N}, f32), at::empty({n, H, P}, f32)};
    k.last = state_args(a.out->last);
  }
  kernels::mamba3_fwd_sm90(k, launch);
}
void run_sm90(const Bwd& a, const kernels::Launch& launch) {
  const Mamba3Scan& in = a.in;
  const auto options = in.x_THP.options().requires_grad(false), f32 = options.dtype(at::kFloat);
  const auto zeros = [&](const at::Tensor& t) { return t.defined() ? at::zeros(t.sizes(), f32) : at::Tensor(); };
  Mamba3ScanGrads& g = *a.out;
  g = {at::empty(in.x_THP.sizes(), options), at::empty(in.z_THP.sizes(), options), at::empty(in.B_TRGN.sizes(), options), at::empty(in.C_TRGN.sizes(), options),
       at::empty(in.dt_TH.sizes(), f32), at::empty(in.dt_TH.sizes(), f32), at::empty(in.dt_TH.sizes(), f32), at::empty(in.omega_TA.sizes(), f32),
       zeros(in.B_bias), zeros(in.C_bias), zeros(in.mimo_x), zeros(in.mimo_z), zeros(in.mimo_o), zeros(in.D)};
  kernels::Mamba3Bwd k = args(a);
  k.dx = g.dx.data_ptr(), k.dz = g.dz.data_ptr(), k.dB = g.dB.data_ptr(), k.dC = g.dC.data_ptr();
  k.d_dt = floats(g.d_dt), k.d_a = floats(g.d_a), k.d_lambda = floats(g.d_lambda), k.d_omega = floats(g.d_omega);
  k.dB_bias = floats(g.dB_bias), k.dC_bias = floats(g.dC_bias), k.d_mimo_x = floats(g.d_mimo_x), k.d_mimo_z = floats(g.d_mimo_z), k.d_mimo_o = floats(g.d_mimo_o), k.dD = floats(g.dD);
  kernels::mamba3_bwd_sm90(k, launch);
}
// A row of one-token documents that all have a state: each a step. The caller's state stays as it is.
kernels::Mamba3Step step_args(const Fwd& a, const Mamba3State& state) { return {input_args(a.in, a.packing), nullptr, state_args(state), nullptr}; }
kernels::Support supports_step(const Fwd& a, const Policy& p) {
  if (a.saved != nullptr || !a.want_last) return {"not a decode step: no state goes in and out"};
  if (a.packing.max_q > 1 || a.packing.documents() != a.in.x_THP.size(0)) return {"documents of more or less than one token"};
  for (const at::Tensor& t : {a.initial.h_nHPN, a.initial.theta_nHA, a.initial.k_nHRN, a.initial.x_nHP})
    if (!t.defined() || t.scalar_type() != at::kFloat) return {"a part of the state is missing or not f32"};
  return kernels::supports_mamba3_step_sm90(step_args(a, a.initial), p.device);
}
void run_step(const Fwd& a, const kernels::Launch& launch) {
  const auto copy = [](const at::Tensor& t) { return t.clone(at::MemoryFormat::Contiguous); };
  a.out->o_THP = at::empty(a.in.x_THP.sizes(), a.in.x_THP.options().requires_grad(false));
  a.out->last = {copy(a.initial.h_nHPN), copy(a.initial.theta_nHA), copy(a.initial.k_nHRN), copy(a.initial.x_nHP)};
  kernels::Mamba3Step k = step_args(a, a.out->last);
  k.o = a.out->o_THP.data_ptr();
  kernels::mamba3_step_sm90(k, launch);
}
#endif

constexpr Candidate<Fwd> kFwd[] = {
#ifdef WEFT_CUDA
    {"sm90_step", [](const Fwd& a, const Policy& p) { return supports_step(a, p); }, nullptr, [](const Fwd& a, const kernels::Launch& l) { run_step(a, l); }},
    {"sm90", [](const Fwd& a, const Policy& p) { return kernels::supports_mamba3_fwd_sm90(args(a), p.device); }, nullptr, [](const Fwd& a, const kernels::Launch& l) { run_sm90(a, l); }},
#endif
    kAten<Fwd>};
constexpr Candidate<Bwd> kBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", [](const Bwd& a, const Policy& p) { return supports_sm90(a, p); },
     [](const Bwd& a) { return kernels::workspace_mamba3_bwd_sm90(args(a)); }, [](const Bwd& a, const kernels::Launch& l) { run_sm90(a, l); }},
#endif
    kAten<Bwd>};

struct Parts {  // of the projection's output: views
  at::Tensor z, x, B, C, dt, A, trap, angle;
  Parts(const at::Tensor& in, const Mamba3Shape& s) {
    int64_t at = 0;
    const auto next = [&](int64_t n) { at += n; return in.narrow(1, at - n, n); };
    z = next(s.inner()), x = next(s.inner()), B = next(s.bc()), C = next(s.bc()), dt = next(s.heads), A = next(s.heads), trap = next(s.heads), angle = next(s.angles);
  }
};

// The scalars of each token, in the wide dtype.
struct Scalars {
  at::Tensor dt, A, lambda, tanh_angle, raw_A, raw_dt;
  Scalars(const Parts& p, const Mamba3Weights& w, const Mamba3Options& o) {
    const auto type = wide(p.x);
    raw_A = p.A.to(type), raw_dt = p.dt.to(type) + w.dt_bias.value.to(type);
    dt = at::softplus(raw_dt), lambda = at::sigmoid(p.trap.to(type)), tanh_angle = at::tanh(p.angle.to(type));
    A = (-(o.heavy_tail ? at::where(raw_A >= 0, 1 + raw_A, 1 / (1 - raw_A.clamp_max(0))) : at::softplus(raw_A))).clamp_max(-o.A_floor);
  }
  at::Tensor A_slope(const Mamba3Options& o) const {  // dA / d raw, 0 where A is clamped
    const at::Tensor slope = o.heavy_tail ? at::where(raw_A >= 0, at::ones_like(raw_A), (1 - raw_A.clamp_max(0)).pow(-2)) : at::sigmoid(raw_A);
    return -slope * (A < -o.A_floor).to(A.scalar_type());
  }
};

at::Tensor rows_of(const at::Tensor& x_TE, const Mamba3Shape& s) { return x_TE.view({x_TE.size(0), s.rank * s.groups, s.state_dim}); }

struct NormedParts {
  NormedHeads B, C;
  NormedParts(const Parts& p, const Mamba3Shape& s, const Mamba3Weights& w, double eps, bool backward_follows, const Policy& policy)
      : B(normed_heads(rows_of(p.B, s), &w.B_norm, eps, backward_follows, policy)), C(normed_heads(rows_of(p.C, s), &w.C_norm, eps, backward_follows, policy)) {}
};

Mamba3Scan scan_inputs(const Parts& p, const NormedParts& n, const Scalars& c, const Mamba3Shape& s, const Mamba3Weights& w) {
  const auto type = wide(p.x);
  const auto of = [&](const Weight* v) { return v == nullptr ? at::Tensor() : v->value.to(type); };
  const int64_t T = p.x.size(0);
  return {p.x.reshape({T, s.heads, s.head_dim}), p.z.reshape({T, s.heads, s.head_dim}), n.B.y_THd.view({T, s.rank, s.groups, s.state_dim}),
          n.C.y_THd.view({T, s.rank, s.groups, s.state_dim}),
          c.dt, c.A * c.dt, c.lambda, std::numbers::pi * c.tanh_angle, of(&w.B_bias), of(&w.C_bias), of(w.mimo_x), of(w.mimo_z), of(w.mimo_o), of(w.D)};
}

struct Mamba3Node final : Node {
  SavedTensor in;
  Saved saved;
  Mamba3Shape s{};
  Mamba3Options o;
  Weight *dt_bias = nullptr, *B_norm = nullptr, *C_norm = nullptr, *B_bias = nullptr, *C_bias = nullptr, *mimo_x = nullptr, *mimo_z = nullptr, *mimo_o = nullptr, *D = nullptr;
  Packing packing;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor in = unpack(this->in);
    const Parts p(in, s);
    const Mamba3Weights w{*dt_bias, *B_norm, *C_norm, *B_bias, *C_bias, mimo_x, mimo_z, mimo_o, D};
    const Scalars c(p, w, o);
    const Policy parts = of_parts(policy);
    const NormedParts n(p, s, w, o.eps, true, parts);
    const Mamba3Scan scan = scan_inputs(p, n, c, s, w);
    Mamba3ScanGrads g;
    run_chosen<Bwd>("mamba3_bwd", kBwd, {grads[0].contiguous().view(scan.x_THP.sizes()), scan, packing, saved, &g}, policy);
    at::Tensor d_in = at::empty_like(in);
    const Parts d(d_in, s);
    d.z.copy_(g.dz.flatten(1)), d.x.copy_(g.dx.flatten(1));
    const auto norm_back = [&](const at::Tensor& dy, const at::Tensor& x, Weight* weight, const at::Tensor& rstd, const at::Tensor& to) {
      normed_heads_bwd(dy.contiguous().view({x.size(0), s.rank * s.groups, s.state_dim}), rows_of(x, s), weight, o.eps, rstd, rows_of(to, s), parts);
    };
    norm_back(g.dB, p.B, B_norm, n.B.rstd_TH, d.B), norm_back(g.dC, p.C, C_norm, n.C.rstd_TH, d.C);
    const at::Tensor d_raw_dt = (g.d_dt + g.d_a * c.A) * at::sigmoid(c.raw_dt);
    d.dt.copy_(d_raw_dt), d.A.copy_(g.d_a * c.dt * c.A_slope(o)), d.trap.copy_(g.d_lambda * c.lambda * (1 - c.lambda));
    d.angle.copy_(g.d_omega * std::numbers::pi * (1 - c.tanh_angle.square()));
    dt_bias->accumulate(d_raw_dt.sum(0));
    B_bias->accumulate(g.dB_bias), C_bias->accumulate(g.dC_bias);
    if (mimo_x != nullptr) mimo_x->accumulate(g.d_mimo_x), mimo_z->accumulate(g.d_mimo_z), mimo_o->accumulate(g.d_mimo_o);
    if (D != nullptr) D->accumulate(g.dD);
    return {d_in};
  }
};

void check(const at::Tensor& in, const Mamba3Shape& s, const Mamba3Weights& w, const Packing& packing) {
  const char* op = "mamba3";
  check_shape(in.dim() == 2 && in.size(0) == packing.tokens() && in.size(1) == s.projected() && in.is_contiguous(), op, "input", describe(in),
              "[" + std::to_string(packing.tokens()) + ", " + std::to_string(s.projected()) + "] contiguous");
  check_shape(s.groups > 0 && s.heads % s.groups == 0, op, "heads over groups", std::to_string(s.heads) + " over " + std::to_string(s.groups), "a whole number");
  check_shape(s.angles >= 0 && 2 * s.angles <= s.state_dim, op, "angles", std::to_string(s.angles), "at most " + std::to_string(s.state_dim / 2));
  const auto want = [&](const Weight* v, const char* what, std::vector<int64_t> shape) {
    if (v != nullptr) check_shape(v->value.sizes() == shape, op, what, describe(v->value), "[heads, rank, ...] of the mixer's shape");
  };
  want(&w.dt_bias, "dt_bias", {s.heads}), want(w.D, "D", {s.heads}), want(&w.B_norm, "B_norm", {s.state_dim}), want(&w.C_norm, "C_norm", {s.state_dim});
  want(&w.B_bias, "B_bias", {s.heads, s.rank, s.state_dim}), want(&w.C_bias, "C_bias", {s.heads, s.rank, s.state_dim});
  const bool none = w.mimo_x == nullptr && w.mimo_z == nullptr && w.mimo_o == nullptr, all = w.mimo_x != nullptr && w.mimo_z != nullptr && w.mimo_o != nullptr;
  check_shape(all || (none && s.rank == 1), op, "mimo_x, mimo_z, mimo_o", none ? "none" : "some", s.rank == 1 ? "all or none" : "all three for rank " + std::to_string(s.rank));
  for (const Weight* v : std::initializer_list<const Weight*>{w.mimo_x, w.mimo_z, w.mimo_o}) want(v, "mimo weights", {s.heads, s.rank, s.head_dim});
}

}  // namespace

at::Tensor mamba3(const at::Tensor& in, const Mamba3Shape& s, const Mamba3Weights& w, const Mamba3Options& o, const Packing& packing, Mamba3State* state, const Policy& policy) {
  check(in, s, w, packing);
  bool weights = false;
  for (const Weight* v : std::initializer_list<const Weight*>{&w.dt_bias, &w.B_norm, &w.C_norm, &w.B_bias, &w.C_bias, w.mimo_x, w.mimo_z, w.mimo_o, w.D})
    weights = weights || (v != nullptr && v->wants_grad());
  auto node = state == nullptr ? make_node<Mamba3Node>(policy, {in}, weights) : nullptr;
  Mamba3ScanOut out;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    const Parts p(in.detach(), s);
    const Mamba3Scan scan = scan_inputs(p, NormedParts(p, s, w, o.eps, false, of_parts(policy)), Scalars(p, w, o), s, w);
    run_chosen<Fwd>("mamba3", kFwd, {scan, packing, state == nullptr ? Mamba3State{} : *state, state != nullptr, node ? &node->saved : nullptr, &out}, policy);
    if (state != nullptr) *state = out.last;
    out.o_THP = out.o_THP.reshape({in.size(0), s.inner()});
  }
  if (!node) return out.o_THP;
  node->in = save(in), node->s = s, node->o = o, node->packing = packing;
  node->dt_bias = &w.dt_bias, node->B_norm = &w.B_norm, node->C_norm = &w.C_norm, node->B_bias = &w.B_bias, node->C_bias = &w.C_bias;
  node->mimo_x = w.mimo_x, node->mimo_z = w.mimo_z, node->mimo_o = w.mimo_o, node->D = w.D;
  return attach(node, out.o_THP);
}

}  // namespace weft::ops
