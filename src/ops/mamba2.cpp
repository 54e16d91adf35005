#include "ops/aten.h"

#include "ops/mamba2.h"

#include "ops/conv1d.h"
#include "ops/node.h"
#include "ops/ssd.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace {

const at::Tensor& value(const Weight* w) {
  static const at::Tensor none;
  return w == nullptr ? none : w->value;
}

struct Parts {  // of the projection's output: views
  at::Tensor z, conv_in, dt_raw;
  Parts(const at::Tensor& in, const Mamba2Shape& s)
      : z(in.narrow(1, 0, s.inner())), conv_in(in.narrow(1, s.inner(), s.channels())), dt_raw(in.narrow(1, s.inner() + s.channels(), s.heads)) {}
};

SsdInputs scan_inputs(const at::Tensor& conv_TC, const at::Tensor& dt_raw, const Mamba2Shape& s, const Mamba2Weights& w) {
  const int64_t T = conv_TC.size(0), bc = s.groups * s.state_dim;
  const auto type = wide(conv_TC);
  return {conv_TC.narrow(1, 0, s.inner()).view({T, s.heads, s.head_dim}),
          at::softplus(dt_raw.to(type) + w.dt_bias.value.to(type)),
          -w.A_log.value.to(type).exp(),
          conv_TC.narrow(1, s.inner(), bc).view({T, s.groups, s.state_dim}),
          conv_TC.narrow(1, s.inner() + bc, bc).view({T, s.groups, s.state_dim}),
          w.D == nullptr ? at::Tensor() : w.D->value.to(type), {}};
}

struct Mamba2Node final : Node {
  SavedTensor in;
  Mamba2Shape s{};
  Weight *conv_w = nullptr, *conv_b = nullptr, *A_log = nullptr, *dt_bias = nullptr, *D = nullptr;
  Packing packing;
  SsdSaved saved;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor in = unpack(this->in);
    const Parts parts(in, s);
    const Mamba2Weights w{*conv_w, conv_b, *A_log, *dt_bias, D};
    const ConvInputs conv{parts.conv_in, conv_w->value, value(conv_b), {}, true};
    const at::Tensor conv_TC = conv1d_fwd(conv, packing, false, policy).y_TC;
    const SsdInputs scan = scan_inputs(conv_TC, parts.dt_raw, s, w);
    const auto zeros = [&] { return at::zeros({in.size(0), s.inner()}, in.options()); };
    const at::Tensor dy = (grads[0].defined() ? grads[0] : zeros()).reshape({in.size(0), s.heads, s.head_dim});
    const SsdGrads g = ssd_bwd(dy, scan, saved, {}, packing, policy);
    at::Tensor d_in = at::empty_like(in);
    const Parts d(d_in, s);
    if (grads[1].defined()) d.z.copy_(grads[1]);
    else d.z.zero_();
    const at::Tensor d_conv = at::cat({g.dx.flatten(1), g.dB.flatten(1), g.dC.flatten(1)}, 1);
    const ConvGrads c = conv1d_bwd(d_conv, conv, {}, packing, d.conv_in, policy);
    const auto type = wide(in);
    const at::Tensor d_raw = g.d_dt * at::sigmoid(parts.dt_raw.to(type) + dt_bias->value.to(type));
    d.dt_raw.copy_(d_raw);
    conv_w->accumulate(c.dw);
    if (conv_b != nullptr) conv_b->accumulate(c.dbias);
    A_log->accumulate(g.dA * scan.A_H);  // dA / dA_log = -exp(A_log) = A
    dt_bias->accumulate(d_raw.sum(0));
    if (D != nullptr) D->accumulate(g.dD);
    return {d_in};
  }
};

void check(const char* op, const at::Tensor& in, const Mamba2Shape& s, const Mamba2Weights& w) {
  check_shape(in.dim() == 2 && in.size(1) == s.projected() && in.is_contiguous(), op, "input", describe(in), "[tokens, " + std::to_string(s.projected()) + "] contiguous");
  check_shape(w.conv_w.value.dim() == 2 && w.conv_w.value.size(0) == s.channels() && w.conv_w.value.scalar_type() == in.scalar_type(), op, "conv_w", describe(w.conv_w.value), "[" + std::to_string(s.channels()) + ", width] " + name(dtype_of(in)));
  for (const Weight* v : std::initializer_list<const Weight*>{&w.A_log, &w.dt_bias, w.D})
    if (v != nullptr) check_shape(v->value.dim() == 1 && v->value.size(0) == s.heads, op, "A_log, dt_bias, D", describe(v->value), "[" + std::to_string(s.heads) + "]");
}

}  // namespace

Mamba2Out mamba2(const at::Tensor& in, const Mamba2Shape& s, const Mamba2Weights& w, const Packing& packing, Mamba2State* state, const Policy& policy) {
  check("mamba2", in, s, w);
  check_shape(packing.tokens() == in.size(0), "mamba2", "tokens of the packing", std::to_string(packing.tokens()), std::to_string(in.size(0)));
  bool weights = w.conv_w.wants_grad() || w.A_log.wants_grad() || w.dt_bias.wants_grad();
  weights = weights || (w.conv_b != nullptr && w.conv_b->wants_grad()) || (w.D != nullptr && w.D->wants_grad());
  auto node = state == nullptr ? make_node<Mamba2Node>(policy, {in}, weights) : nullptr;
  Mamba2Out out;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    const Parts parts(in.detach(), s);
    const ConvOut conv = conv1d_fwd({parts.conv_in, w.conv_w.value, value(w.conv_b), state == nullptr ? at::Tensor() : state->conv_nCW, true}, packing, state != nullptr, policy);
    SsdInputs scan = scan_inputs(conv.y_TC, parts.dt_raw, s, w);
    if (state != nullptr) scan.initial_state_nHPN = state->ssm_nHPN;
    const SsdOut y = ssd_fwd(scan, packing, state != nullptr, node ? &node->saved : nullptr, policy);
    if (state != nullptr) state->conv_nCW = conv.final_state_nCW, state->ssm_nHPN = y.final_state_nHPN;
    out = {y.y_THP.view({in.size(0), s.inner()}), parts.z};
  }
  if (node) {
    node->in = save(in), node->s = s, node->packing = packing;
    node->conv_w = &w.conv_w, node->conv_b = w.conv_b, node->A_log = &w.A_log, node->dt_bias = &w.dt_bias, node->D = w.D;
    out.y_TI = attach(node, out.y_TI), out.z_TI = attach(node, out.z_TI);
  }
  return out;
}

Mamba2Out mamba2_step(const at::Tensor& in, const Mamba2Shape& s, const Mamba2Weights& w, const Mamba2State& pools, const at::Tensor& slots, const Policy& policy) {
  check("mamba2_step", in, s, w);
  const at::NoGradGuard no_grad;
  const Parts parts(in, s);
  const at::Tensor conv = causal_conv1d_step(parts.conv_in, w.conv_w, w.conv_b, true, pools.conv_nCW, slots, policy);
  const at::Tensor y = ssd_step(scan_inputs(conv, parts.dt_raw, s, w), pools.ssm_nHPN, slots, policy);
  return {y.view({in.size(0), s.inner()}), parts.z};
}

}  // namespace weft::ops
