#include "ops/aten.h"

#include "ops/qk_norm.h"

#include <utility>

#include "kernels/qk_norm/qk_norm.h"
#include "ops/composed.h"
#include "ops/node.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace {

using kernels::QkNormBwd;
using kernels::QkNormFwd;

at::Tensor rstd_of(const at::Tensor& v, bool l2, double eps) { return ((l2 ? v.square().sum(-1, true) : v.square().mean(-1, true)) + eps).rsqrt(); }

at::Tensor expression(const at::Tensor& x, const at::Tensor& w, double eps) {
  const at::Tensor v = x.to(wide(x)), y = v * rstd_of(v, !w.defined(), eps);
  return (w.defined() ? y * w.to(y.scalar_type()) : y).to(x.scalar_type()).contiguous();
}

// (dx in x's dtype, dw in the accumulation dtype or undefined)
std::pair<at::Tensor, at::Tensor> expression_bwd(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& w, double eps) {
  const bool l2 = !w.defined();
  const at::Tensor v = x.to(wide(x)), g = dy.to(wide(x)), rstd = rstd_of(v, l2, eps), gw = l2 ? g : g * w.to(wide(x)), dot = gw * v;
  const at::Tensor dx = rstd * gw - v * rstd.pow(3) * (l2 ? dot.sum(-1, true) : dot.mean(-1, true));
  return {dx.to(x.scalar_type()).contiguous(), l2 ? at::Tensor() : (g * v * rstd).flatten(0, 1).sum(0)};
}

constexpr Candidate<QkNormFwd> kFwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_qk_norm_fwd_sm90>, nullptr, kernels::qk_norm_fwd_sm90},
#endif
    kAtenOnCpu<QkNormFwd>,
};
constexpr Candidate<QkNormBwd> kBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_qk_norm_bwd_sm90>, kernels::workspace_qk_norm_bwd_sm90,
     kernels::qk_norm_bwd_sm90},
#endif
    kAtenOnCpu<QkNormBwd>,
};

bool f32_beside(const at::Tensor& x, const Weight* w) { return w != nullptr && w->value.scalar_type() == at::kFloat && x.scalar_type() != at::kFloat; }

struct QkNormNode final : Node {
  SavedTensor x, rstd;
  Weight* w = nullptr;
  double eps = 0;

  variable_list apply(variable_list&& grads) override {
    const at::Tensor x = unpack(this->x);
    const at::Tensor dx = at::empty(x.sizes(), x.options());
    normed_heads_bwd(grads[0].contiguous(), x, w, eps, unpack(rstd), dx, policy);
    return {dx};
  }
};

}  // namespace

NormedHeads normed_heads(const at::Tensor& x, const Weight* w, double eps, bool backward_follows, const Policy& policy) {
  const int64_t T = x.size(0), H = x.size(1), d = x.size(2);
  QkNormFwd a{address(x), w != nullptr ? address(w->value) : nullptr, nullptr, nullptr, T, x.stride(0), H * d, static_cast<int32_t>(H), static_cast<int32_t>(d),
              static_cast<float>(eps), w == nullptr, dtype_of(x), f32_beside(x, w)};
  const auto* c = select<QkNormFwd>("qk_norm", kFwd, a, policy);
  if (composed(c)) return {expression(x, w != nullptr ? w->value : at::Tensor(), eps), {}};
  NormedHeads out{at::empty({T, H, d}, x.options().requires_grad(false)), {}};
  if (backward_follows) out.rstd_TH = at::empty({T, H}, x.options().dtype(at::kFloat).requires_grad(false)), a.rstd = floats(out.rstd_TH);
  a.y = address(out.y_THd);
  run(*c, a, x);
  return out;
}

void normed_heads_bwd(const at::Tensor& dy, const at::Tensor& x, Weight* w, double eps, const at::Tensor& rstd, const at::Tensor& dx, const Policy& policy) {
  const int64_t H = x.size(1), d = x.size(2);
  QkNormBwd a{address(dy), address(x), w != nullptr ? address(w->value) : nullptr, asks_only(policy) ? static_cast<float*>(any_address()) : floats(rstd), nullptr, nullptr,
              x.size(0), dy.stride(0), x.stride(0), dx.stride(0), static_cast<int32_t>(H), static_cast<int32_t>(d), w == nullptr, dtype_of(x), f32_beside(x, w)};
  const auto* c = select<QkNormBwd>("qk_norm_bwd", kBwd, a, policy);
  if (composed(c)) {
    auto [value, dw] = expression_bwd(dy, x, w != nullptr ? w->value : at::Tensor(), eps);
    dx.copy_(value);
    if (w != nullptr) w->accumulate(dw);
    return;
  }
  a.dx = address(dx);
  a.dw = w != nullptr && w->wants_grad() ? w->main_grad.data_ptr<float>() : nullptr;
  run(*c, a, x);
  if (w != nullptr && w->trainable) w->done();
}

at::Tensor qk_norm(const at::Tensor& x, Weight* w, double eps, const Policy& policy) {
  check_shape(x.dim() == 3 && x.size(2) > 0, "qk_norm", "x", describe(x), "[T, H, d]");
  const int64_t H = x.size(1), d = x.size(2);
  check_shape(x.stride(2) == 1 && (H <= 1 || x.stride(1) == d), "qk_norm", "layout of x", describe(x), "a token's heads contiguous");
  if (w != nullptr)
    check_shape(w->value.dim() == 1 && w->value.size(0) == d && (w->value.scalar_type() == x.scalar_type() || w->value.scalar_type() == at::kFloat), "qk_norm", "w",
                describe(w->value), "[" + std::to_string(d) + "] " + name(dtype_of(x)) + " or f32");
  auto node = make_node<QkNormNode>(policy, {x}, w != nullptr && w->wants_grad());
  const at::AutoDispatchBelowADInplaceOrView below;
  const NormedHeads out = normed_heads(x, w, eps, node != nullptr, policy);
  if (node) node->x = save(x), node->rstd = save(out.rstd_TH), node->w = w, node->eps = eps;
  return attach(node, out.y_THd);
}

}  // namespace weft::ops
