#include "ops/aten.h"

#include "ops/delta.h"

#include "ops/aten_candidate.h"
#include "ops/node.h"

namespace weft::ops {
namespace {

struct Fwd {
  const DeltaInputs& in;
  const Packing& packing;
  bool want_final_state, two;
  DeltaOut* out;
  const at::Tensor& like() const { return in.v; }
};
struct Bwd {
  const at::Tensor& d_o;
  const DeltaInputs& in;
  const at::Tensor& d_final_state;
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

constexpr Candidate<Fwd> kFwd[] = {kAten<Fwd>};
constexpr Candidate<Bwd> kBwd[] = {kAten<Bwd>};

struct DeltaNode final : Node {
  SavedTensor q, k, v, g, beta, write, initial;
  double scale = 1;
  bool two = false;
  Packing packing;

  variable_list apply(variable_list&& grads) override {
    const DeltaInputs in{unpack(q), unpack(k), unpack(v), unpack(g), unpack(beta), unpack(write), unpack(initial), scale};
    const at::Tensor d_o = grads[0].defined() ? grads[0] : at::zeros(in.v.sizes(), in.v.options());
    const at::Tensor d_final = grads.size() > 1 ? grads[1] : at::Tensor();
    DeltaGrads d;
    run_chosen<Bwd>(two ? "gated_delta2_bwd" : "gated_delta_bwd", kBwd, {d_o, in, d_final, packing, two, &d}, policy);
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
    run_chosen<Fwd>(op, kFwd, {in, packing, want_final_state, two, &out}, policy);
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
