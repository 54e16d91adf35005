#include "ops/aten.h"

#include "ops/ssd.h"

#include "kernels/ssd/ssd_general.h"
#include "ops/node.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace {

using kernels::SsdBwd;
using kernels::SsdFwd;
using kernels::SsdStep;

constexpr Candidate<SsdFwd> kFwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_ssd_fwd_sm90>, nullptr, kernels::ssd_fwd_sm90},
    {"general", on_device<kernels::supports_ssd_fwd_general_sm90>, nullptr, kernels::ssd_fwd_general_sm90},
#endif
    {"cpu", on_device<kernels::supports_ssd_fwd_cpu>, nullptr, kernels::ssd_fwd_cpu},
};
constexpr Candidate<SsdBwd> kBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_ssd_bwd_sm90>, kernels::workspace_ssd_bwd_sm90, kernels::ssd_bwd_sm90},
    {"general", on_device<kernels::supports_ssd_bwd_general_sm90>, kernels::workspace_ssd_bwd_general_sm90, kernels::ssd_bwd_general_sm90},
#endif
    {"cpu", on_device<kernels::supports_ssd_bwd_cpu>, kernels::workspace_ssd_bwd_cpu, kernels::ssd_bwd_cpu},
};
constexpr Candidate<SsdStep> kStep[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_ssd_step_sm90>, nullptr, kernels::ssd_step_sm90},
    {"general", on_device<kernels::supports_ssd_step_general_sm90>, nullptr, kernels::ssd_step_general_sm90},
#endif
    {"cpu", on_device<kernels::supports_ssd_step_cpu>, nullptr, kernels::ssd_step_cpu},
};

int32_t i32(int64_t n) { return static_cast<int32_t>(n); }

at::Tensor rows(const at::Tensor& x) {  // inner dims contiguous, tokens maybe apart
  const bool ok = (x.size(2) <= 1 || x.stride(2) == 1) && (x.size(1) <= 1 || x.stride(1) == x.size(2));
  return ok ? x : x.contiguous();
}
SsdInputs plain(const SsdInputs& in) {
  const auto flat = [](const at::Tensor& t) { return t.defined() ? t.contiguous() : t; };
  return {rows(in.x_THP), flat(in.dt_TH), flat(in.A_H), rows(in.B_TGN), rows(in.C_TGN), flat(in.D_H), flat(in.initial_state_nHPN)};
}

struct SsdNode final : Node {
  SavedTensor x, dt, A, B, C, D, initial;
  SsdSaved saved;
  Packing packing;

  variable_list apply(variable_list&& grads) override {
    const SsdInputs in{unpack(x), unpack(dt), unpack(A), unpack(B), unpack(C), unpack(D), unpack(initial)};
    const at::Tensor dy = grads[0].defined() ? grads[0] : at::zeros(in.x_THP.sizes(), in.x_THP.options());
    const SsdGrads g = ssd_bwd(dy, in, saved, grads.size() > 1 ? grads[1] : at::Tensor(), packing, policy);
    return {g.dx, g.d_dt, g.dA, g.dB, g.dC, g.dD, g.d_initial_state};
  }
};

}  // namespace

void check_ssd(const char* op, const SsdInputs& in, int64_t tokens) {
  const auto shape = [](std::initializer_list<int64_t> dims) {
    std::string s = "[";
    for (int64_t d : dims) s += (s.size() > 1 ? ", " : "") + std::to_string(d);
    return s + "]";
  };
  check_shape(in.x_THP.dim() == 3 && in.x_THP.size(0) == tokens, op, "x", describe(in.x_THP), shape({tokens}) + " and two more dims");
  const int64_t H = in.x_THP.size(1), P = in.x_THP.size(2);
  check_shape(in.B_TGN.dim() == 3 && in.B_TGN.size(0) == tokens && in.B_TGN.size(1) > 0 && H % in.B_TGN.size(1) == 0, op, "B", describe(in.B_TGN), "tokens, groups that divide " + std::to_string(H) + " heads, states");
  check_shape(in.C_TGN.sizes() == in.B_TGN.sizes(), op, "C", describe(in.C_TGN), describe(in.B_TGN));
  check_shape(in.B_TGN.scalar_type() == in.x_THP.scalar_type() && in.C_TGN.scalar_type() == in.x_THP.scalar_type(), op, "dtypes of B, C", describe(in.B_TGN) + ", " + describe(in.C_TGN), name(dtype_of(in.x_THP)));
  check_shape(in.dt_TH.dim() == 2 && in.dt_TH.size(0) == tokens && in.dt_TH.size(1) == H && in.dt_TH.scalar_type() == wide(in.x_THP), op, "dt", describe(in.dt_TH), shape({tokens, H}) + " f32");
  check_shape(in.A_H.dim() == 1 && in.A_H.size(0) == H && in.A_H.scalar_type() == wide(in.x_THP), op, "A", describe(in.A_H), shape({H}) + " f32");
  if (in.D_H.defined()) check_shape(in.D_H.dim() == 1 && in.D_H.size(0) == H && in.D_H.scalar_type() == wide(in.x_THP), op, "D", describe(in.D_H), shape({H}) + " f32");
  const at::Tensor& s = in.initial_state_nHPN;
  if (s.defined()) check_shape(s.dim() == 4 && s.size(1) == H && s.size(2) == P && s.size(3) == in.B_TGN.size(2) && s.scalar_type() == wide(in.x_THP), op, "initial state", describe(s), "documents and " + shape({H, P, in.B_TGN.size(2)}) + " f32");
}

SsdOut ssd_fwd(const SsdInputs& any, const Packing& packing, bool want_final_state, SsdSaved* saved, const Policy& policy) {
  const SsdInputs in = plain(any);
  const int64_t T = in.x_THP.size(0), H = in.x_THP.size(1), P = in.x_THP.size(2), G = in.B_TGN.size(1), N = in.B_TGN.size(2);
  SsdFwd a{in.x_THP.data_ptr(), floats(in.dt_TH), floats(in.A_H), in.B_TGN.data_ptr(), in.C_TGN.data_ptr(), floats(in.D_H), packing.cu_q.data_ptr<int32_t>(),
           floats(in.initial_state_nHPN), nullptr, nullptr, nullptr, T, packing.documents(), in.x_THP.stride(0), in.B_TGN.stride(0), in.C_TGN.stride(0),
           i32(H), i32(G), i32(P), i32(N), dtype_of(in.x_THP)};
  const auto* c = select<SsdFwd>("ssd", kFwd, a, policy);
  if (c == nullptr) return reference::ssd_fwd(in, packing, want_final_state);
  const auto options = in.x_THP.options().requires_grad(false);
  SsdOut out{at::empty({T, H, P}, options), {}};
  if (want_final_state) out.final_state_nHPN = at::empty({packing.documents(), H, P, N}, options.dtype(at::kFloat));
  if (saved != nullptr && in.x_THP.is_cuda()) {  // the CPU recomputes them
    saved->states = at::empty({kernels::ssd_state_slots(T, packing.documents()), H, P, N}, options.dtype(at::kBFloat16));
    a.states = saved->states.data_ptr();
  }
  a.y = out.y_THP.data_ptr(), a.final_state = floats(out.final_state_nHPN);
  run(*c, a, in.x_THP);
  return out;
}

SsdGrads ssd_bwd(const at::Tensor& dy_any, const SsdInputs& any, const SsdSaved& saved, const at::Tensor& d_final, const Packing& packing, const Policy& policy) {
  const SsdInputs in = plain(any);
  const at::Tensor dy = dy_any.contiguous(), dlast = d_final.defined() ? d_final.contiguous() : d_final;
  const int64_t T = in.x_THP.size(0), H = in.x_THP.size(1), P = in.x_THP.size(2), G = in.B_TGN.size(1), N = in.B_TGN.size(2);
  SsdBwd a{dy.data_ptr(), in.x_THP.data_ptr(), floats(in.dt_TH), floats(in.A_H), in.B_TGN.data_ptr(), in.C_TGN.data_ptr(), floats(in.D_H), packing.cu_q.data_ptr<int32_t>(),
           asks_only(policy) ? any_address() : address(saved.states), floats(dlast), nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
           T, packing.documents(), in.x_THP.stride(0), in.B_TGN.stride(0), in.C_TGN.stride(0), i32(H), i32(G), i32(P), i32(N), dtype_of(in.x_THP), floats(in.initial_state_nHPN)};
  const auto* c = select<SsdBwd>("ssd_bwd", kBwd, a, policy);
  if (c == nullptr) return reference::ssd_bwd(dy, in, dlast, packing);
  const auto options = in.x_THP.options().requires_grad(false), f32 = options.dtype(at::kFloat);
  SsdGrads g{at::empty({T, H, P}, options), at::empty({T, H}, f32), at::zeros({H}, f32), at::empty({T, G, N}, options), at::empty({T, G, N}, options), {}, {}};
  if (in.D_H.defined()) g.dD = at::zeros({H}, f32);
  if (in.initial_state_nHPN.defined()) g.d_initial_state = at::empty(in.initial_state_nHPN.sizes(), f32);
  a.dx = g.dx.data_ptr(), a.d_dt = floats(g.d_dt), a.dA = floats(g.dA), a.dB = g.dB.data_ptr(), a.dC = g.dC.data_ptr();
  a.dD = floats(g.dD), a.d_initial_state = floats(g.d_initial_state);
  run(*c, a, in.x_THP);
  return g;
}

SsdOut ssd(const SsdInputs& in, const Packing& packing, bool want_final_state, const Policy& policy) {
  check_ssd("ssd", in, packing.tokens());
  if (in.initial_state_nHPN.defined()) check_shape(in.initial_state_nHPN.size(0) == packing.documents(), "ssd", "documents of the initial state", describe(in.initial_state_nHPN), std::to_string(packing.documents()));
  auto node = make_node<SsdNode>(policy, {in.x_THP, in.dt_TH, in.A_H, in.B_TGN, in.C_TGN, in.D_H, in.initial_state_nHPN}, false);
  SsdOut out;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    out = ssd_fwd(in, packing, want_final_state, node ? &node->saved : nullptr, policy);
  }
  if (node) {
    node->x = save(in.x_THP), node->dt = save(in.dt_TH), node->A = save(in.A_H), node->B = save(in.B_TGN), node->C = save(in.C_TGN);
    node->D = save(in.D_H), node->initial = save(in.initial_state_nHPN), node->packing = packing;
    out.y_THP = attach(node, out.y_THP);
    if (want_final_state) out.final_state_nHPN = attach(node, out.final_state_nHPN);
  }
  return out;
}

at::Tensor ssd_step(const SsdInputs& any, const at::Tensor& state, const at::Tensor& slots, const Policy& policy) {
  check_ssd("ssd_step", any, any.x_THP.size(0));
  const at::NoGradGuard no_grad;
  const SsdInputs in = plain(any);
  const int64_t R = in.x_THP.size(0), H = in.x_THP.size(1), P = in.x_THP.size(2), G = in.B_TGN.size(1), N = in.B_TGN.size(2);
  check_shape(state.dim() == 4 && state.size(1) == H && state.size(2) == P && state.size(3) == N && state.is_contiguous() && state.scalar_type() == wide(in.x_THP) && (slots.defined() || state.size(0) == R),
              "ssd_step", "state", describe(state), "[slots, " + std::to_string(H) + ", " + std::to_string(P) + ", " + std::to_string(N) + "] f32 contiguous");
  at::Tensor y = at::zeros({R, H, P}, in.x_THP.options());
  SsdStep a{in.x_THP.data_ptr(), floats(in.dt_TH), floats(in.A_H), in.B_TGN.data_ptr(), in.C_TGN.data_ptr(), floats(in.D_H), slots.defined() ? slots.data_ptr<int32_t>() : nullptr,
            floats(state), y.data_ptr(), R, in.x_THP.stride(0), in.B_TGN.stride(0), in.C_TGN.stride(0), i32(H), i32(G), i32(P), i32(N), dtype_of(in.x_THP)};
  const auto* c = select<SsdStep>("ssd_step", kStep, a, policy);
  if (c != nullptr) {
    run(*c, a, in.x_THP);
    return y;
  }
  const at::Tensor row = slots.defined() ? slots.to(at::kLong) : at::arange(R, in.x_THP.options().dtype(at::kLong));
  const at::Tensor live = at::nonzero(row >= 0).flatten(), at_slot = row.index_select(0, live);
  if (live.size(0) == 0) return y;
  const auto pick = [&](const at::Tensor& t) { return t.index_select(0, live); };
  const SsdInputs one{pick(in.x_THP), pick(in.dt_TH), in.A_H, pick(in.B_TGN), pick(in.C_TGN), in.D_H, state.index_select(0, at_slot)};
  const SsdOut out = reference::ssd_fwd(one, Packing::of(std::vector<int32_t>(static_cast<size_t>(live.size(0)), 1), y.device()), true, 1);
  y.index_copy_(0, live, out.y_THP), state.index_copy_(0, at_slot, out.final_state_nHPN);
  return y;
}

}  // namespace weft::ops
