#include "ops/aten.h"

#include "ops/adamw.h"

#include "kernels/adamw/adamw.h"
#include "kernels/grad_norm/grad_norm.h"
#include "ops/address.h"
#include "ops/run.h"

namespace weft::ops {
namespace reference {

void adamw(const AdamWUpdate& u) {
  if (u.remainder.defined() || u.stochastic) throw UnsupportedError("adamw: the reference has neither remainders nor stochastic rounding");
  if (u.skip.defined() && u.skip.item<int32_t>() != 0) return;
  const at::Tensor& home = u.master.defined() ? u.master : u.param;
  const auto t = wide(home);
  at::Tensor p = home.to(t), g = u.grad.to(t), m = u.exp_avg.to(t), v = u.exp_avg_sq.to(t);
  if (u.grad_scale.defined()) g = g * u.grad_scale.to(t);
  if (!u.decoupled) g = g + u.decay * p;
  m = u.beta1 * m + (1 - u.beta1) * g;
  v = u.beta2 * v + (1 - u.beta2) * g * g;
  const at::Tensor step = m / u.correction1 / ((v / u.correction2).sqrt() + u.eps);
  p = p - u.lr * (u.decoupled ? step + u.decay * p : step);
  u.exp_avg.copy_(m), u.exp_avg_sq.copy_(v), u.param.copy_(p);
  if (u.master.defined()) u.master.copy_(p);
}

}  // namespace reference

namespace {

constexpr Candidate<kernels::AdamW> kAdamW[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_adamw_sm90>, nullptr, kernels::adamw_sm90},
#endif
    {"cpu", on_device<kernels::supports_adamw_cpu>, nullptr, kernels::adamw_cpu},
};
constexpr Candidate<kernels::GradNorm> kNorm[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_grad_norm_sm90>,
     kernels::workspace_grad_norm_sm90, kernels::grad_norm_sm90},
#endif
    {"cpu", on_device<kernels::supports_grad_norm_cpu>,
     kernels::workspace_grad_norm_cpu, kernels::grad_norm_cpu},
};
constexpr Candidate<kernels::ClipFactor> kClip[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_clip_factor_sm90>, nullptr,
     kernels::clip_factor_sm90},
#endif
    {"cpu", on_device<kernels::supports_clip_factor_cpu>, nullptr,
     kernels::clip_factor_cpu},
};

template <class T>
T* pointer(const at::Tensor& t) { return t.defined() ? static_cast<T*>(t.data_ptr()) : nullptr; }

void check_flat(const char* op, const char* what, const at::Tensor& t, int64_t count) {
  check_shape(!t.defined() || (t.numel() == count && t.is_contiguous()), op, what, describe(t), "[" + std::to_string(count) + "] contiguous");
}

}  // namespace

void adamw(const AdamWUpdate& u, const Policy& policy) {
  const at::NoGradGuard no_grad;
  const int64_t n = u.param.numel();
  check_flat("adamw", "param", u.param, n), check_flat("adamw", "master", u.master, n), check_flat("adamw", "remainder", u.remainder, n);
  check_flat("adamw", "grad", u.grad, n), check_flat("adamw", "exp_avg", u.exp_avg, n), check_flat("adamw", "exp_avg_sq", u.exp_avg_sq, n);
  check_shape(u.exp_avg.scalar_type() == u.exp_avg_sq.scalar_type(), "adamw", "dtype of the moments", describe(u.exp_avg_sq), describe(u.exp_avg));
  kernels::AdamW a{};
  a.param = u.param.data_ptr(), a.master = u.master.defined() && u.master.scalar_type() == at::kFloat ? address_of<float>(u.master) : nullptr;
  a.remainder = pointer<uint16_t>(u.remainder), a.grad = u.grad.data_ptr();
  a.exp_avg = u.exp_avg.data_ptr(), a.exp_avg_sq = u.exp_avg_sq.data_ptr();
  a.grad_scale = pointer<float>(u.grad_scale), a.skip = pointer<int32_t>(u.skip);
  a.count = n, a.lr = static_cast<float>(u.lr), a.correction1 = static_cast<float>(u.correction1), a.correction2 = static_cast<float>(u.correction2);
  a.beta1 = static_cast<float>(u.beta1), a.beta2 = static_cast<float>(u.beta2), a.eps = static_cast<float>(u.eps), a.decay = static_cast<float>(u.decay);
  a.decoupled = u.decoupled, a.stochastic = u.stochastic, a.seed = u.seed, a.step = u.step, a.first_index = u.first_index;
  a.param_dtype = dtype_of(u.param), a.grad_dtype = dtype_of(u.grad), a.moment_dtype = dtype_of(u.exp_avg);
  const auto* c = select<kernels::AdamW>("adamw", kAdamW, a, policy);
  if (c == nullptr) return reference::adamw(u);
  run(*c, a, u.param);
}

GradNorm grad_norm(const std::vector<at::Tensor>& buffers, const Policy& policy) {
  const at::NoGradGuard no_grad;
  check_shape(!buffers.empty(), "grad_norm", "buffers", "none", "one or more");
  std::vector<kernels::GradSpan> spans;
  for (const at::Tensor& t : buffers) {
    check_shape(t.is_contiguous() && t.scalar_type() == buffers[0].scalar_type(), "grad_norm", "buffer", describe(t),
                std::string(name(dtype_of(buffers[0]))) + " contiguous");
    spans.push_back({t.data_ptr(), t.numel()});
  }
  GradNorm out{at::empty({1}, buffers[0].options().dtype(at::kDouble).requires_grad(false)),
               at::empty({1}, buffers[0].options().dtype(at::kInt).requires_grad(false))};
  const kernels::GradNorm a{spans.data(), static_cast<int32_t>(spans.size()), address_of<double>(out.sum_sq), address_of<int32_t>(out.non_finite),
                            false, dtype_of(buffers[0])};
  const auto* c = select<kernels::GradNorm>("grad_norm", kNorm, a, policy);
  if (c != nullptr) {
    run(*c, a, buffers[0]);
    return out;
  }
  out.sum_sq.zero_(), out.non_finite.zero_();
  for (const at::Tensor& t : buffers) {
    out.sum_sq += t.to(at::kDouble).square().sum();
    out.non_finite += t.isfinite().logical_not().sum().to(at::kInt);
  }
  return out;
}

ClipFactor clip_factor(const GradNorm& n, double max_norm, const Policy& policy) {
  const at::NoGradGuard no_grad;
  const auto f32 = n.sum_sq.options().dtype(at::kFloat);
  ClipFactor out{at::empty({1}, f32), at::empty({1}, f32), at::empty({1}, f32.dtype(at::kInt))};
  const kernels::ClipFactor a{address_of<double>(n.sum_sq), address_of<int32_t>(n.non_finite), max_norm, address_of<float>(out.norm),
                              address_of<float>(out.factor), address_of<int32_t>(out.skip)};
  const auto* c = select<kernels::ClipFactor>("clip_factor", kClip, a, policy);
  if (c != nullptr) {
    run(*c, a, out.norm);
    return out;
  }
  const at::Tensor norm = n.sum_sq.sqrt(), finite = norm.isfinite();
  const at::Tensor factor = max_norm > 0 ? (max_norm / (norm + 1e-6)).clamp_max(1) : at::ones_like(norm);
  out.norm.copy_(norm), out.factor.copy_(at::where(finite, factor, at::zeros_like(factor)));
  out.skip.copy_(finite.logical_not().logical_or(n.non_finite != 0));
  return out;
}

std::string first_non_finite(const at::Tensor& flat, const std::vector<NamedSpan>& spans, const Policy& policy) {
  for (const NamedSpan& s : spans) {
    if (s.count == 0) continue;
    const int32_t bad = grad_norm({flat.narrow(0, s.offset, s.count)}, policy).non_finite.item<int32_t>();
    if (bad > 0) return s.name + " (" + std::to_string(bad) + " of " + std::to_string(s.count) + " elements)";
  }
  return {};
}

}  // namespace weft::ops
