#include "ops/aten.h"

#include "ops/layernorm.h"

#include "kernels/layernorm/layernorm.h"
#include "ops/node.h"
#include "ops/run.h"
#include "ops/tensors.h"

namespace weft::ops {
namespace reference {
namespace {

at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b, double eps) {
  const auto t = wide(x);
  const at::Tensor v = x.to(t), centred = v - v.mean(-1, true);
  const at::Tensor y = centred * (centred.square().mean(-1, true) + eps).rsqrt() * w.to(t);
  return (b.defined() ? y + b.to(t) : y).to(x.scalar_type());
}

struct LayerNormGrads {
  at::Tensor dx, dw, db;
};

LayerNormGrads layer_norm_bwd(const at::Tensor& dy, const at::Tensor& dsum, const at::Tensor& x, const at::Tensor& w, double eps) {
  const auto t = wide(x);
  const at::Tensor v = x.to(t), d = dy.to(t), centred = v - v.mean(-1, true);
  const at::Tensor rstd = (centred.square().mean(-1, true) + eps).rsqrt(), n = centred * rstd, g = d * w.to(t);
  at::Tensor dx = rstd * (g - g.mean(-1, true) - n * (g * n).mean(-1, true));
  if (dsum.defined()) dx = dx + dsum.to(t);
  return {dx.to(x.scalar_type()), (d * n).reshape({-1, w.size(0)}).sum(0), d.reshape({-1, w.size(0)}).sum(0)};
}

}  // namespace
}  // namespace reference

namespace {

using kernels::LayerNormBwd;
using kernels::LayerNormFwd;

constexpr Candidate<LayerNormFwd> kFwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_layer_norm_fwd_sm90>, nullptr,
     kernels::layer_norm_fwd_sm90},
#endif
    {"cpu", on_device<kernels::supports_layer_norm_fwd_cpu>, nullptr,
     kernels::layer_norm_fwd_cpu},
};
constexpr Candidate<LayerNormBwd> kBwd[] = {
#ifdef WEFT_CUDA
    {"sm90", on_device<kernels::supports_layer_norm_bwd_sm90>,
     kernels::workspace_layer_norm_bwd_sm90, kernels::layer_norm_bwd_sm90},
#endif
    {"cpu", on_device<kernels::supports_layer_norm_bwd_cpu>,
     kernels::workspace_layer_norm_bwd_cpu, kernels::layer_norm_bwd_cpu},
};

struct LayerNormNode final : Node {  // outputs: normed alone, or sum and normed
  SavedTensor v, mean, rstd;         // mean undefined: the forward ran on the reference
  Weight *w = nullptr, *b = nullptr;
  double eps = 0;
  bool added = false;

  void finish(Weight* weight) {
    if (weight != nullptr && weight->trainable) weight->done();
  }

  variable_list apply(variable_list&& grads) override {
    const at::Tensor v = unpack(this->v), mean = unpack(this->mean), rstd = unpack(this->rstd);
    const at::Tensor dsum = added && grads[0].defined() ? grads[0].contiguous() : at::Tensor();
    if (!grads[added ? 1 : 0].defined()) {  // the normed value went nowhere
      finish(w), finish(b);
      return {dsum, dsum};
    }
    const at::Tensor dy = grads[added ? 1 : 0].contiguous();
    LayerNormBwd a{dy.data_ptr(), dsum.defined() ? dsum.data_ptr() : nullptr, v.data_ptr(), w->value.data_ptr(), nullptr, nullptr, nullptr, nullptr,
                   nullptr, v.numel() / v.size(-1), static_cast<int32_t>(v.size(-1)), dtype_of(v)};
    const auto* c = select<LayerNormBwd>("layer_norm_bwd", kBwd, a, policy);
    if (c == nullptr) {
      const auto g = reference::layer_norm_bwd(dy, dsum, v, w->value, eps);
      w->accumulate(g.dw);
      if (b != nullptr) b->accumulate(g.db);
      return {g.dx, added ? g.dx : at::Tensor()};
    }
    const at::Tensor dx = at::empty_like(v);
    a.mean = mean.data_ptr<float>(), a.rstd = rstd.data_ptr<float>(), a.dx = dx.data_ptr();
    a.dw = w->wants_grad() ? w->main_grad.data_ptr<float>() : nullptr;
    a.db = b != nullptr && b->wants_grad() ? b->main_grad.data_ptr<float>() : nullptr;
    run(*c, a, v);
    finish(w), finish(b);
    return {dx, added ? dx : at::Tensor()};
  }
};

AddedNorm layer_norm_of(const char* op, const at::Tensor& x, const at::Tensor& pending, Weight& w, Weight* b, double eps, const Policy& policy) {
  check_shape(x.dim() >= 1 && w.value.dim() == 1 && x.size(-1) == w.value.size(0) && x.size(-1) > 0, op, "last dim of x", describe(x), describe(w.value));
  check_shape(x.scalar_type() == w.value.scalar_type(), op, "dtype of w", describe(w.value), name(dtype_of(x)));
  check_shape(b == nullptr || (b->value.sizes() == w.value.sizes() && b->value.scalar_type() == x.scalar_type()), op, "b",
              b == nullptr ? "none" : describe(b->value), describe(w.value));
  check_shape(x.is_contiguous(), op, "layout of x", describe(x), "contiguous");
  check_shape(!pending.defined() || (pending.sizes() == x.sizes() && pending.scalar_type() == x.scalar_type() && pending.is_contiguous()), op, "pending",
              describe(pending), describe(x) + " contiguous");
  auto node = make_node<LayerNormNode>(policy, {x, pending}, w.wants_grad() || (b != nullptr && b->wants_grad()));
  at::AutoDispatchBelowADInplaceOrView below;
  LayerNormFwd a{x.data_ptr(), pending.defined() ? pending.data_ptr() : nullptr, w.value.data_ptr(), b == nullptr ? nullptr : b->value.data_ptr(),
                 nullptr, nullptr, nullptr, nullptr, x.numel() / x.size(-1), static_cast<int32_t>(x.size(-1)), static_cast<float>(eps), dtype_of(x)};
  const auto* c = select<LayerNormFwd>(op, kFwd, a, policy);
  AddedNorm out;
  at::Tensor mean, rstd;
  if (c == nullptr) {
    if (pending.defined()) out.sum = (x.to(wide(x)) + pending.to(wide(x))).to(x.scalar_type());
    out.normed = reference::layer_norm(pending.defined() ? out.sum : x, w.value, b == nullptr ? at::Tensor() : b->value, eps);
  } else {
    const auto plain = x.options().requires_grad(false);
    out.normed = at::empty_like(x, plain);
    if (pending.defined()) out.sum = at::empty_like(x, plain), a.sum = out.sum.data_ptr();
    if (node) mean = at::empty({a.rows}, plain.dtype(at::kFloat)), rstd = at::empty({a.rows}, plain.dtype(at::kFloat));
    a.y = out.normed.data_ptr(), a.mean = node ? mean.data_ptr<float>() : nullptr, a.rstd = node ? rstd.data_ptr<float>() : nullptr;
    run(*c, a, x);
  }
  if (node) {
    // The alias breaks the circle node -> saved output -> node.
    node->v = save(pending.defined() ? out.sum.detach() : x), node->mean = save(mean), node->rstd = save(rstd);
    node->w = &w, node->b = b, node->eps = eps, node->added = pending.defined();
  }
  if (pending.defined()) out.sum = attach(node, out.sum);
  out.normed = attach(node, out.normed);
  return out;
}

}  // namespace

at::Tensor layer_norm(const at::Tensor& x, Weight& w, Weight* b, double eps, const Policy& policy) {
  return layer_norm_of("layer_norm", x, {}, w, b, eps, policy).normed;
}

AddedNorm add_layer_norm(const at::Tensor& x, const at::Tensor& pending, Weight& w, Weight* b, double eps, const Policy& policy) {
  check_shape(pending.defined(), "add_layer_norm", "pending", "undefined", describe(x));
  return layer_norm_of("add_layer_norm", x, pending, w, b, eps, policy);
}

}  // namespace weft::ops
