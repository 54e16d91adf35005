#include "ops/aten.h"

#include "ops/delta.h"

#include "kernels/delta/delta.h"
#include "kernels/gdn/gdn.h"
#include "ops/aten_candidate.h"
#include "ops/node.h"

namespace weft::ops {
namespace {

struct Saved {  // for the backward of the kernels that made it: chunks have inverses, single steps have none
  at::Tensor states, inverses;
};
struct Fwd {
  const DeltaInputs& in;
  const Packing& packing;
  bool want_final_state, two;
  Saved* saved;  // null: no backward follows
  DeltaOut* out;
  const at::Tensor& like() const { return in.v; }
};
struct Bwd {
  const at::Tensor& d_o;
  const DeltaInputs& in;
  const at::Tensor& d_final_state;
  const Saved& saved;
  const Packing& packing;
  bool two;
  DeltaGrads* out;
  const at::Tensor& like() const { return in.v; }
};

void run_reference(const Fwd& a) {
  *a.out = a.two ? reference::gated_delta2(a.in, a.packing, a.want_final_state) : reference::gated_delta(a.in, a.packing, a.want_final_state);
}
void run_reference(const Bwd& a) {
  *a.out = a.two ? reference::gated_delta2_bwd(a.d_o, a.in, a.d_final_state, a.packing) : reference::gated_delta_bwd(a.d_o, a.in, a.d_final_state, a.packing);
}

#ifdef WEFT_CUDA
using kernels::Launch;
using kernels::Support;

int32_t i32(int64_t n) { return static_cast<int32_t>(n); }
DeltaInputs contiguous(const DeltaInputs& in) {
  const auto one = [](const at::Tensor& t) { return t.defined() ? t.contiguous() : t; };
  return {one(in.q), one(in.k), one(in.v), one(in.g), one(in.beta), one(in.write), one(in.initial_state), in.scale};
}
constexpr int32_t kFewTokens = 16;  // documents no longer than this are cheaper one step after the other

kernels::GdnFwd chunk_args(const DeltaInputs& in, const Packing& p) {
  kernels::GdnFwd k{};
  k.q = in.q.data_ptr(), k.k = in.k.data_ptr(), k.v = in.v.data_ptr(), k.g = floats(in.g), k.beta = floats(in.beta), k.cu_seqlens = p.cu_q.data_ptr<int32_t>(), k.initial_state = floats(in.initial_state);
  k.tokens = in.v.size(0), k.documents = p.documents(), k.key_heads = i32(in.k.size(1)), k.value_heads = i32(in.v.size(1)), k.key_dim = i32(in.k.size(2)), k.value_dim = i32(in.v.size(2));
  k.scale = static_cast<float>(in.scale), k.dtype = dtype_of(in.v);
  return k;
}
kernels::GdnBwd chunk_args(const Bwd& a) {
  const kernels::GdnFwd f = chunk_args(a.in, a.packing);
  kernels::GdnBwd k{};
  k.d_o = a.d_o.data_ptr(), k.q = f.q, k.k = f.k, k.v = f.v, k.g = f.g, k.beta = f.beta, k.cu_seqlens = f.cu_seqlens, k.states = address(a.saved.states), k.inverses = address(a.saved.inverses);
  k.d_final_state = floats(a.d_final_state), k.tokens = f.tokens, k.documents = f.documents, k.key_heads = f.key_heads, k.value_heads = f.value_heads, k.key_dim = f.key_dim, k.value_dim = f.value_dim;
  k.scale = f.scale, k.dtype = f.dtype;
  return k;
}
kernels::DeltaInputs step_args(const DeltaInputs& in, const Packing& p, bool two) {
  return {in.q.data_ptr(), in.k.data_ptr(), in.v.data_ptr(), floats(in.g), floats(in.beta), floats(in.write), p.cu_q.data_ptr<int32_t>(), in.v.size(0), p.documents(),
          i32(in.k.size(1)), i32(in.v.size(1)), i32(in.k.size(2)), i32(in.v.size(2)), static_cast<float>(in.scale), two, dtype_of(in.v)};
}
kernels::DeltaBwd step_args(const Bwd& a) { return {step_args(a.in, a.packing, a.two), a.d_o.data_ptr(), floats(a.saved.states), floats(a.d_final_state), nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr}; }

void make_outputs(const Fwd& a) {
  const auto options = a.in.v.options().requires_grad(false);
  a.out->o = at::empty(a.in.v.sizes(), options);
  if (a.want_final_state) a.out->final_state = at::empty({a.packing.documents(), a.in.v.size(1), a.in.k.size(2), a.in.v.size(2)}, options.dtype(at::kFloat));
}
void make_outputs(const Bwd& a) {
  const auto same = [](const at::Tensor& t) { return t.defined() ? at::empty(t.sizes(), t.options().requires_grad(false)) : t; };
  *a.out = {same(a.in.q), same(a.in.k), same(a.in.v), same(a.in.g), same(a.in.beta), same(a.in.write), same(a.in.initial_state)};
}

Support supports_chunks(const Fwd& a, const Policy& p) {
  if (a.two) return {"gates have channels"};
  if (a.packing.max_q <= kFewTokens) return {"documents of at most 16 tokens: step by step is faster"};
  return kernels::supports_gdn_fwd_sm90(chunk_args(a.in, a.packing), p.device);
}
Support supports_chunks(const Bwd& a, const Policy& p) {
  if (a.two) return {"gates have channels"};
  kernels::GdnBwd k = chunk_args(a);
  if (asks_only(p)) k.states = k.inverses = any_address();
  else if (!a.saved.inverses.defined()) return {"the forward ran on another candidate"};
  return kernels::supports_gdn_bwd_sm90(k, p.device);
}
Support supports_steps(const Fwd& a, const Policy& p) { return kernels::supports_delta_fwd_sm90({step_args(a.in, a.packing, a.two), nullptr, nullptr, nullptr, nullptr}, p.device); }
Support supports_steps(const Bwd& a, const Policy& p) {
  kernels::DeltaBwd k = step_args(a);
  if (asks_only(p)) k.states = static_cast<float*>(any_address());
  else if (a.saved.inverses.defined() || !a.saved.states.defined()) return {"the forward ran on another candidate"};
  return kernels::supports_delta_bwd_sm90(k, p.device);
}
void run_chunks(const Fwd& a, const Launch& launch) {
  make_outputs(a);
  const DeltaInputs in = contiguous(a.in);
  kernels::GdnFwd k = chunk_args(in, a.packing);
  if (a.saved != nullptr) {
    const auto bf16 = in.v.options().dtype(at::kBFloat16).requires_grad(false);
    const int64_t slots = kernels::gdn_state_slots(k.tokens, k.documents);
    a.saved->states = at::empty({slots, k.value_heads, k.value_dim, k.key_dim}, bf16), a.saved->inverses = at::empty({slots, k.value_heads, kernels::kGdnChunk, kernels::kGdnChunk}, bf16);
    k.states = address(a.saved->states), k.inverses = address(a.saved->inverses);
  }
  k.o = a.out->o.data_ptr(), k.final_state = floats(a.out->final_state);
  kernels::gdn_fwd_sm90(k, launch);
}
void run_chunks(const Bwd& a, const Launch& launch) {
  make_outputs(a);
  const DeltaInputs in = contiguous(a.in);
  const DeltaGrads& d = *a.out;
  kernels::GdnBwd k = chunk_args({a.d_o, in, a.d_final_state, a.saved, a.packing, a.two, a.out});
  k.dq = d.dq.data_ptr(), k.dk = d.dk.data_ptr(), k.dv = d.dv.data_ptr(), k.dg = floats(d.dg), k.d_beta = floats(d.d_beta), k.d_initial_state = floats(d.d_initial_state);
  kernels::gdn_bwd_sm90(k, launch);
}
void run_steps(const Fwd& a, const Launch& launch) {
  make_outputs(a);
  const DeltaInputs in = contiguous(a.in);
  const kernels::DeltaInputs k = step_args(in, a.packing, a.two);
  if (a.saved != nullptr) a.saved->states = at::empty({kernels::delta_state_slots(k.tokens, k.documents), k.value_heads, k.key_dim, k.value_dim}, in.g.options().requires_grad(false));
  kernels::delta_fwd_sm90({k, floats(in.initial_state), a.out->o.data_ptr(), a.saved != nullptr ? floats(a.saved->states) : nullptr, floats(a.out->final_state)}, launch);
}
void run_steps(const Bwd& a, const Launch& launch) {
  make_outputs(a);
  const DeltaInputs in = contiguous(a.in);
  const DeltaGrads& d = *a.out;
  kernels::DeltaBwd k = step_args({a.d_o, in, a.d_final_state, a.saved, a.packing, a.two, a.out});
  k.dq = d.dq.data_ptr(), k.dk = d.dk.data_ptr(), k.dv = d.dv.data_ptr(), k.dg = floats(d.dg), k.db = floats(d.d_beta), k.dw = floats(d.d_write), k.d_initial_state = floats(d.d_initial_state);
  kernels::delta_bwd_sm90(k, launch);
}
#endif

constexpr Candidate<Fwd> kFwd[] = {
#ifdef WEFT_CUDA
    {"sm90", [](const Fwd& a, const Policy& p) { return supports_chunks(a, p); }, nullptr, [](const Fwd& a, const Launch& l) { run_chunks(a, l); }},
    {"sm90_steps", [](const Fwd& a, const Policy& p) { return supports_steps(a, p); }, nullptr, [](const Fwd& a, const Launch& l) { run_steps(a, l); }},
#endif
    kAten<Fwd>};
constexpr Candidate<Bwd> kBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", [](const Bwd& a, const Policy& p) { return supports_chunks(a, p); }, [](const Bwd& a) { return kernels::workspace_gdn_bwd_sm90(chunk_args(a)); },
     [](const Bwd& a, const Launch& l) { run_chunks(a, l); }},
    {"sm90_steps", [](const Bwd& a, const Policy& p) { return supports_steps(a, p); }, [](const Bwd& a) { return kernels::workspace_delta_bwd_sm90(step_args(a)); },
     [](const Bwd& a, const Launch& l) { run_steps(a, l); }},
#endif
    kAten<Bwd>};

struct DeltaNode final : Node {
  SavedTensor q, k, v, g, beta, write, initial;
  double scale = 1;
  bool two = false;
  Saved saved;
  Packing packing;

  variable_list apply(variable_list&& grads) override {
    const DeltaInputs in{unpack(q), unpack(k), unpack(v), unpack(g), unpack(beta), unpack(write), unpack(initial), scale};
    const at::Tensor d_o = grads[0].defined() ? grads[0].contiguous() : at::zeros(in.v.sizes(), in.v.options());
    const at::Tensor d_final = grads.size() > 1 && grads[1].defined() ? grads[1].contiguous() : at::Tensor();
    DeltaGrads d;
    run_chosen<Bwd>(two ? "gated_delta2_bwd" : "gated_delta_bwd", kBwd, {d_o, in, d_final, saved, packing, two, &d}, policy);
    return {d.dq, d.dk, d.dv, d.dg, d.d_beta, d.d_write, d.d_initial_state};
  }
};

void check(const char* op, const DeltaInputs& in, const Packing& packing, bool two) {
  const int64_t T = packing.tokens();
  check_shape(in.k.dim() == 3 && in.v.dim() == 3 && in.k.size(0) == T && in.v.size(0) == T, op, "k, v", describe(in.k) + ", " + describe(in.v), "[" + std::to_string(T) + ", heads, dim]");
  check_shape(in.q.sizes() == in.k.sizes() && in.q.scalar_type() == in.v.scalar_type() && in.k.scalar_type() == in.v.scalar_type(), op, "q, k", describe(in.q) + ", " + describe(in.k), "one shape, v's dtype");
  const int64_t Hk = in.k.size(1), Hv = in.v.size(1);
  check_shape(Hk > 0 && Hv % Hk == 0 && (!two || Hk == Hv), op, "heads of v over heads of k", std::to_string(Hv) + " over " + std::to_string(Hk), two ? "equal" : "a whole number");
  const std::vector<int64_t> gate = two ? std::vector<int64_t>{T, Hv, in.k.size(2)} : std::vector<int64_t>{T, Hv};
  check_shape(in.g.sizes() == gate && in.beta.sizes() == gate && in.g.scalar_type() == wide(in.v) && in.beta.scalar_type() == wide(in.v), op, "gates", describe(in.g) + ", " + describe(in.beta), two ? "k's shape, f32" : "[tokens, heads of v] f32");
  check_shape(in.write.defined() == two && (!two || in.write.sizes() == in.v.sizes()), op, "write gate", describe(in.write), two ? "v's shape" : "none");
  if (in.initial_state.defined()) {
    const std::vector<int64_t> state{packing.documents(), Hv, in.k.size(2), in.v.size(2)};
    check_shape(in.initial_state.sizes() == state && in.initial_state.scalar_type() == wide(in.v), op, "initial state", describe(in.initial_state), "[documents, heads, Dk, Dv] f32");
  }
}

DeltaOut run_delta(const char* op, const DeltaInputs& in, const Packing& packing, bool want_final_state, bool two, const Policy& policy) {
  check(op, in, packing, two);
  auto node = make_node<DeltaNode>(policy, {in.q, in.k, in.v, in.g, in.beta, in.write, in.initial_state}, false);
  DeltaOut out;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    run_chosen<Fwd>(op, kFwd, {in, packing, want_final_state, two, node ? &node->saved : nullptr, &out}, policy);
  }
  if (node) {
    node->q = save(in.q), node->k = save(in.k), node->v = save(in.v), node->g = save(in.g), node->beta = save(in.beta), node->write = save(in.write);
    node->initial = save(in.initial_state), node->scale = in.scale, node->two = two, node->packing = packing;
    out.o = attach(node, out.o);
    if (want_final_state) out.final_state = attach(node, out.final_state);
  }
  return out;
}

}  // namespace

DeltaOut gated_delta(const DeltaInputs& in, const Packing& packing, bool want_final_state, const Policy& policy) {
  return run_delta("gated_delta", in, packing, want_final_state, false, policy);
}

DeltaOut gated_delta2(const DeltaInputs& in, const Packing& packing, bool want_final_state, const Policy& policy) {
  return run_delta("gated_delta2", in, packing, want_final_state, true, policy);
}

DeltaOut gated_delta_product(const DeltaInputs& in, const Packing& packing, bool want_final_state, const Policy& policy) {
  const char* op = "gated_delta_product";
  check_shape(in.k.dim() == 4 && in.v.dim() == 4 && in.beta.dim() == 3, op, "k, v, beta", describe(in.k) + ", " + describe(in.v) + ", " + describe(in.beta), "[tokens, steps, heads, dim], beta without dim");
  const int64_t steps = in.k.size(1), T = packing.tokens();
  check_shape(steps > 0 && in.q.dim() == 3 && in.q.size(0) == T && in.g.dim() == 2 && in.g.size(0) == T, op, "q, g", describe(in.q) + ", " + describe(in.g), std::to_string(T) + " tokens");
  std::vector<int32_t> lengths;
  for (int64_t d = 0; d < packing.documents(); ++d) lengths.push_back(static_cast<int32_t>(steps) * (packing.host_cu_q[d + 1] - packing.host_cu_q[d]));
  // The stream of all steps: a token's decay stands at its first step, its query at its last.
  const auto at_step = [&](const at::Tensor& x, int64_t step) {
    std::vector<int64_t> rest = x.sizes().vec();
    rest.insert(rest.begin() + 1, 0);
    const auto zeros = [&](int64_t n) { rest[1] = n; return at::zeros(rest, x.options().requires_grad(false)); };
    return at::cat({zeros(step), x.unsqueeze(1), zeros(steps - 1 - step)}, 1).flatten(0, 1);
  };
  const DeltaInputs all{at_step(in.q, steps - 1), in.k.flatten(0, 1), in.v.flatten(0, 1), at_step(in.g, 0), in.beta.flatten(0, 1), {}, in.initial_state, in.scale};
  DeltaOut out = gated_delta(all, Packing::of(lengths, in.k.device()), want_final_state, policy);
  out.o = out.o.view({T, steps, out.o.size(1), out.o.size(2)}).select(1, steps - 1);
  return out;
}

}  // namespace weft::ops
