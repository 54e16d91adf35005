#include "ops/aten.h"

#include "kernels/add_rmsnorm/add_rmsnorm.h"
#include "ops/node.h"
#include "ops/rmsnorm.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace {

using kernels::AddRmsNormBwd;
using kernels::AddRmsNormFwd;

constexpr Candidate<AddRmsNormFwd> kFwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_add_rms_norm_fwd_sm90>, nullptr, kernels::add_rms_norm_fwd_sm90},
#endif
    {"cpu", on_device<kernels::supports_add_rms_norm_fwd_cpu>, nullptr,
     kernels::add_rms_norm_fwd_cpu},
};
constexpr Candidate<AddRmsNormBwd> kBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_add_rms_norm_bwd_sm90>, kernels::workspace_add_rms_norm_bwd_sm90, kernels::add_rms_norm_bwd_sm90},
#endif
    {"cpu", on_device<kernels::supports_add_rms_norm_bwd_cpu>,
     kernels::workspace_add_rms_norm_bwd_cpu, kernels::add_rms_norm_bwd_cpu},
};

struct AddRmsNormNode final : Node {  // outputs: sum, normed
  SavedTensor sum, rstd;              // rstd undefined: the forward ran on the reference
  Weight* w = nullptr;
  double eps = 0;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor sum = unpack(this->sum), rstd = unpack(this->rstd);
    at::Tensor dsum = grads[0].defined() ? grads[0].contiguous() : at::Tensor();
    if (!grads[1].defined()) {  // the normed value went nowhere
      if (w->trainable) w->done();
      return {dsum, dsum};
    }
    const at::Tensor dy = grads[1].contiguous();
    AddRmsNormBwd a{dy.data_ptr(), dsum.defined() ? dsum.data_ptr() : nullptr, sum.data_ptr(), w->value.data_ptr(), nullptr, nullptr, nullptr,
                    sum.numel() / sum.size(-1), static_cast<int32_t>(sum.size(-1)), dtype_of(sum)};
    const auto* c = select<AddRmsNormBwd>("add_rms_norm_bwd", kBwd, a, policy);
    if (c == nullptr) {
      auto [dx, dw] = reference::rms_norm_bwd(dy, sum, w->value, eps);
      if (dsum.defined()) dx = (dx.to(wide(dx)) + dsum.to(wide(dx))).to(dx.scalar_type());
      w->accumulate(dw);
      return {dx, dx};
    }
    const at::Tensor dx = at::empty_like(sum);
    a.rstd = rstd.data_ptr<float>(), a.dx = dx.data_ptr();
    a.dw = w->wants_grad() ? w->main_grad.data_ptr<float>() : nullptr;
    run(*c, a, sum);
    if (w->trainable) w->done();
    return {dx, dx};
  }
};

}  // namespace

AddedNorm add_rms_norm(const at::Tensor& x, const at::Tensor& pending, Weight& w, double eps, const Policy& policy) {
  check_shape(x.dim() >= 1 && w.value.dim() == 1 && x.size(-1) == w.value.size(0) && x.size(-1) > 0, "add_rms_norm", "last dim of x", describe(x),
              describe(w.value));
  check_shape(x.sizes() == pending.sizes() && x.scalar_type() == pending.scalar_type(), "add_rms_norm", "pending", describe(pending), describe(x));
  check_shape(x.scalar_type() == w.value.scalar_type(), "add_rms_norm", "dtype of w", describe(w.value), name(dtype_of(x)));
  check_shape(x.is_contiguous(), "add_rms_norm", "layout of x", describe(x), "contiguous");
  check_shape(pending.is_contiguous(), "add_rms_norm", "layout of pending", describe(pending), "contiguous");
  auto node = make_node<AddRmsNormNode>(policy, {x, pending}, w.wants_grad());
  at::AutoDispatchBelowADInplaceOrView below;
  AddRmsNormFwd a{x.data_ptr(), pending.data_ptr(), w.value.data_ptr(), nullptr, nullptr, nullptr, x.numel() / x.size(-1),
                  static_cast<int32_t>(x.size(-1)), static_cast<float>(eps), dtype_of(x)};
  const auto* c = select<AddRmsNormFwd>("add_rms_norm", kFwd, a, policy);
  AddedNorm out;
  at::Tensor rstd;
  if (c == nullptr) {
    out.sum = (x.to(wide(x)) + pending.to(wide(x))).to(x.scalar_type());
    out.normed = reference::rms_norm(out.sum, w.value, eps);
  } else {
    out = {at::empty_like(x, x.options().requires_grad(false)), at::empty_like(x, x.options().requires_grad(false))};
    if (node) rstd = at::empty({a.rows}, x.options().dtype(at::kFloat).requires_grad(false));
    a.sum = out.sum.data_ptr(), a.y = out.normed.data_ptr(), a.rstd = node ? rstd.data_ptr<float>() : nullptr;
    run(*c, a, x);
  }
  // The alias breaks the circle node -> saved output -> node.
  if (node) node->sum = save(out.sum.detach()), node->rstd = save(rstd), node->w = &w, node->eps = eps;
  out.sum = attach(node, out.sum);
  out.normed = attach(node, out.normed);
  return out;
}

}  // namespace weft::ops
