#include "ops/aten.h"

#include "ops/activation.h"

#include <cmath>
#include <numbers>

#include "ops/node.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace reference {

std::pair<at::Tensor, at::Tensor> activation_and_slope(const at::Tensor& x, Act act) {
  switch (act) {
    case Act::kGeluExact: {
      const at::Tensor cdf = 0.5 * at::special_erfc(x * -std::numbers::sqrt2 / 2);
      return {x * cdf, cdf + x * at::exp(-0.5 * x * x) / std::sqrt(2 * std::numbers::pi)};
    }
    case Act::kGeluTanh: {
      const double root = std::sqrt(2 / std::numbers::pi);
      const at::Tensor t = at::tanh(root * (x + 0.044715 * x.pow(3)));
      return {0.5 * x * (1 + t), 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * root * (1 + 3 * 0.044715 * x * x)};
    }
    case Act::kQuickGelu: {
      const at::Tensor s = at::sigmoid(1.702 * x);
      return {x * s, s * (1 + 1.702 * x * (1 - s))};
    }
    case Act::kSilu: {
      const at::Tensor s = at::sigmoid(x);
      return {x * s, s * (1 + x * (1 - s))};
    }
    case Act::kRelu: return {at::relu(x), (x > 0).to(x.scalar_type())};
    case Act::kReluSquared: return {at::relu(x).square(), 2 * at::relu(x)};
  }
  throw InternalError("activation: unknown kind");
}

}  // namespace reference

namespace {

using kernels::ActBwd;
using kernels::ActFwd;
using kernels::GluBwd;
using kernels::GluFwd;

constexpr Candidate<ActFwd> kActFwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_act_fwd_sm90>, nullptr, kernels::act_fwd_sm90},
#endif
    {"cpu", on_device<kernels::supports_act_fwd_cpu>, nullptr, kernels::act_fwd_cpu},
};
constexpr Candidate<ActBwd> kActBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_act_bwd_sm90>, nullptr, kernels::act_bwd_sm90},
#endif
    {"cpu", on_device<kernels::supports_act_bwd_cpu>, nullptr, kernels::act_bwd_cpu},
};
constexpr Candidate<GluFwd> kGluFwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_glu_fwd_sm90>, nullptr, kernels::glu_fwd_sm90},
#endif
    {"cpu", on_device<kernels::supports_glu_fwd_cpu>, nullptr, kernels::glu_fwd_cpu},
};
constexpr Candidate<GluBwd> kGluBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_glu_bwd_sm90>, nullptr, kernels::glu_bwd_sm90},
#endif
    {"cpu", on_device<kernels::supports_glu_bwd_cpu>, nullptr, kernels::glu_bwd_cpu},
};

Act act_of(Glu kind) {
  switch (kind) {
    case Glu::kSwiglu: return Act::kSilu;
    case Glu::kQuickGeglu: return Act::kQuickGelu;
    case Glu::kGegluExact: return Act::kGeluExact;
    case Glu::kGegluTanh: return Act::kGeluTanh;
    case Glu::kReglu: return Act::kRelu;
  }
  throw InternalError("glu: unknown kind");
}

void check_prob(const char* op, const at::Tensor& prob, const at::Tensor& x, int64_t rows) {
  if (!prob.defined()) return;
  const bool dtype_ok = prob.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble;
  check_shape(prob.numel() == rows && dtype_ok && prob.is_contiguous(), op, "prob", describe(prob),
              "contiguous f32, one for each row of " + describe(x));
}

// prob as a column that broadcasts over the rows of a matrix in the accumulation dtype.
at::Tensor column(const at::Tensor& prob, const at::Tensor& like) {
  return prob.defined() ? prob.to(like.scalar_type()).reshape({-1, 1}) : at::ones({1, 1}, like.options());
}

struct ActNode final : Node {
  SavedTensor x, prob;
  Act kind{};

  variable_list apply(variable_list&& grads) override {
    const at::Tensor dy = grads[0].contiguous(), x = unpack(this->x), prob = unpack(this->prob);
    const int64_t cols = x.size(-1);
    const bool wants_dprob = prob.defined() && wants_gradient(1);
    at::Tensor dprob = wants_dprob ? at::empty_like(prob) : at::Tensor();
    ActBwd a{dy.data_ptr(), x.data_ptr(), floats(prob), nullptr, floats(dprob),
             x.numel() / cols, static_cast<int32_t>(cols), kind, dtype_of(x)};
    const auto* c = select<ActBwd>("activation_bwd", kActBwd, a, policy);
    if (c == nullptr) {
      const auto t = wide(x);
      const auto [value, slope] = reference::activation_and_slope(x.to(t).view({-1, cols}), kind);
      const at::Tensor g = dy.to(t).view({-1, cols});
      if (wants_dprob) dprob = (g * value).sum(-1).view(prob.sizes()).to(prob.scalar_type());
      return {(g * slope * column(prob, g)).view(x.sizes()).to(x.scalar_type()), dprob};
    }
    const at::Tensor dx = at::empty_like(x);
    a.dx = dx.data_ptr();
    run(*c, a, x);
    return {dx, dprob};
  }
};

struct GluNode final : Node {
  SavedTensor x, prob;
  Glu kind{};
  GluOptions options;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor dy = grads[0].contiguous(), x = unpack(this->x), prob = unpack(this->prob);
    const int64_t cols = x.size(-1) / 2, rows = x.numel() / x.size(-1);
    const bool wants_dprob = prob.defined() && wants_gradient(1);
    at::Tensor dprob = wants_dprob ? at::empty_like(prob) : at::Tensor();
    const size_t half = bytes(dtype_of(x), static_cast<size_t>(cols));
    char* gate = static_cast<char*>(x.data_ptr());
    GluBwd a{dy.data_ptr(), gate, gate + half, floats(prob), nullptr, nullptr,
             floats(dprob), rows, 2 * cols, 2 * cols,
             static_cast<int32_t>(cols), static_cast<float>(options.clamp), static_cast<float>(options.offset), kind, dtype_of(x)};
    const auto* c = select<GluBwd>("glu_bwd", kGluBwd, a, policy);
    if (c == nullptr) {
      const auto t = wide(x);
      const at::Tensor both = x.to(t).view({rows, 2, cols}), g0 = both.select(1, 0), u0 = both.select(1, 1), d = dy.to(t).view({rows, cols});
      const bool cut = options.clamp > 0;
      const at::Tensor g = cut ? g0.clamp_max(options.clamp) : g0, u = cut ? u0.clamp(-options.clamp, options.clamp) : u0;
      const auto [value, slope] = reference::activation_and_slope(g, act_of(kind));
      at::Tensor dg = d * column(prob, d) * slope * (u + options.offset), du = d * column(prob, d) * value;
      if (cut) dg = dg * (g0 <= options.clamp), du = du * (u0.abs() <= options.clamp);
      if (wants_dprob) dprob = (d * value * (u + options.offset)).sum(-1).view(prob.sizes()).to(prob.scalar_type());
      return {at::stack({dg, du}, 1).view(x.sizes()).to(x.scalar_type()), dprob};
    }
    const at::Tensor dx = at::empty_like(x);
    a.dgate = dx.data_ptr(), a.dup = static_cast<char*>(dx.data_ptr()) + half;
    run(*c, a, x);
    return {dx, dprob};
  }
};

}  // namespace

at::Tensor activation(const at::Tensor& x, Act kind, const Policy& policy, const at::Tensor& prob) {
  check_shape(x.dim() >= 1 && x.size(-1) > 0 && x.is_contiguous(), "activation", "x", describe(x), "[..., D] contiguous");
  const int64_t cols = x.size(-1), rows = x.numel() / cols;
  check_prob("activation", prob, x, rows);
  auto node = make_node<ActNode>(policy, {x, prob}, false);
  at::AutoDispatchBelowADInplaceOrView below;
  ActFwd a{x.data_ptr(), floats(prob), nullptr, rows, static_cast<int32_t>(cols), kind, dtype_of(x)};
  const auto* c = select<ActFwd>("activation", kActFwd, a, policy);
  at::Tensor y;
  if (c == nullptr) {
    const auto t = wide(x);
    const at::Tensor v = x.to(t).view({rows, cols});
    y = (reference::activation_and_slope(v, kind).first * column(prob, v)).view(x.sizes()).to(x.scalar_type());
  } else {
    y = at::empty_like(x, x.options().requires_grad(false));
    a.y = y.data_ptr();
    run(*c, a, x);
  }
  if (node) node->x = save(x), node->prob = save(prob), node->kind = kind;
  return attach(node, y);
}

at::Tensor glu(const at::Tensor& x, Glu kind, const GluOptions& options, const Policy& policy, const at::Tensor& prob) {
  check_shape(x.dim() >= 1 && x.size(-1) > 0 && x.size(-1) % 2 == 0 && x.is_contiguous(), "glu", "gate_up", describe(x), "[..., 2F] contiguous");
  const int64_t cols = x.size(-1) / 2, rows = x.numel() / x.size(-1);
  check_prob("glu", prob, x, rows);
  auto node = make_node<GluNode>(policy, {x, prob}, false);
  at::AutoDispatchBelowADInplaceOrView below;
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = cols;
  const char* gate = static_cast<const char*>(x.data_ptr());
  GluFwd a{gate, gate + bytes(dtype_of(x), static_cast<size_t>(cols)), floats(prob), nullptr, rows, 2 * cols, static_cast<int32_t>(cols),
           static_cast<float>(options.clamp), static_cast<float>(options.offset), kind, dtype_of(x)};
  const auto* c = select<GluFwd>("glu", kGluFwd, a, policy);
  at::Tensor y;
  if (c == nullptr) {
    const auto t = wide(x);
    const at::Tensor both = x.to(t).view({rows, 2, cols});
    at::Tensor g = both.select(1, 0), u = both.select(1, 1);
    if (options.clamp > 0) g = g.clamp_max(options.clamp), u = u.clamp(-options.clamp, options.clamp);
    y = (reference::activation_and_slope(g, act_of(kind)).first * (u + options.offset) * column(prob, g)).view(shape).to(x.scalar_type());
  } else {
    y = at::empty(shape, x.options().requires_grad(false));
    a.y = y.data_ptr();
    run(*c, a, x);
  }
  if (node) node->x = save(x), node->prob = save(prob), node->kind = kind, node->options = options;
  return attach(node, y);
}

}  // namespace weft::ops
