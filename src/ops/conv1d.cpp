// T tokens, C channels, W width, n tokens of one document.
#include "ops/aten.h"

#include "ops/conv1d.h"

#include "kernels/conv1d/conv1d.h"
#include "ops/node.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace reference {
namespace {

at::Tensor wide_or_none(const at::Tensor& t, at::ScalarType type) { return t.defined() ? t.to(type) : t; }

// [n + W - 1, C]: the state's columns, then the document's tokens, in the wide dtype.
at::Tensor padded(const ConvInputs& in, int64_t document, int64_t first, int64_t n) {
  const int64_t tail = in.w.size(1) - 1;
  const auto type = wide(in.x_TC);
  const at::Tensor before = in.initial_state_nCW.defined() ? in.initial_state_nCW[document].to(type).t()
                                                           : at::zeros({tail, in.x_TC.size(1)}, in.x_TC.options().dtype(type));
  return at::cat({before, in.x_TC.narrow(0, first, n).to(type)}, 0);
}

at::Tensor pre_activation(const at::Tensor& x_padded, const at::Tensor& w, const at::Tensor& bias, int64_t n) {
  at::Tensor a = at::zeros({n, x_padded.size(1)}, x_padded.options());
  for (int64_t j = 0; j < w.size(1); ++j) a = a + x_padded.narrow(0, j, n) * w.select(1, j);
  return bias.defined() ? a + bias : a;
}

}  // namespace

ConvOut conv1d_fwd(const ConvInputs& in, const Packing& packing, bool want_final_state) {
  const auto type = wide(in.x_TC);
  const at::Tensor w = in.w.to(type), bias = wide_or_none(in.bias, type);
  std::vector<at::Tensor> y, last;
  for (int64_t d = 0; d < packing.documents(); ++d) {
    const int64_t first = packing.host_cu_q[d], n = packing.host_cu_q[d + 1] - first;
    const at::Tensor x = padded(in, d, first, n);
    const at::Tensor a = pre_activation(x, w, bias, n);
    y.push_back(in.silu ? a * at::sigmoid(a) : a);
    last.push_back(x.narrow(0, n, w.size(1) - 1).t());
  }
  ConvOut out;
  out.y_TC = y.empty() ? at::empty_like(in.x_TC) : at::cat(y, 0).to(in.x_TC.scalar_type());
  if (want_final_state) out.final_state_nCW = at::stack(last).to(in.x_TC.scalar_type());
  return out;
}

ConvGrads conv1d_bwd(const at::Tensor& dy_TC, const ConvInputs& in, const at::Tensor& d_final, const Packing& packing) {
  const auto type = wide(in.x_TC);
  const at::Tensor w = in.w.to(type), bias = wide_or_none(in.bias, type);
  const int64_t W = w.size(1), C = w.size(0);
  ConvGrads g{at::zeros({in.x_TC.size(0), C}, in.x_TC.options().dtype(type)), at::zeros_like(w), at::zeros({C}, w.options()), {}};
  if (in.initial_state_nCW.defined()) g.d_initial_state_nCW = at::zeros(in.initial_state_nCW.sizes(), w.options());
  for (int64_t d = 0; d < packing.documents(); ++d) {
    const int64_t first = packing.host_cu_q[d], n = packing.host_cu_q[d + 1] - first;
    const at::Tensor x = padded(in, d, first, n);
    at::Tensor da = dy_TC.narrow(0, first, n).to(type);
    if (in.silu) {
      const at::Tensor a = pre_activation(x, w, bias, n), s = at::sigmoid(a);
      da = da * s * (1 + a * (1 - s));
    }
    at::Tensor dx = at::zeros_like(x);
    for (int64_t j = 0; j < W; ++j) {
      dx.narrow(0, j, n).add_(da * w.select(1, j));
      g.dw.select(1, j).add_((da * x.narrow(0, j, n)).sum(0));
    }
    if (d_final.defined()) dx.narrow(0, n, W - 1).add_(d_final[d].to(type).t());
    g.dbias.add_(da.sum(0));
    g.dx_TC.narrow(0, first, n).copy_(dx.narrow(0, W - 1, n));
    if (in.initial_state_nCW.defined()) g.d_initial_state_nCW[d].copy_(dx.narrow(0, 0, W - 1).t());
  }
  g.dx_TC = g.dx_TC.to(in.x_TC.scalar_type());
  if (g.d_initial_state_nCW.defined()) g.d_initial_state_nCW = g.d_initial_state_nCW.to(in.x_TC.scalar_type());
  if (!in.bias.defined()) g.dbias = at::Tensor();
  return g;
}

}  // namespace reference

namespace {

using kernels::Conv1dBwd;
using kernels::Conv1dFwd;
using kernels::Conv1dStep;

constexpr Candidate<Conv1dFwd> kFwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_conv1d_fwd_sm90>, nullptr, kernels::conv1d_fwd_sm90},
#endif
    {"cpu", on_device<kernels::supports_conv1d_fwd_cpu>, nullptr, kernels::conv1d_fwd_cpu},
};
constexpr Candidate<Conv1dBwd> kBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_conv1d_bwd_sm90>, kernels::workspace_conv1d_bwd_sm90, kernels::conv1d_bwd_sm90},
#endif
    {"cpu", on_device<kernels::supports_conv1d_bwd_cpu>, nullptr, kernels::conv1d_bwd_cpu},
};
constexpr Candidate<Conv1dStep> kStep[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_conv1d_step_sm90>, nullptr, kernels::conv1d_step_sm90},
#endif
    {"cpu", on_device<kernels::supports_conv1d_step_cpu>, nullptr, kernels::conv1d_step_cpu},
};

at::Tensor channels_contiguous(const at::Tensor& x) { return x.size(1) <= 1 || x.stride(1) == 1 ? x : x.contiguous(); }

struct ConvNode final : Node {
  SavedTensor x, initial;
  Weight *w = nullptr, *bias = nullptr;
  bool silu = true;
  Packing packing;

  variable_list apply(variable_list&& grads) override {
    const ConvInputs in{unpack(x), w->value, bias == nullptr ? at::Tensor() : bias->value, unpack(initial), silu};
    const at::Tensor dy = grads[0].defined() ? grads[0] : at::zeros(in.x_TC.sizes(), in.x_TC.options());
    const ConvGrads g = conv1d_bwd(dy, in, grads.size() > 1 ? grads[1] : at::Tensor(), packing, {}, policy);
    w->accumulate(g.dw);
    if (bias != nullptr) bias->accumulate(g.dbias);
    return {g.dx_TC, g.d_initial_state_nCW};
  }
};

void check(const char* op, const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias) {
  check_shape(x.dim() == 2 && w.dim() == 2 && x.size(1) == w.size(0) && w.size(1) >= 1, op, "channels of x", describe(x), describe(w));
  check_shape(w.scalar_type() == x.scalar_type(), op, "dtype of w", describe(w), name(dtype_of(x)));
  if (bias.defined()) check_shape(bias.dim() == 1 && bias.size(0) == x.size(1) && bias.scalar_type() == x.scalar_type(), op, "bias", describe(bias), "[" + std::to_string(x.size(1)) + "] " + name(dtype_of(x)));
}

void check_state(const char* op, const at::Tensor& state, int64_t rows, const at::Tensor& x, const at::Tensor& w) {
  check_shape(state.dim() == 3 && state.size(0) == rows && state.size(1) == w.size(0) && state.size(2) == w.size(1) - 1 && state.scalar_type() == x.scalar_type() && state.is_contiguous(),
              op, "state", describe(state), "[" + std::to_string(rows) + ", " + std::to_string(w.size(0)) + ", " + std::to_string(w.size(1) - 1) + "] " + name(dtype_of(x)));
}

}  // namespace

ConvOut conv1d_fwd(const ConvInputs& in_any, const Packing& packing, bool want_final_state, const Policy& policy) {
  ConvInputs in = in_any;
  in.x_TC = channels_contiguous(in.x_TC), in.w = in.w.contiguous();
  const int64_t T = in.x_TC.size(0), C = in.x_TC.size(1), W = in.w.size(1);
  Conv1dFwd a{in.x_TC.data_ptr(), in.w.data_ptr(), address(in.bias), packing.cu_q.data_ptr<int32_t>(), address(in.initial_state_nCW), nullptr, nullptr,
              T, in.x_TC.stride(0), C, static_cast<int32_t>(C), static_cast<int32_t>(W), static_cast<int32_t>(packing.documents()), in.silu, dtype_of(in.x_TC)};
  const auto* c = select<Conv1dFwd>("causal_conv1d", kFwd, a, policy);
  if (c == nullptr) return reference::conv1d_fwd(in, packing, want_final_state);
  const auto options = in.x_TC.options().requires_grad(false);
  ConvOut out{at::empty({T, C}, options), {}};
  if (want_final_state) out.final_state_nCW = at::empty({packing.documents(), C, W - 1}, options);
  a.y = out.y_TC.data_ptr(), a.final_state = want_final_state ? out.final_state_nCW.data_ptr() : nullptr;
  run(*c, a, in.x_TC);
  return out;
}

ConvGrads conv1d_bwd(const at::Tensor& dy_any, const ConvInputs& in_any, const at::Tensor& d_final, const Packing& packing, const at::Tensor& dx_into,
                     const Policy& policy) {
  ConvInputs in = in_any;
  in.x_TC = channels_contiguous(in.x_TC), in.w = in.w.contiguous();
  const at::Tensor dy = channels_contiguous(dy_any), dlast = d_final.defined() ? d_final.contiguous() : d_final;
  const int64_t T = in.x_TC.size(0), C = in.x_TC.size(1), W = in.w.size(1);
  Conv1dBwd a{dy.data_ptr(), in.x_TC.data_ptr(), in.w.data_ptr(), address(in.bias), packing.cu_q.data_ptr<int32_t>(), address(in.initial_state_nCW), address(dlast),
              nullptr, nullptr, nullptr, nullptr, T, dy.stride(0), in.x_TC.stride(0), C, static_cast<int32_t>(C), static_cast<int32_t>(W),
              static_cast<int32_t>(packing.documents()), in.silu, dtype_of(in.x_TC)};
  const auto* c = select<Conv1dBwd>("causal_conv1d_bwd", kBwd, a, policy);
  if (c == nullptr) {
    ConvGrads g = reference::conv1d_bwd(dy, in, dlast, packing);
    if (dx_into.defined()) dx_into.copy_(g.dx_TC), g.dx_TC = dx_into;
    return g;
  }
  const auto options = in.x_TC.options().requires_grad(false), f32 = options.dtype(at::kFloat);
  ConvGrads g{dx_into.defined() ? dx_into : at::empty({T, C}, options), at::zeros({C, W}, f32), {}, {}};
  if (in.bias.defined()) g.dbias = at::zeros({C}, f32), a.dbias = g.dbias.data_ptr<float>();
  if (in.initial_state_nCW.defined()) g.d_initial_state_nCW = at::empty({packing.documents(), C, W - 1}, options), a.dinitial_state = g.d_initial_state_nCW.data_ptr();
  a.dx = g.dx_TC.data_ptr(), a.dx_stride = g.dx_TC.stride(0), a.dw = g.dw.data_ptr<float>();
  run(*c, a, in.x_TC);
  return g;
}

ConvOut causal_conv1d(const at::Tensor& x, Weight& w, Weight* bias, bool silu, const Packing& packing, const at::Tensor& initial, bool want_final_state,
                      const Policy& policy) {
  const at::Tensor b = bias == nullptr ? at::Tensor() : bias->value;
  check("causal_conv1d", x, w.value, b);
  check_shape(packing.tokens() == x.size(0), "causal_conv1d", "tokens of the packing", std::to_string(packing.tokens()), std::to_string(x.size(0)));
  if (initial.defined()) check_state("causal_conv1d", initial, packing.documents(), x, w.value);
  auto node = make_node<ConvNode>(policy, {x, initial}, w.wants_grad() || (bias != nullptr && bias->wants_grad()));
  ConvOut out;
  {
    at::AutoDispatchBelowADInplaceOrView below;
    out = conv1d_fwd({x, w.value, b, initial, silu}, packing, want_final_state, policy);
  }
  if (node) {
    node->x = save(x), node->initial = save(initial), node->w = &w, node->bias = bias, node->silu = silu, node->packing = packing;
    out.y_TC = attach(node, out.y_TC);
    if (want_final_state) out.final_state_nCW = attach(node, out.final_state_nCW);
  }
  return out;
}

at::Tensor causal_conv1d_step(const at::Tensor& x_any, const Weight& w, const Weight* bias, bool silu, const at::Tensor& state, const at::Tensor& slots,
                              const Policy& policy) {
  const at::Tensor b = bias == nullptr ? at::Tensor() : bias->value;
  check("causal_conv1d_step", x_any, w.value, b);
  check_state("causal_conv1d_step", state, slots.defined() ? state.size(0) : x_any.size(0), x_any, w.value);
  const at::NoGradGuard no_grad;
  const at::Tensor x = channels_contiguous(x_any), weight = w.value.contiguous();
  at::Tensor y = at::empty({x.size(0), x.size(1)}, x.options().requires_grad(false));
  const Conv1dStep a{x.data_ptr(), weight.data_ptr(), address(b), slots.defined() ? slots.data_ptr<int32_t>() : nullptr, state.data_ptr(), y.data_ptr(),
                     x.size(0), x.stride(0), static_cast<int32_t>(x.size(1)), static_cast<int32_t>(weight.size(1)), silu, dtype_of(x)};
  const auto* c = select<Conv1dStep>("causal_conv1d_step", kStep, a, policy);
  if (c != nullptr) {
    run(*c, a, x);
    return y;
  }
  const at::Tensor rows = slots.defined() ? slots.to(at::kLong) : at::arange(x.size(0), x.options().dtype(at::kLong));
  const at::Tensor live = at::nonzero(rows >= 0).flatten(), at_slot = rows.index_select(0, live);
  const std::vector<int32_t> ones(static_cast<size_t>(live.size(0)), 1);
  const ConvOut out = reference::conv1d_fwd({x.index_select(0, live), weight, b, state.index_select(0, at_slot), silu}, Packing::of(ones, x.device()), true);
  y.zero_();
  if (live.size(0) > 0) y.index_copy_(0, live, out.y_TC), state.index_copy_(0, at_slot, out.final_state_nCW);
  return y;
}

}  // namespace weft::ops
