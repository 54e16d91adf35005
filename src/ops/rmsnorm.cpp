#include "ops/aten.h"

#include "ops/rmsnorm.h"

#include "kernels/rmsnorm/rmsnorm.h"
#include "ops/node.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace reference {

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& w, double eps) {
  const at::Tensor v = x.to(wide(x));
  const at::Tensor rstd = (v.square().mean(-1, /*keepdim=*/true) + eps).rsqrt();
  return (v * rstd * w.to(wide(x))).to(x.scalar_type());
}

std::pair<at::Tensor, at::Tensor> rms_norm_bwd(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& w, double eps) {
  const at::Tensor v = x.to(wide(x)), g = dy.to(wide(x)), scale = w.to(wide(x));
  const at::Tensor rstd = (v.square().mean(-1, true) + eps).rsqrt();
  const at::Tensor gw = g * scale;
  const at::Tensor dx = rstd * gw - v * rstd.pow(3) * (gw * v).mean(-1, true);
  const at::Tensor dw = (g * v * rstd).reshape({-1, w.size(0)}).sum(0);
  return {dx.to(x.scalar_type()), dw};
}

}  // namespace reference

namespace {

using kernels::RmsNormBwd;
using kernels::RmsNormFwd;

constexpr Candidate<RmsNormFwd> kFwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_rms_norm_fwd_sm90>, nullptr, kernels::rms_norm_fwd_sm90},
#endif
    {"cpu", on_device<kernels::supports_rms_norm_fwd_cpu>, nullptr, kernels::rms_norm_fwd_cpu},
};
constexpr Candidate<RmsNormBwd> kBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_rms_norm_bwd_sm90>, kernels::workspace_rms_norm_bwd_sm90, kernels::rms_norm_bwd_sm90},
#endif
    {"cpu", on_device<kernels::supports_rms_norm_bwd_cpu>, kernels::workspace_rms_norm_bwd_cpu,
     kernels::rms_norm_bwd_cpu},
};

struct RmsNormNode final : Node {
  SavedTensor x, rstd;  // rstd undefined: the forward ran on the reference
  Weight* w = nullptr;
  double eps = 0;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor dy = grads[0].contiguous(), x = unpack(this->x), rstd = unpack(this->rstd);
    RmsNormBwd a{dy.data_ptr(), x.data_ptr(), w->value.data_ptr(), nullptr, nullptr, nullptr, x.numel() / x.size(-1),
                 static_cast<int32_t>(x.size(-1)), dtype_of(x)};
    const auto* c = select<RmsNormBwd>("rms_norm_bwd", kBwd, a, policy);
    if (c == nullptr) {
      auto [dx, dw] = reference::rms_norm_bwd(dy, x, w->value, eps);
      w->accumulate(dw);
      return {dx};
    }
    at::Tensor dx = at::empty_like(x);
    a.rstd = rstd.data_ptr<float>(), a.dx = dx.data_ptr();
    a.dw = w->wants_grad() ? w->main_grad.data_ptr<float>() : nullptr;
    run(*c, a, x);
    if (w->trainable) w->done();
    return {dx};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, Weight& w, double eps, const Policy& policy) {
  check_shape(x.dim() >= 1 && w.value.dim() == 1 && x.size(-1) == w.value.size(0), "rms_norm", "last dim of x", describe(x), describe(w.value));
  check_shape(x.scalar_type() == w.value.scalar_type(), "rms_norm", "dtype of w", describe(w.value), name(dtype_of(x)));
  check_shape(x.is_contiguous(), "rms_norm", "layout of x", describe(x), "contiguous");
  auto node = make_node<RmsNormNode>(policy, {x}, w.wants_grad());
  RmsNormFwd a{x.data_ptr(), w.value.data_ptr(), nullptr, nullptr, x.size(-1) == 0 ? 0 : x.numel() / x.size(-1),
               static_cast<int32_t>(x.size(-1)), static_cast<float>(eps), dtype_of(x)};
  const auto* c = select<RmsNormFwd>("rms_norm", kFwd, a, policy);
  at::Tensor y, rstd;
  if (c == nullptr) {
    at::AutoDispatchBelowADInplaceOrView below;
    y = reference::rms_norm(x, w.value, eps);
  } else {
    y = at::empty_like(x, x.options().requires_grad(false));
    if (node) rstd = at::empty({a.rows}, x.options().dtype(at::kFloat).requires_grad(false));
    a.y = y.data_ptr(), a.rstd = node ? rstd.data_ptr<float>() : nullptr;
    run(*c, a, x);
  }
  if (node) node->x = save(x), node->rstd = save(rstd), node->w = &w, node->eps = eps;
  return attach(node, y);
}

}  // namespace weft::ops
